//! Queries over policies, as `opa eval` has them: for people and for tests, never for a decision.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use regorus::{Engine, Value};

use super::builtins::BuiltinErrors;
use super::document::Document;
use super::error::{ErrorCode, LoadError, Problem};
use super::module::Desugared;
use super::names::{self, File};
use super::program::Program;
use super::rewrite::{self, Context};
use super::source::{RegoFile, Sources};
use super::{DecisionPath, syntax};

const QUERY_FILE: &str = "query";
/// A query is translated as the body of a rule of this module.
const QUERY_OPENS: &str = "package daypass.internal.query\nquery if {\n";
/// Lines of it.
const OPENING_LINES: u32 = 2;
const QUERY_CLOSES: &str = "\n}\n";

/// Policies and data that answer queries.
pub struct Evaluator {
    program: Program,
    engine: Engine,
}

/// One expression of a query.
#[derive(Debug, Clone)]
pub struct Expression {
    pub value: Document,
    pub text: String,
    pub line: u32,
    pub column: u32,
}

/// One way in which a query holds.
#[derive(Debug, Clone)]
pub struct Answer {
    pub expressions: Vec<Expression>,
    /// The values of the query's variables.
    pub bindings: Document,
}

impl Evaluator {
    /// # Errors
    /// Every mistake found, each with its place.
    pub fn new(sources: &Sources, time_limit: Duration, errors: BuiltinErrors) -> Result<Self, LoadError> {
        let program = Program::new(sources, time_limit, errors)?;
        let engine = program.engine(None).map_err(|problem| LoadError(vec![problem]))?;
        let mut evaluator = Self { program, engine };
        // The engine finds unsafe variables with the first query.
        evaluator.query("true", None).map_err(|problem| LoadError(vec![problem]))?;
        Ok(evaluator)
    }

    /// The rules of the package that a decision path is in, without functions and tests.
    #[must_use]
    pub fn rules_beside(&self, path: &DecisionPath) -> Vec<String> {
        let mut wanted = vec!["data".to_owned()];
        wanted.extend(path.0.iter().cloned());
        let mut names = BTreeSet::new();
        for module in self.program.modules() {
            let Ok(tree) = syntax::parse(&module.name, module.text(), module.version) else { continue };
            let file = File::new(&tree);
            if !wanted.starts_with(&file.package) {
                continue;
            }
            for rule in &tree.policy {
                let (name, arity) = syntax::rule_name(rule);
                let path = file.rule_path(name);
                let is_test = path.get(file.package.len()).is_some_and(|name| name.starts_with("test_"));
                if arity.is_none() && !is_test {
                    names.insert(names::reference(&path));
                }
            }
        }
        names.into_iter().collect()
    }

    /// What `print` said since the last call.
    pub fn take_prints(&mut self) -> Vec<String> {
        self.engine.take_prints().unwrap_or_default()
    }

    /// # Errors
    /// The query does not parse, or its evaluation fails.
    pub fn query(&mut self, query: &str, input: Option<Document>) -> Result<Vec<Answer>, Problem> {
        let query = translate(query)?;
        self.engine.set_input(input.map_or(Value::Undefined, |document| document.0));
        let error = match catch_unwind(AssertUnwindSafe(|| self.engine.eval_query(query, false))) {
            Ok(Ok(results)) => return Ok(results.result.into_iter().filter_map(answer).collect()),
            Ok(Err(error)) => query_error(&error, &self.program),
            Err(_) => {
                Problem { code: ErrorCode::Internal, ..Problem::in_file(QUERY_FILE, "evaluation panicked") }
            }
        };
        // An engine that failed must not be used again.
        self.engine = self.program.engine(None)?;
        Err(error)
    }
}

fn answer(result: regorus::QueryResult) -> Option<Answer> {
    let is_undefined = result
        .expressions
        .iter()
        .any(|expression| matches!(expression.value, Value::Undefined | Value::Bool(false)));
    let many = result.expressions.len() > 1 || result.bindings != Value::new_object();
    if is_undefined && (many || result.expressions.iter().any(|found| found.value == Value::Undefined)) {
        return None;
    }
    let expression = |found: regorus::Expression| Expression {
        value: Document(found.value),
        text: found.text.to_string(),
        line: found.location.row,
        column: found.location.col,
    };
    let expressions = result.expressions.into_iter().map(expression).collect();
    Some(Answer { expressions, bindings: Document(result.bindings) })
}

fn translate(query: &str) -> Result<String, Problem> {
    let module = format!("{QUERY_OPENS}{query}{QUERY_CLOSES}");
    let parse = |problem: Problem| Problem {
        code: ErrorCode::Parse,
        line: problem.line.saturating_sub(OPENING_LINES),
        ..problem
    };
    let desugared = Desugared::new(&RegoFile::new(QUERY_FILE, module)).map_err(parse)?;
    let tree = desugared.parse().map_err(parse)?;
    let parts = rewrite::rewrite(&File::new(&tree), desugared.text(), &Context::default());
    let parts = parts.map_err(|error| parse(Problem::in_file(QUERY_FILE, error.to_string())))?;
    let inner =
        parts.first().and_then(|part| part.text.strip_prefix(QUERY_OPENS)?.strip_suffix(QUERY_CLOSES));
    Ok(inner.unwrap_or(query).to_owned())
}

fn query_error(error: &anyhow::Error, program: &Program) -> Problem {
    let mut problem = Problem::from_engine(QUERY_FILE, error);
    if let Some(wording) = program.conflict(&problem) {
        wording.clone_into(&mut problem.message);
    }
    program.place(problem)
}
