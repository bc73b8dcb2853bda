//! Arithmetic, set operators and iteration with OPA's meaning.
//!
//! In OPA an operand of the wrong type makes the expression undefined, so the next rule body may still hold. The
//! engine's own operators fail the whole evaluation instead, and whoever writes request bodies could make every
//! decision an error. So before a policy is compiled, `a + b` becomes a call of our own function, which is undefined
//! where OPA's is. Columns to the right of a rewritten operator shift in *run-time* messages; lines stay.

use regorus::unstable::{ArithOp, BinOp, Expr, Module};

use thiserror::Error;

use super::builtins::operators::{ADD, DIVIDE, DOMAIN, INTERSECT, MULTIPLY, REMAINDER, SUBTRACT, UNITE};
use super::syntax::{self, Node};

/// The module's text with its operators as calls.
///
/// # Errors
/// The text cannot be rewritten: a mistake here. Left as it was, it would not mean what it means in OPA.
pub fn rewrite(module: &Module, text: &str) -> Result<String, CannotRewrite> {
    let mut edits = Vec::new();
    for rule in &module.policy {
        syntax::walk_rule(rule, &mut |node| match node {
            Node::Expr(expr) => edits.extend(operator_edits(expr, text).into_iter().flatten()),
            Node::Domain(expr) => edits.extend(domain_edits(expr).into_iter().flatten()),
            Node::Local(_) => {}
        });
    }
    // A call ends before the operator that follows it without a space. Stable beyond that, so that of two calls opened
    // at one place the outer one, found first, stays in front.
    edits.sort_by_key(|edit| (edit.at, edit.replaces));
    let mut rewritten = String::with_capacity(text.len() + edits.len() * 16);
    let mut copied = 0;
    for edit in &edits {
        rewritten.push_str(text.get(copied..edit.at).ok_or(CannotRewrite)?);
        rewritten.push_str(&edit.insert);
        copied = edit.at + edit.replaces;
    }
    rewritten.push_str(text.get(copied..).ok_or(CannotRewrite)?);
    Ok(rewritten)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "an operator in this file cannot be given OPA's meaning; put the parts of the expression on rules of their own"
)]
pub struct CannotRewrite;

struct Edit {
    at: usize,
    replaces: usize,
    insert: String,
}

fn operator_edits(expr: &Expr, text: &str) -> Option<[Edit; 3]> {
    let (span, function, symbol, lhs, rhs) = match expr {
        Expr::ArithExpr { lhs, rhs, .. } if is_number(lhs) && is_number(rhs) => return None,
        Expr::ArithExpr { span, op, lhs, rhs, .. } => {
            let (function, symbol) = match op {
                ArithOp::Add => (ADD, '+'),
                ArithOp::Sub => (SUBTRACT, '-'),
                ArithOp::Mul => (MULTIPLY, '*'),
                ArithOp::Div => (DIVIDE, '/'),
                ArithOp::Mod => (REMAINDER, '%'),
            };
            (span, function, symbol, lhs, rhs)
        }
        Expr::BinExpr { span, op, lhs, rhs, .. } => {
            let (function, symbol) = match op {
                BinOp::Intersection => (INTERSECT, '&'),
                BinOp::Union => (UNITE, '|'),
            };
            (span, function, symbol, lhs, rhs)
        }
        _ => return None,
    };
    let position = |offset: u32| usize::try_from(offset).ok();
    let operator = find_operator(text, position(lhs.span().end)?, position(rhs.span().start)?, symbol)?;
    Some([
        Edit { at: position(span.start)?, replaces: 0, insert: format!("{function}(") },
        Edit { at: operator, replaces: 1, insert: ",".to_owned() },
        Edit { at: position(span.end)?, replaces: 0, insert: ")".to_owned() },
    ])
}

/// Only what has a value that is not plain from the text can be something else than a collection.
fn domain_edits(expr: &Expr) -> Option<[Edit; 2]> {
    if !matches!(expr, Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } | Expr::Call { .. }) {
        return None;
    }
    let start = usize::try_from(syntax::start_of(expr).start).ok()?;
    let end = usize::try_from(expr.span().end).ok()?;
    Some([
        Edit { at: start, replaces: 0, insert: format!("{DOMAIN}(") },
        Edit { at: end, replaces: 0, insert: ")".to_owned() },
    ])
}

fn is_number(expr: &Expr) -> bool {
    matches!(expr, Expr::Number { .. })
}

/// Between two operands stand their parentheses, white space, comments and the operator.
fn find_operator(text: &str, from: usize, to: usize, symbol: char) -> Option<usize> {
    let mut in_comment = false;
    for (offset, c) in text.get(from..to)?.char_indices() {
        match c {
            '\n' => in_comment = false,
            _ if in_comment => {}
            '#' => in_comment = true,
            c if c == symbol => return Some(from + offset),
            ')' | '(' => {}
            c if c.is_whitespace() => {}
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> String {
        rewrite(&syntax::parse("p.rego", text).unwrap(), text).unwrap()
    }

    #[test]
    fn operators_become_calls_and_nest() {
        for (body, expected) in [
            ("x := 1 + 2", "x := 1 + 2"),
            ("x := input.a + 1", "x := daypass__add(input.a , 1)"),
            ("x := a + b - c", "x := daypass__subtract(daypass__add(a , b) , c)"),
            ("x := a - b * c", "x := daypass__subtract(a , daypass__multiply(b , c))"),
            (
                "x := (a - b) * (c % 2)",
                "x := daypass__multiply((daypass__subtract(a , b)) , (daypass__remainder(c , 2)))",
            ),
            ("x := n*2+1", "x := daypass__add(daypass__multiply(n,2),1)"),
            ("x := n-1-2", "x := daypass__subtract(daypass__subtract(n,1),2)"),
            ("x := a-b|c", "x := daypass__unite(daypass__subtract(a,b),c)"),
            ("x := {1}|{n}|{3}", "x := daypass__unite(daypass__unite({1},{n}),{3})"),
            ("x := a -1", "x := daypass__subtract(a ,1)"),
            ("x := a # - not this\n  - b", "x := daypass__subtract(a # - not this\n  , b)"),
            ("x if { some y in input.a.b; y }", "x if { some y in daypass__domain(input.a.b); y }"),
            ("x if { some y in [1]; y }", "x if { some y in [1]; y }"),
            ("x if { every y in f(a[1]) { y } }", "x if { every y in daypass__domain(f(a[1])) { y } }"),
            ("x := a & b | c", "x := daypass__unite(daypass__intersect(a , b) , c)"),
        ] {
            let module = |body: &str| format!("package p\n{body}\n");
            assert_eq!(rewritten(&module(body)), module(expected), "{body}");
        }
    }
}
