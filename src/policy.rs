//! Rego: compiled once, evaluated on every request. Hides the engine.
//!
//! The engine is regorus' interpreter, one per worker thread. Its virtual machine is faster and was measured to get
//! cases of OPA's own suite silently wrong, which an authorizer cannot have. Policies are translated before it sees
//! them, so that they mean what they mean in OPA.

mod analysis;
mod builtins;
mod conflict;
mod data;
mod definitions;
mod desugar;
mod document;
mod edits;
mod engines;
mod error;
mod files;
mod graph;
mod input;
mod json;
mod lint;
mod module;
mod names;
mod output;
mod program;
mod query;
mod rewrite;
mod source;
mod syntax;
mod testing;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use regorus::{Engine, Value};

pub use analysis::InputReads;
pub use builtins::BuiltinErrors;
pub use builtins::yaml::place::Step;
pub use data::{BadData, Branch, Data, MAX_VALUES, Misplaced, count_json_values, read_json, read_yaml};
pub use document::{BadJson, Document, Key, Members, write_text};
pub use error::{ErrorCode, EvalError, LoadError, Problem};
pub use files::Fingerprint;
pub use input::jit;
pub use json::MAX_DEPTH;
pub use lint::check;
pub use output::{GrantsKey, Outcome, Ruling};
pub use query::{Answer, Evaluator, Expression};
pub use source::{RegoFile, RegoVersion, Sources};
pub use testing::{FileCoverage, TestOutcome, TestResult, TestRun, run as run_tests};

use builtins::Purpose;
pub use engines::{Generation, retire_before};

use engines::{Pool, Worker};
use program::Program;

/// Where evaluation begins: `envoy/authz/allow`, as OPA-Envoy's `path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionPath(Vec<String>);

impl DecisionPath {
    /// Empty segments are dropped, as in OPA-Envoy.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self(path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect())
    }

    /// `data.envoy.authz.allow`; a segment that is no identifier is quoted, a number is an index.
    fn reference(&self) -> String {
        let mut reference = "data".to_owned();
        for segment in &self.0 {
            let index = if segment.parse::<u64>().is_ok() { segment.clone() } else { quoted(segment) };
            reference.extend(["[", &index, "]"]);
        }
        reference
    }
}

/// The rule that stands for a decision path which is not itself a rule: a package, a member of a rule's value, base
/// data, or nothing at all, which is undefined.
const ENTRY_MODULE: &str = "daypass/entry.rego";
const ENTRY_PACKAGE: &str = "daypass.internal.entry";

/// A set of policies that compiled, ready to be evaluated on any thread.
pub struct Policy {
    /// Tells the policies of this process apart, so that a thread notices when it has another one's engine.
    generation: Generation,
    program: Program,
    entry: String,
    grants_key: GrantsKey,
    /// Made beforehand, so that no check waits for one.
    spare: Mutex<Vec<Worker>>,
    pool: Pool,
}

impl Policy {
    /// Parses, checks and compiles.
    ///
    /// # Errors
    /// Every mistake found, each with its place.
    pub fn compile(sources: &Sources, path: &DecisionPath, time_limit: Duration) -> Result<Self, LoadError> {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        let program = Program::new(sources, time_limit, Purpose::Decision)?;
        let grants_key = if program.reads().names("jit") { GrantsKey::Binding } else { GrantsKey::Foreign };
        let generation = Generation(GENERATIONS.fetch_add(1, Ordering::Relaxed));
        let mut policy = Self {
            generation,
            program,
            entry: rule_path(path),
            grants_key,
            spare: Mutex::default(),
            pool: Pool::default(),
        };
        if policy.engine().is_err() {
            let entry = format!("package {ENTRY_PACKAGE}\ndecision := {}\n", path.reference());
            policy.program.push(RegoFile::new(ENTRY_MODULE, entry));
            policy.entry = format!("data.{ENTRY_PACKAGE}.decision");
        }
        policy.engine().map_err(|problem| LoadError(vec![problem]))?;
        Ok(policy)
    }

    /// What of `input` any rule may read. What nobody reads need not be built.
    #[must_use]
    pub fn reads(&self) -> &InputReads {
        self.program.reads()
    }

    /// Whether `grants` in a decision means grants: only a policy that spells out `input.jit` speaks of them.
    #[must_use]
    pub fn grants_key(&self) -> GrantsKey {
        self.grants_key
    }

    /// # Errors
    /// There is no decision; see [`EvalError`].
    pub fn decide(&self, input: Document) -> Result<Ruling, EvalError> {
        let value = self.evaluate(input.0, &self.entry)?;
        Ruling::from_value(&value, self.grants_key)
    }

    /// The value at the decision path, whatever it is. For threads that decide nothing else: their engines are the
    /// policy's own, and go with it.
    ///
    /// # Errors
    /// There is none; see [`EvalError`].
    pub fn value(&self, input: Document) -> Result<Document, EvalError> {
        let make = || self.take_worker();
        let failed = |error: &anyhow::Error| self.eval_error(error);
        let value =
            self.pool.evaluate(make, input.0, &self.entry, |engine| self.log_prints(engine), failed)?;
        if value == Value::Undefined { Err(EvalError::Undefined) } else { Ok(Document(value)) }
    }

    /// Value of one rule, by its full name. For tests of policies.
    ///
    /// # Errors
    /// The rule does not exist or fails.
    pub fn eval_rule(&self, rule: &str, input: Document) -> Result<Document, EvalError> {
        self.evaluate(input.0, rule).map(Document)
    }

    /// Full names of all rules whose last part begins with `prefix`.
    #[must_use]
    pub fn rules_with_prefix(&self, prefix: &str) -> Vec<String> {
        let mut names = Vec::new();
        for module in self.program.modules() {
            let Ok(tree) = syntax::parse(&module.name, module.text(), module.version) else { continue };
            let package = syntax::package_path(&tree).join(".");
            for rule in &tree.policy {
                let name = syntax::static_ref(syntax::rule_name(rule).0).map(|found| found.path.join("."));
                names.extend(
                    name.filter(|name| name.starts_with(prefix)).map(|name| format!("{package}.{name}")),
                );
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// Builds engines for as many threads, to be taken by [`Self::install`].
    pub fn prepare(&self, threads: usize) {
        let workers = (0..threads).filter_map(|_| self.worker().ok()).collect();
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = workers;
    }

    /// Gives this thread its engine now rather than on its first request.
    pub fn install(&self) {
        // What fails here fails again on the first request, which can say so.
        let _ = engines::install(self.generation, || self.take_worker());
    }

    /// Tells the policies of this process apart; a later one is greater.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    fn evaluate(&self, input: Value, rule: &str) -> Result<Value, EvalError> {
        let make = || self.take_worker();
        let printed = |engine: &mut Engine| self.log_prints(engine);
        let failed = |error: &anyhow::Error| self.eval_error(error);
        engines::evaluate(self.generation, make, input, rule, printed, failed)
    }

    fn log_prints(&self, engine: &mut Engine) {
        for line in self.program.prints(engine) {
            // Escaped: what is printed may come from a request, and must not look like a line of its own.
            tracing::info!(target: "daypass::print", "{line:?}");
        }
    }

    fn take_worker(&self) -> Result<Worker, EvalError> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.map_or_else(|| self.worker(), Ok)
    }

    fn worker(&self) -> Result<Worker, EvalError> {
        let pristine = self.engine().map_err(|problem| EvalError::Failed(problem.to_string()))?;
        Ok(Worker::new(self.generation, pristine))
    }

    fn eval_error(&self, error: &anyhow::Error) -> EvalError {
        let text = format!("{error:#}");
        // Inside functions the engine wraps errors as text, so the type alone does not tell.
        if text.contains("exceeded time limit") {
            return EvalError::TimedOut;
        }
        let problem = Problem::from_engine("policy", error);
        let message =
            self.program.conflict(&problem).map_or_else(|| without_values(&problem.message), str::to_owned);
        EvalError::Failed(self.program.place(Problem { message, ..problem }).to_string())
    }

    fn engine(&self) -> Result<Engine, Problem> {
        self.program.engine(Some(&self.entry))
    }
}

fn rule_path(path: &DecisionPath) -> String {
    let mut full = "data".to_owned();
    for segment in &path.0 {
        let is_identifier = !segment.starts_with(|c: char| c.is_ascii_digit())
            && segment.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_identifier {
            full.extend([".", segment]);
        } else {
            full.extend(["[", &quoted(segment), "]"]);
        }
    }
    full
}

/// As a string of Rego, which is a string of JSON.
fn quoted(segment: &str) -> String {
    serde_json::Value::from(segment).to_string()
}

/// The engine quotes the values it stumbled over, and those may be a stranger's secrets. What remains is its sentence
/// up to the first value.
fn without_values(message: &str) -> String {
    const MAX_CHARS: usize = 120;
    let sentence = message.split("Got").next().unwrap_or_default();
    let sentence = sentence.split(['"', '\n']).next().unwrap_or_default();
    sentence.trim().chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests;
