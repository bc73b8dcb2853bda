//! `daypass policy bench`: what one decision costs on this machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;

use super::{duration, read_document, read_sources};
use crate::cli::output::say;
use crate::policy::{DecisionPath, Document, EvalError, Policy, Sources};

/// Before anything is measured: caches and branch predictors settle.
const WARM_UP: u32 = 200;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Policies and data; may be repeated [default: the built-in policy]
    #[arg(long, short, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// The input document, JSON or YAML; `-` for standard input
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Rule that decides, as a path
    #[arg(long, default_value = "envoy/authz/allow", value_name = "PATH")]
    decision: String,
    /// How long to measure
    #[arg(long, default_value = "2s", value_parser = duration)]
    duration: Duration,
}

pub fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let sources = if args.data.is_empty() { Sources::built_in() } else { read_sources(&args.data, false)? };
    let input = args.input.as_deref().map(read_document).transpose()?.unwrap_or(Document::NULL);
    let began = Instant::now();
    let policy = Policy::compile(&sources, &DecisionPath::new(&args.decision), Duration::from_secs(1))?;
    say!("compiled in {:.1?}, revision {}", began.elapsed(), sources.digest());
    let began = Instant::now();
    policy.install();
    say!("an engine for a thread in {:.1?}", began.elapsed());
    let first = policy.decide(input.clone());
    match &first {
        Ok(ruling) => say!("decision: {:?}", ruling.outcome),
        Err(error) => say!("no decision: {error}"),
    }
    ensure!(!matches!(first, Err(EvalError::TimedOut)), "a decision took more than a second");
    for _ in 0..WARM_UP {
        let _ = std::hint::black_box(policy.decide(input.clone()));
    }
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < args.duration {
        let input = input.clone();
        let started = Instant::now();
        let _ = std::hint::black_box(policy.decide(input));
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
    let quantile = |part| at(part).copied().context("nothing was measured");
    say!(
        "{} decisions: p50 {:.2?}  p90 {:.2?}  p99 {:.2?}  max {:.2?}",
        times.len(),
        quantile(50)?,
        quantile(90)?,
        quantile(99)?,
        quantile(100)?
    );
    Ok(ExitCode::SUCCESS)
}
