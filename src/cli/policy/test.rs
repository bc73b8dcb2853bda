//! `daypass policy test`, with the conventions of `opa test`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use regex::Regex;
use serde_json::{Value, json};

use super::{TESTS_FAILED, duration, read_sources};
use crate::cli::output::say;
use crate::desk::admission;
use crate::policy::{self, FileCoverage, TestOutcome, TestResult, TestRun};

#[expect(clippy::struct_excessive_bools, reason = "one per switch of the command line")]
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Policy files and directories, tests among them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tests whose whole name (data.package.test_name) matches
    #[arg(long, short, value_name = "REGEX")]
    run: Option<Regex>,
    /// Results as JSON
    #[arg(long)]
    json: bool,
    /// Which lines the tests reached
    #[arg(long, short)]
    coverage: bool,
    /// Name tests that pass, too
    #[arg(long, short)]
    verbose: bool,
    /// For each test
    #[arg(long, default_value = "5s", value_parser = duration)]
    timeout: Duration,
    /// Take the language as it was before OPA 1.0
    #[arg(long)]
    v0_compatible: bool,
}

pub fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let mut sources = read_sources(&args.paths, args.v0_compatible)?;
    if sources.has_package(&["daypass", "admission_test"]) || sources.data.get("daypass").is_some() {
        // Tests of entitlements are about what will be in force.
        admission::complete(&mut sources);
    }
    let wanted = |name: &str| args.run.as_ref().is_none_or(|pattern| pattern.is_match(name));
    let run = policy::run_tests(&sources, &wanted, args.timeout)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&as_json(&run, args.coverage)).context("results")?);
    } else {
        run.results.iter().for_each(|result| print_result(result, args.verbose));
        print_summary(&run.results);
        if args.coverage {
            print_coverage(&run.coverage);
        }
    }
    Ok(if run.results.iter().any(is_failure) { ExitCode::from(TESTS_FAILED) } else { ExitCode::SUCCESS })
}

fn is_failure(result: &TestResult) -> bool {
    matches!(result.outcome, TestOutcome::Failed { .. } | TestOutcome::Errored(_))
}

fn print_result(result: &TestResult, is_verbose: bool) {
    let word = match &result.outcome {
        TestOutcome::Passed if !is_verbose && result.prints.is_empty() => return,
        TestOutcome::Passed => "PASS",
        TestOutcome::Failed { .. } => "FAIL",
        TestOutcome::Errored(_) => "ERROR",
        TestOutcome::Skipped => "SKIPPED",
    };
    say!("{}:{}: {}: {word} ({:?})", result.file, result.line, result.full_name(), result.duration);
    match &result.outcome {
        TestOutcome::Failed { cases } => cases.iter().for_each(|case| say!("  case {case} is not true")),
        TestOutcome::Errored(error) => say!("  {error}"),
        TestOutcome::Passed | TestOutcome::Skipped => {}
    }
    result.prints.iter().for_each(|line| say!("  print: {line}"));
}

fn print_summary(results: &[TestResult]) {
    let total = results.len();
    let count = |wanted: &dyn Fn(&TestOutcome) -> bool| {
        results.iter().filter(|result| wanted(&result.outcome)).count()
    };
    let counts = [
        ("PASS", count(&|outcome| *outcome == TestOutcome::Passed)),
        ("FAIL", count(&|outcome| matches!(outcome, TestOutcome::Failed { .. }))),
        ("ERROR", count(&|outcome| matches!(outcome, TestOutcome::Errored(_)))),
        ("SKIPPED", count(&|outcome| *outcome == TestOutcome::Skipped)),
    ];
    if total == 0 {
        say!("no tests: rules that begin with test_ are tests");
    }
    for (word, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        say!("{word}: {count}/{total}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of lines")]
fn percent(covered: usize, not_covered: usize) -> f64 {
    let total = covered + not_covered;
    if total == 0 { 100.0 } else { 100.0 * covered as f64 / total as f64 }
}

fn print_coverage(files: &[FileCoverage]) {
    for file in files {
        let share = percent(file.covered.len(), file.not_covered.len());
        let missing = file.not_covered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let missing = if missing.is_empty() { missing } else { format!("; not reached: {missing}") };
        say!("{}: {share:.1} %{missing}", file.file);
    }
}

fn as_json(run: &TestRun, with_coverage: bool) -> Value {
    let results: Vec<Value> = run
        .results
        .iter()
        .map(|result| {
            let mut json = json!({
                "location": {"file": result.file, "row": result.line, "col": 1},
                "package": result.package,
                "name": result.name,
                "duration": result.duration.as_nanos(),
            });
            let mut set = |name: &str, value: Value| json[name] = value;
            match &result.outcome {
                TestOutcome::Passed => {}
                TestOutcome::Failed { cases } => {
                    set("fail", true.into());
                    set("cases", cases.clone().into());
                }
                TestOutcome::Errored(error) => set("error", error.clone().into()),
                TestOutcome::Skipped => set("skip", true.into()),
            }
            if !result.prints.is_empty() {
                set("output", result.prints.clone().into());
            }
            json
        })
        .collect();
    if !with_coverage {
        return results.into();
    }
    let files: Vec<Value> = run
        .coverage
        .iter()
        .map(|file| {
            json!({
                "file": file.file,
                "coverage": percent(file.covered.len(), file.not_covered.len()),
                "covered": file.covered,
                "not_covered": file.not_covered,
            })
        })
        .collect();
    json!({"results": results, "coverage": files})
}
