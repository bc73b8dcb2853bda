//! Tests of policies, as OPA has them: rules whose names begin with `test_`. `todo_test_` is a test that does not run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use regorus::{Engine, Value};

use super::builtins::{BuiltinErrors, Purpose};
use super::error::LoadError;
use super::names::{self, File};
use super::program::Program;
use super::source::Sources;
use super::syntax;

/// One test rule and how it went.
#[derive(Debug, Clone)]
pub struct TestResult {
    /// `data.envoy.authz`
    pub package: String,
    /// `test_allows_reads`
    pub name: String,
    pub file: String,
    pub line: u32,
    /// The reference that names it.
    rule: String,
    pub outcome: TestOutcome,
    pub prints: Vec<String>,
    pub duration: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestOutcome {
    Passed,
    /// Undefined or false; for a rule of several cases the keys of those that were.
    Failed {
        cases: Vec<String>,
    },
    Errored(String),
    /// Its name begins with `todo_test_`.
    Skipped,
}

impl TestResult {
    /// The whole name, which filters match.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }
}

/// What ran, and which lines of it.
pub struct TestRun {
    pub results: Vec<TestResult>,
    pub coverage: Vec<FileCoverage>,
}

/// Lines of one file that have expressions, by whether any test reached them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCoverage {
    pub file: String,
    pub covered: Vec<u32>,
    pub not_covered: Vec<u32>,
}

/// Runs every test that `wanted` names by its whole name.
///
/// # Errors
/// The sources do not compile.
pub fn run(
    sources: &Sources,
    wanted: &dyn Fn(&str) -> bool,
    time_limit: Duration,
) -> Result<TestRun, LoadError> {
    let program = Program::new(sources, time_limit, Purpose::Query(BuiltinErrors::Undefined))?;
    let mut results: Vec<TestResult> = Vec::new();
    for found in tests(&program) {
        let is_new = results.iter().all(|known| known.full_name() != found.full_name());
        if is_new && wanted(&found.full_name()) {
            results.push(found);
        }
    }
    let problem = |problem| LoadError(vec![problem]);
    let mut pristine = program.engine(None).map_err(problem)?;
    pristine.set_enable_coverage(true);
    let mut covered = Covered::default();
    for result in results.iter_mut().filter(|result| result.outcome != TestOutcome::Skipped) {
        // One engine each: what a test leaves behind is nobody else's.
        let mut engine = pristine.clone();
        let began = Instant::now();
        let value = engine.eval_rule(result.rule.clone());
        result.duration = began.elapsed();
        result.prints = program.prints(&mut engine);
        result.outcome = match value {
            Ok(value) => outcome(&value),
            Err(error) => TestOutcome::Errored(program.explained(&result.file, &error).to_string()),
        };
        covered.add(&engine, &program);
    }
    Ok(TestRun { results, coverage: covered.files() })
}

/// Every test of the program, in the order of its files.
fn tests(program: &Program) -> Vec<TestResult> {
    let mut found = Vec::new();
    for module in program.modules() {
        let Ok(tree) = syntax::parse(&module.name, module.text(), module.version) else { continue };
        let file = File::new(&tree);
        for rule in &tree.policy {
            let path = file.rule_path(syntax::rule_name(rule).0);
            let Some(name) = path.get(file.package.len()) else { continue };
            let outcome = match name {
                name if name.starts_with("todo_test_") => TestOutcome::Skipped,
                name if name.starts_with("test_") => TestOutcome::Passed,
                _ => continue,
            };
            let Some((origin, line)) = module.origin(syntax::rule_span(rule).line) else { continue };
            found.push(TestResult {
                package: file.package.join("."),
                name: name.clone(),
                file: origin.to_owned(),
                line,
                rule: names::reference(path.get(..=file.package.len()).unwrap_or_default()),
                outcome,
                prints: Vec::new(),
                duration: Duration::ZERO,
            });
        }
    }
    found
}

/// A rule with a value that is an object has a case for each key.
fn outcome(value: &Value) -> TestOutcome {
    let failed = |cases| TestOutcome::Failed { cases };
    match value {
        Value::Undefined | Value::Bool(false) => failed(Vec::new()),
        Value::Object(cases) => {
            let false_cases: Vec<String> = cases
                .iter()
                .filter(|(_, value)| **value == Value::Bool(false))
                .map(|(key, _)| key.to_string())
                .collect();
            if false_cases.is_empty() { TestOutcome::Passed } else { failed(false_cases) }
        }
        _ => TestOutcome::Passed,
    }
}

/// By file, whether any test reached a line.
#[derive(Default)]
struct Covered(BTreeMap<String, BTreeMap<u32, bool>>);

impl Covered {
    fn add(&mut self, engine: &Engine, program: &Program) {
        let Ok(report) = engine.get_coverage_report() else { return };
        for file in report.files {
            let Some(module) = program.modules().iter().find(|module| module.name == file.path) else {
                continue;
            };
            let missed = file.not_covered.iter().map(|line| (line, false));
            for (line, covered) in missed.chain(file.covered.iter().map(|line| (line, true))) {
                let Some((origin, line)) = module.origin(*line) else { continue };
                let seen = self.0.entry(origin.to_owned()).or_default().entry(line).or_default();
                *seen |= covered;
            }
        }
    }

    fn files(self) -> Vec<FileCoverage> {
        let lines_of = |lines: &BTreeMap<u32, bool>, wanted: bool| {
            lines.iter().filter(|(_, covered)| **covered == wanted).map(|(line, _)| *line).collect()
        };
        let files = self.0.into_iter().map(|(file, lines)| FileCoverage {
            file,
            covered: lines_of(&lines, true),
            not_covered: lines_of(&lines, false),
        });
        files.collect()
    }
}
