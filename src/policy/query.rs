//! Queries over policies, as `opa eval` has them: for people and for tests, never for a decision.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use regorus::{Engine, Value};
use thiserror::Error;

use super::builtins::BuiltinErrors;
use super::document::Document;
use super::error::{LoadError, Problem};
use super::module::Desugared;
use super::names::File;
use super::program::Program;
use super::rewrite::{self, Context};
use super::source::{RegoFile, Sources};

const QUERY_FILE: &str = "query";
/// A query is translated as the body of a rule of this module.
const QUERY_OPENS: &str = "package daypass.internal.query\nquery if {\n";
const QUERY_CLOSES: &str = "\n}\n";

/// Policies and data that answer queries.
pub struct Evaluator {
    program: Program,
    engine: Engine,
}

/// One way in which a query holds.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The value of each expression, and its text.
    pub expressions: Vec<(Document, String)>,
    /// The values of the query's variables.
    pub bindings: Document,
}

/// OPA's codes of what can go wrong while a query is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    Parse,
    Compile,
    Type,
    Builtin,
    Conflict,
    Cancelled,
    Internal,
}

impl ErrorCode {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parse => "rego_parse_error",
            Self::Compile => "rego_compile_error",
            Self::Type => "eval_type_error",
            Self::Builtin => "eval_builtin_error",
            Self::Conflict => "eval_conflict_error",
            Self::Cancelled => "eval_cancel_error",
            Self::Internal => "eval_internal_error",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {problem}", code.as_str())]
pub struct QueryError {
    pub code: ErrorCode,
    pub problem: Problem,
}

impl Evaluator {
    /// # Errors
    /// Every mistake found, each with its place.
    pub fn new(sources: &Sources, time_limit: Duration, errors: BuiltinErrors) -> Result<Self, LoadError> {
        let program = Program::new(sources, time_limit, errors)?;
        let engine = program.engine(None).map_err(|problem| LoadError(vec![problem]))?;
        Ok(Self { program, engine })
    }

    /// # Errors
    /// The query does not parse, or its evaluation fails.
    pub fn query(&mut self, query: &str, input: Option<Document>) -> Result<Vec<Answer>, QueryError> {
        let query = translate(query)?;
        self.engine.set_input(input.map_or(Value::Undefined, |document| document.0));
        let error = match catch_unwind(AssertUnwindSafe(|| self.engine.eval_query(query, false))) {
            Ok(Ok(results)) => return Ok(results.result.into_iter().filter_map(answer).collect()),
            Ok(Err(error)) => query_error(&error, &self.program),
            Err(_) => internal(&Problem::in_file(QUERY_FILE, "evaluation panicked")),
        };
        // An engine that failed must not be used again.
        self.engine = self.program.engine(None).map_err(|problem| internal(&problem))?;
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
    let expressions =
        result.expressions.into_iter().map(|found| (Document(found.value), found.text.to_string())).collect();
    Some(Answer { expressions, bindings: Document(result.bindings) })
}

fn translate(query: &str) -> Result<String, QueryError> {
    let module = format!("{QUERY_OPENS}{query}{QUERY_CLOSES}");
    let parse = |problem: Problem| QueryError {
        code: ErrorCode::Parse,
        problem: Problem { line: problem.line.saturating_sub(2), ..problem },
    };
    let desugared = Desugared::new(&RegoFile::new(QUERY_FILE, module)).map_err(parse)?;
    let tree = desugared.parse().map_err(parse)?;
    let parts = rewrite::rewrite(&File::new(&tree), desugared.text(), &Context::default());
    let parts = parts.map_err(|error| parse(Problem::in_file(QUERY_FILE, error.to_string())))?;
    let inner =
        parts.first().and_then(|part| part.text.strip_prefix(QUERY_OPENS)?.strip_suffix(QUERY_CLOSES));
    Ok(inner.unwrap_or(query).to_owned())
}

fn internal(problem: &Problem) -> QueryError {
    QueryError { code: ErrorCode::Internal, problem: problem.clone() }
}

fn query_error(error: &anyhow::Error, program: &Program) -> QueryError {
    let text = format!("{error:#}");
    let mut problem = Problem::from_engine(QUERY_FILE, error);
    let mentions = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let code = if let Some(wording) = program.conflict(&problem) {
        wording.clone_into(&mut problem.message);
        ErrorCode::Conflict
    } else if text.contains("eval_conflict_error") {
        ErrorCode::Conflict
    } else if text.contains("eval_type_error") {
        ErrorCode::Type
    } else if text.contains("eval_builtin_error") {
        ErrorCode::Builtin
    } else if text.contains("exceeded time limit") {
        ErrorCode::Cancelled
    } else if mentions(&["expects", "must be"]) {
        ErrorCode::Type
    } else {
        ErrorCode::Builtin
    };
    QueryError { code, problem: program.place(problem) }
}
