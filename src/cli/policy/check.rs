//! `daypass policy check`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::read_sources;
use crate::cli::output::say;
use crate::config::parse_duration;
use crate::desk::admission::Admission;
use crate::entitlement::Limits;
use crate::policy::{self, LoadError};

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Policy files and directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Take the language as it was before OPA 1.0
    #[arg(long)]
    v0_compatible: bool,
    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,
    /// No entitlement may give more, as `max_grant_ttl` of the configuration
    #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "TTL")]
    max_grant_ttl: Duration,
}

/// No rule is evaluated.
const LIMIT: Duration = Duration::from_secs(10);

pub fn run(args: &CheckArgs) -> ExitCode {
    let (warnings, error) = match look(args) {
        Ok(warnings) => (warnings, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if let Some(error) = error {
        error.0.iter().for_each(|problem| eprintln!("error: {problem}"));
        return ExitCode::FAILURE;
    }
    if args.strict && !warnings.is_empty() {
        return ExitCode::FAILURE;
    }
    say!("good");
    ExitCode::SUCCESS
}

fn look(args: &CheckArgs) -> Result<Vec<policy::Problem>, LoadError> {
    let sources = read_sources(&args.paths, args.v0_compatible)?;
    let warnings = policy::check(&sources);
    let admission = Admission::compile(&sources, Limits { max_grant_ttl: args.max_grant_ttl }, LIMIT);
    let (warnings, _) = LoadError::both(warnings, admission)?;
    Ok(warnings)
}
