//! OPA's words for two values where there can be one. The engine has words of its own, which say less of what the
//! conflicting thing is.

use regorus::unstable::{Expr, Rule, RuleHead};

use super::module::Module;
use super::syntax;

/// The message of OPA for what the engine says about a rule at a line, or `None` if it is no conflict.
#[must_use]
pub fn wording(engine: &str, module: Option<&Module>, line: u32) -> Option<&'static str> {
    const COMPLETE: &str = "complete rules must not produce multiple outputs";
    const FUNCTION: &str = "functions must not produce multiple outputs for same inputs";
    const OBJECT: &str = "object keys must be unique";
    if engine.contains("generated multiple times") {
        return Some(OBJECT);
    }
    if engine.contains("function produced multiple") || engine.contains("functions must not produce") {
        return Some(FUNCTION);
    }
    let is_conflict =
        engine.contains("not produce multiple outputs") || engine.contains("conflicts with rule at");
    let is_object = || module.is_some_and(|module| is_partial_object(module, line));
    is_conflict.then(|| if is_object() { OBJECT } else { COMPLETE })
}

fn is_partial_object(module: &Module, line: u32) -> bool {
    let Ok(tree) = syntax::parse(&module.name, module.text(), module.version) else { return false };
    let here = tree.policy.iter().find(|rule| {
        let span = syntax::rule_span(rule);
        let lines = u32::try_from(span.text().matches('\n').count()).unwrap_or(0);
        (span.line..=span.line.saturating_add(lines)).contains(&line)
    });
    here.is_some_and(|rule| match rule.as_ref() {
        Rule::Spec { head: RuleHead::Compr { refr, .. }, .. } => has_variable_key(refr),
        _ => false,
    })
}

fn has_variable_key(name: &Expr) -> bool {
    match name {
        Expr::RefDot { refr, .. } => has_variable_key(refr),
        Expr::RefBrack { refr, index, .. } => {
            !matches!(index.as_ref(), Expr::String { .. } | Expr::RawString { .. }) || has_variable_key(refr)
        }
        _ => false,
    }
}
