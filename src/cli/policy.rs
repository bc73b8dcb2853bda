//! `daypass policy`: for people who write policies.

mod bench;
mod check;
mod eval;
mod explain;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::policy::{Document, RegoVersion, Sources};

#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile, and name every mistake with its place
    Check(check::CheckArgs),
    /// Run the rules that begin with test_
    Test(test::TestArgs),
    /// Evaluate a query, with the result document of `opa eval`
    Eval(eval::EvalArgs),
    /// Tell how one request is decided, and why
    Explain(explain::ExplainArgs),
    /// Measure how long a decision takes
    Bench(bench::BenchArgs),
}

/// Exit status of `policy test` when tests fail, as `opa test`'s.
const TESTS_FAILED: u8 = 2;
/// Evaluation recurses: as much stack as the threads of the server have.
const STACK_BYTES: usize = 16 << 20;

pub fn run(args: PolicyArgs) -> ExitCode {
    let command = move || match args.command {
        Command::Check(args) => Ok(check::run(&args)),
        Command::Test(args) => test::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(command);
    let result = match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(anyhow::anyhow!("a panic: this is a bug of daypass")),
        Err(error) => Err(error.into()),
    };
    result.unwrap_or_else(|error| super::report(&error))
}

fn read_sources(paths: &[PathBuf], is_v0: bool) -> Result<Sources, crate::policy::LoadError> {
    let mut sources = Sources::read(paths)?;
    // As `daypass serve` does.
    sources.complete();
    if is_v0 {
        sources.modules.iter_mut().for_each(|module| module.version = RegoVersion::V0);
    }
    Ok(sources)
}

/// JSON or YAML by the file's name, `-` for standard input.
fn read_document(path: &Path) -> anyhow::Result<Document> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("standard input")?
    } else {
        std::fs::read_to_string(path).with_context(|| path.display().to_string())?
    };
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let document = if is_yaml { Document::from_yaml(&text) } else { Document::from_json(&text) };
    document.with_context(|| path.display().to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
}
