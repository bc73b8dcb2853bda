//! `daypass policy explain`: one request, and everything that leads to its decision, on one page.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::read_sources;
use crate::authz::{self, IdentitySource};
use crate::cli::output::{say, tell};
use crate::clock::Clock;
use crate::grant::Grant;
use crate::policy::{BuiltinErrors, DecisionPath, Document, Evaluator, Policy, Sources};
use crate::store::record::{ReadAt, Ttl, decode};

/// For grants in the file without an end: what they are given, and no more than any may have.
const DEFAULT_LEFT: Duration = Duration::from_secs(3600);
/// A grant in the file may end whenever it likes; it is not going to be stored.
const MAX_LEFT: Duration = Duration::from_secs(366 * 24 * 3600);
/// For the decision and for each rule that is shown.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// CheckRequest in protobuf's JSON form; `-` for standard input
    #[arg(long, value_name = "FILE")]
    check: PathBuf,
    /// A list of grants as in the key contract, each with its `id`
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
    /// Policies and data; may be repeated [default: the built-in policy]
    #[arg(long, short, value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// Rule that decides, as a path
    #[arg(long, default_value = "envoy/authz/allow", value_name = "PATH")]
    decision: String,
    /// Show the whole input document, too
    #[arg(long)]
    show_input: bool,
}

pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let request =
        authz::check_request(&read(&args.check)?).with_context(|| args.check.display().to_string())?;
    let grants = args.grants.as_deref().map(read_grants).transpose()?.unwrap_or_default();
    let mut sources =
        if args.policy.is_empty() { Sources::built_in() } else { read_sources(&args.policy, false)? };
    sources.set_config(json!({"health_paths": []}));
    let path = DecisionPath::new(&args.decision);
    let policy = Policy::compile(&sources, &path, LIMIT)?;
    let now = Clock::System.now();
    let explanation = authz::explain(&request, &IdentitySource::defaults(), &grants, &policy, now);
    tell(format_args!("{explanation}"));
    if let Some(input) = &explanation.input {
        print_rules(&sources, &path, input)?;
        if args.show_input {
            let input: Value = serde_json::from_str(&input.to_json()?)?;
            say!("input     {input:#}");
        }
    }
    Ok(if explanation.decision.is_allow() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The values of the rules beside the one that decides: what it most likely looked at.
fn print_rules(sources: &Sources, path: &DecisionPath, input: &Document) -> anyhow::Result<()> {
    let mut evaluator = Evaluator::new(sources, LIMIT, BuiltinErrors::Undefined)?;
    let mut title = "rules";
    for rule in evaluator.rules_beside(path) {
        let value = match evaluator.query(&rule, Some(input.clone())) {
            Ok(answers) => answers
                .into_iter()
                .next()
                .and_then(|answer| answer.expressions.into_iter().next())
                .map_or(Ok("undefined".to_owned()), |found| compact(&found.value)),
            Err(problem) => Ok(format!("fails: {problem}")),
        };
        say!("{title:<10}{rule} = {}", value?);
        title = "";
    }
    for line in evaluator.take_prints() {
        say!("{:<10}{line}", "print");
    }
    Ok(())
}

fn compact(value: &Document) -> anyhow::Result<String> {
    Ok(serde_json::from_str::<Value>(&value.to_json()?)?.to_string())
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("standard input");
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn read_grants(path: &Path) -> anyhow::Result<Vec<Arc<Grant>>> {
    let name = path.display();
    let json: Value = serde_json::from_str(&read(path)?).with_context(|| name.to_string())?;
    let items = json.as_array().ok_or_else(|| anyhow!("{name}: not a list of grants"))?;
    let now = Clock::System.now();
    let grant = |(index, item): (usize, &Value)| {
        let id = item["id"].as_str().ok_or_else(|| anyhow!("{name}: grant {} has no id", index + 1))?;
        let end = item["expires_at"].as_str().and_then(|end| end.parse::<jiff::Timestamp>().ok());
        let left = end.map_or(DEFAULT_LEFT, |end| {
            Duration::try_from(end.duration_since(now.wall)).unwrap_or_default().min(MAX_LEFT)
        });
        let read_at = ReadAt { sent: now, ttl: Ttl::Left(left) };
        decode(id, item.to_string().as_bytes(), read_at, MAX_LEFT)
            .map(Arc::new)
            .map_err(|refusal| anyhow!("{name}: {id} is no grant: {}", refusal.code()))
    };
    items.iter().enumerate().map(grant).collect()
}
