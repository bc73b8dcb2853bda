//! What compiles and is probably a mistake: members of `input.jit` that daypass never sets.

use std::time::Duration;

use super::builtins::{BuiltinErrors, Purpose};
use super::error::{ErrorCode, LoadError, Problem};
use super::module::Desugared;
use super::names::{File, Scopes};
use super::program::Program;
use super::query::Evaluator;
use super::source::Sources;
use super::syntax::{self, Node};

/// Members of a grant: those of its key.
const GRANT: [&str; 16] = [
    "v",
    "id",
    "subject",
    "permissions",
    "not_before",
    "expires_at",
    "max_uses",
    "conditions",
    "roles",
    "attributes",
    "entitlement",
    "request",
    "approved_by",
    "justification",
    "ticket",
    "break_glass",
];

/// No rule is evaluated.
const LIMIT: Duration = Duration::from_secs(10);

/// Every doubtful place of policies that can decide.
///
/// # Errors
/// Every mistake for which they cannot.
pub fn check(sources: &Sources) -> Result<Vec<Problem>, LoadError> {
    Program::new(sources, LIMIT, Purpose::Decision)?;
    // Unsafe variables are found with the first query.
    Evaluator::new(sources, LIMIT, BuiltinErrors::Undefined)?;
    warnings(sources)
}

fn warnings(sources: &Sources) -> Result<Vec<Problem>, LoadError> {
    let mut warnings = Vec::new();
    for source in &sources.modules {
        let desugared =
            Desugared::new(source, &mut Vec::new()).map_err(|problem| LoadError(vec![problem]))?;
        let tree = desugared.parse().map_err(|problem| LoadError(vec![problem]))?;
        let file = File::new(&tree);
        for rule in &tree.policy {
            let mut scopes = Scopes::default();
            syntax::walk_rule(rule, &mut |node| match node {
                Node::Open => scopes.open(),
                Node::Close => scopes.close(),
                Node::Local(span) => scopes.declare(span),
                Node::Expr(expr) => {
                    let Some(root) = syntax::root_of(expr).filter(|root| !scopes.has(root.text())) else {
                        return;
                    };
                    let first = file.resolve(&[root.text().to_owned()]).into_iter().map(Some);
                    let rest = syntax::pattern_ref(expr).unwrap_or_default().into_iter().skip(1);
                    let path: Vec<Option<String>> = first.chain(rest).collect();
                    if let Some(message) = unknown_member(&path) {
                        let at = syntax::start_of(expr);
                        warnings.push(desugared.place(Problem {
                            file: source.name.clone(),
                            line: at.line,
                            column: at.col,
                            code: ErrorCode::Compile,
                            message,
                        }));
                    }
                }
                _ => {}
            });
        }
    }
    Ok(warnings)
}

fn unknown_member(path: &[Option<String>]) -> Option<String> {
    let [Some(input), Some(jit), rest @ ..] = path else { return None };
    if input != "input" || jit != "jit" {
        return None;
    }
    let (first, rest) = rest.split_first()?;
    match (first.as_deref()?, rest) {
        ("replica", [Some(member), ..]) if !matches!(member.as_str(), "fresh" | "age_ms") => {
            Some(format!("daypass never sets input.jit.replica.{member}; there are fresh and age_ms"))
        }
        ("grants" | "covering", [_, Some(member), ..]) if !GRANT.contains(&member.as_str()) => {
            Some(format!("a grant has no member {member:?}; free ones are in its `attributes`"))
        }
        ("principals" | "subject" | "replica" | "grants" | "covering", _) => None,
        (other, _) => Some(format!(
            "daypass never sets input.jit.{other}; there are principals, subject, grants, covering and replica"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_never_set_are_named() {
        let text = "package a\nimport input.jit as j\na := input.jit.grant\nb := input.jit.covering[0].id\n\
            c := j.grants[_].expires\nd := j.replica.fresh\ne := input.jit\nf := input.jit.replica.stale\n\
            g := input.jit.grants[_].attributes.x.y\nh if { jit := input; jit.nothing }\ni := input.jit.principals[0]\n";
        let found = warnings(&Sources::from_text("p.rego", text)).unwrap();
        let lines: Vec<u32> = found.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [3, 5, 8], "{found:?}");
        assert!(found[1].message.contains("\"expires\""));
    }
}
