//! Queries over policies, as `opa eval` has them: for people and for tests, never for a decision.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use regorus::{Engine, Value};

use super::builtins::{BuiltinErrors, Purpose};
use super::document::Document;
use super::edits::{self, Edited};
use super::error::{ErrorCode, LoadError, Problem};
use super::module::Desugared;
use super::names::{self, File};
use super::program::Program;
use super::rewrite::{self, CannotRewrite, Context};
use super::source::{RegoFile, Sources};
use super::{DecisionPath, syntax};

const QUERY_FILE: &str = "query";
/// As the engine names it.
const ENGINE_QUERY_FILE: &str = "<query.rego>";
/// A query is translated as the body of a rule of this module. It stands beside another expression there: alone,
/// `{1} | {2}` would be taken for half a comprehension.
const QUERY_OPENS: &str = "package daypass.internal.query\nquery if {\ntrue\n";
/// Lines of it.
const OPENING_LINES: u32 = 3;
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
        let program = Program::new(sources, time_limit, Purpose::Query(errors))?;
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
                let is_test = path
                    .get(file.package.len())
                    .is_some_and(|name| name.starts_with("test_") || name.starts_with("todo_test_"));
                if arity.is_none() && !is_test {
                    names.insert(names::reference(&path));
                }
            }
        }
        names.into_iter().collect()
    }

    /// What `print` said since the last call.
    pub fn take_prints(&mut self) -> Vec<String> {
        self.program.prints(&mut self.engine)
    }

    /// # Errors
    /// The query does not parse, or its evaluation fails.
    pub fn query(&mut self, query: &str, input: Option<Document>) -> Result<Vec<Answer>, Problem> {
        let query = Query::new(query, self.program.constants())?;
        if query.constants.len() > self.program.constants().len() {
            self.program.set_constants(query.constants.clone());
            self.engine = self.program.engine(None)?;
        }
        self.engine.set_input(input.map_or(Value::Undefined, |document| document.0));
        let error = match catch_unwind(AssertUnwindSafe(|| {
            self.engine.eval_query(query.asked.clone(), false)
        })) {
            Ok(Ok(results)) => {
                let answers = results.result.into_iter();
                return Ok(answers.filter_map(|found| query.answer(found)).collect());
            }
            Ok(Err(error)) => query.place(self.program.explained(QUERY_FILE, &error)),
            Err(_) => {
                Problem { code: ErrorCode::Internal, ..Problem::in_file(QUERY_FILE, "evaluation panicked") }
            }
        };
        // An engine that failed must not be used again.
        self.engine = self.program.engine(None)?;
        Err(error)
    }
}

/// A query as it was typed, and as the engine is asked.
struct Query<'a> {
    typed: &'a str,
    asked: String,
    desugared: Edited,
    rewritten: Edited,
    constants: Vec<Value>,
}

impl<'a> Query<'a> {
    /// Its constants are numbered from behind those of the program.
    fn new(typed: &'a str, program: &[Value]) -> Result<Self, Problem> {
        let module = format!("{QUERY_OPENS}{typed}{QUERY_CLOSES}");
        let parse = |problem: Problem| Problem {
            code: ErrorCode::Parse,
            line: problem.line.saturating_sub(OPENING_LINES),
            ..problem
        };
        let mut constants = program.to_vec();
        let desugared = Desugared::new(&RegoFile::new(QUERY_FILE, module), &mut constants).map_err(parse)?;
        let tree = desugared.parse().map_err(parse)?;
        let parts = rewrite::rewrite(&File::new(&tree), desugared.text(), &Context::default());
        let failed = || parse(Problem::in_file(QUERY_FILE, CannotRewrite.to_string()));
        let rewritten = parts.map_err(|_| failed())?.into_iter().next().ok_or_else(failed)?;
        let inner = rewritten.text.strip_prefix(QUERY_OPENS).and_then(|text| text.strip_suffix(QUERY_CLOSES));
        let asked = inner.ok_or_else(failed)?.to_owned();
        Ok(Self { typed, asked, desugared: desugared.into_edited(), rewritten, constants })
    }

    /// The part of what was typed that a part of what was asked came from.
    fn typed_part(&self, asked: &str, line: u32, column: u32) -> Option<(usize, usize)> {
        let from = edits::offset_of(&self.asked, line, column)?;
        let typed = |offset: usize| {
            let rewritten = self.rewritten.original_offset(offset + QUERY_OPENS.len());
            self.desugared.original_offset(rewritten).checked_sub(QUERY_OPENS.len())
        };
        Some((typed(from)?, typed(from + asked.len())?))
    }

    fn answer(&self, result: regorus::QueryResult) -> Option<Answer> {
        let is_undefined = result
            .expressions
            .iter()
            .any(|expression| matches!(expression.value, Value::Undefined | Value::Bool(false)));
        let many = result.expressions.len() > 1 || result.bindings != Value::new_object();
        if is_undefined && (many || result.expressions.iter().any(|found| found.value == Value::Undefined)) {
            return None;
        }
        let expression = |found: regorus::Expression| {
            let (row, col) = (found.location.row, found.location.col);
            let (from, to) = self.typed_part(&found.text, row, col).unwrap_or((0, self.typed.len()));
            let (line, column) = edits::position_of(self.typed, from);
            let text = self.typed.get(from..to).unwrap_or(self.typed).trim().to_owned();
            Expression { value: Document(found.value), text, line, column }
        };
        let expressions = result.expressions.into_iter().map(expression).collect();
        Some(Answer { expressions, bindings: Document(result.bindings) })
    }

    /// The problem where it was typed, if it is in the query.
    fn place(&self, problem: Problem) -> Problem {
        let at = edits::offset_of(&self.asked, problem.line, problem.column);
        let Some(at) = at.filter(|_| problem.file == ENGINE_QUERY_FILE) else { return problem };
        let offset = self.desugared.original_offset(self.rewritten.original_offset(at + QUERY_OPENS.len()));
        let (line, column) = edits::position_of(self.typed, offset.saturating_sub(QUERY_OPENS.len()));
        Problem { file: QUERY_FILE.to_owned(), line, column, ..problem }
    }
}
