//! What can be wrong with a policy, and where.

use std::fmt;

use thiserror::Error;

/// What kind of mistake, by OPA's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// A file that cannot be read, or is not what its name says.
    Read,
    Parse,
    Compile,
    /// Unknown functions and wrong numbers of arguments.
    UnknownFunction,
    Recursion,
    UnsafeVariable,
    /// A test of the policy that fails.
    Test,
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
            Self::Read => "read_error",
            Self::Parse => "rego_parse_error",
            Self::Compile => "rego_compile_error",
            Self::UnknownFunction => "rego_type_error",
            Self::Recursion => "rego_recursion_error",
            Self::UnsafeVariable => "rego_unsafe_var_error",
            Self::Test => "test_error",
            Self::Type => "eval_type_error",
            Self::Builtin => "eval_builtin_error",
            Self::Conflict => "eval_conflict_error",
            Self::Cancelled => "eval_cancel_error",
            Self::Internal => "eval_internal_error",
        }
    }

    /// What the engine's words say of a mistake; it has no codes.
    fn of_engine(message: &str) -> Self {
        let mentions = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if mentions(&[
            "eval_conflict_error",
            "multiple outputs",
            "conflicts with rule at",
            "generated multiple",
        ]) {
            Self::Conflict
        } else if mentions(&["eval_type_error"]) {
            Self::Type
        } else if mentions(&["eval_builtin_error"]) {
            Self::Builtin
        } else if mentions(&["exceeded time limit"]) {
            Self::Cancelled
        } else if mentions(&["could not find function"]) {
            Self::UnknownFunction
        } else if mentions(&["is unsafe"]) {
            Self::UnsafeVariable
        } else if mentions(&["expects", "must be"]) {
            Self::Type
        } else {
            Self::Builtin
        }
    }
}

/// One mistake in one file. Line and column count from 1; both 0 where the mistake has no position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub code: ErrorCode,
    pub message: String,
}

impl Problem {
    #[must_use]
    pub fn in_file(file: &str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, code: ErrorCode::Read, message: message.into() }
    }

    /// Takes the position out of the engine's text: `\n--> file:line:col\n ... \nerror: message`.
    pub(super) fn from_engine(file: &str, error: &anyhow::Error) -> Self {
        let text = error.to_string();
        let message = text.rsplit("error: ").next().unwrap_or(&text).trim().to_owned();
        let place = text.split("--> ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or("");
        let mut numbers = place.rsplitn(3, ':').map(|part| part.trim().parse().unwrap_or(0));
        let column = numbers.next().unwrap_or(0);
        let line = numbers.next().unwrap_or(0);
        let named = place.rsplitn(3, ':').nth(2).map(str::trim).filter(|name| !name.is_empty());
        let code = ErrorCode::of_engine(&format!("{error:#}"));
        Self { file: named.unwrap_or(file).to_owned(), line, column, code, message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
        }
    }
}

/// Everything that keeps a set of policies from being used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct LoadError(pub Vec<Problem>);

impl LoadError {
    /// Both, or what is wrong with either: a mistake in a file that both come from is told once.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn both<A, B>(one: Result<A, Self>, other: Result<B, Self>) -> Result<(A, B), Self> {
        match (one, other) {
            (Ok(one), Ok(other)) => Ok((one, other)),
            (one, other) => {
                let mut problems = one.err().map(|Self(problems)| problems).unwrap_or_default();
                for problem in other.err().map(|Self(problems)| problems).unwrap_or_default() {
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
                Err(Self(problems))
            }
        }
    }
}

/// Why one evaluation gave no decision. Always a denial with reason `policy_error`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvalError {
    #[error("evaluation failed: {0}")]
    Failed(String),
    #[error("evaluation took longer than its limit")]
    TimedOut,
    #[error("evaluation panicked")]
    Panicked,
    #[error("the decision is undefined")]
    Undefined,
    #[error("{0}")]
    NotADecision(String),
}
