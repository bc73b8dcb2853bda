//! Walking the syntax tree of a policy. The only file that knows the shape of the engine's tree.

use regorus::unstable::{
    Expr, Import, Literal, Module, Parser, Query, Rule, RuleAssign, RuleHead, Source, Span,
};

use super::error::Problem;

/// OPA has no line limit; a JWKS on one line is usual. The engine's own default of 1,024 columns would refuse it.
pub const MAX_COLUMNS: u32 = 1 << 20;
/// Well above any policy written by people, well below what could exhaust memory.
pub const MAX_FILE_BYTES: usize = 16 << 20;
pub const MAX_LINES: usize = 200_000;

pub fn parse(file: &str, text: &str) -> Result<Module, Problem> {
    let limits = (non_zero(MAX_FILE_BYTES), non_zero(MAX_LINES));
    let module = || {
        let source = Source::from_contents_with_limits(file.to_owned(), text.to_owned(), limits.0, limits.1)?;
        let mut parser = Parser::new(&source)?;
        parser.set_max_col(std::num::NonZeroU32::new(MAX_COLUMNS).unwrap_or(std::num::NonZeroU32::MAX));
        parser.enable_rego_v1()?;
        parser.parse()
    };
    module().map_err(|error: anyhow::Error| Problem::from_engine(file, &error))
}

pub const fn non_zero(value: usize) -> std::num::NonZeroUsize {
    match std::num::NonZeroUsize::new(value) {
        Some(value) => value,
        None => std::num::NonZeroUsize::MIN,
    }
}

/// What a walk comes across, parents before children.
#[derive(Clone, Copy)]
pub enum Node<'a> {
    Expr(&'a Expr),
    /// A name that this rule declares for itself: `some x`, `every k, v`, an argument, the left of `:=`.
    Local(&'a str),
    /// What `some .. in` or `every .. in` iterates over; its expression follows as a node of its own.
    Domain(&'a Expr),
}

/// `package a.b["c"]` as `["data", "a", "b", "c"]`.
pub fn package_path(module: &Module) -> Vec<String> {
    let mut path = vec!["data".to_owned()];
    path.extend(static_ref(&module.package.refr).map(|found| found.path).unwrap_or_default());
    path
}

/// A reference as far as it is known without evaluating it.
pub struct StaticRef {
    pub path: Vec<String>,
    /// Whether `path` is all of it.
    pub is_whole: bool,
}

/// `None` unless the expression is a variable or a reference that begins with one.
pub fn static_ref(expr: &Expr) -> Option<StaticRef> {
    match expr {
        Expr::Var { span, .. } => Some(StaticRef { path: vec![span.text().to_owned()], is_whole: true }),
        Expr::RefDot { refr, field, .. } => {
            let mut found = static_ref(refr)?;
            if found.is_whole {
                found.path.push(string_value(&field.1).unwrap_or_else(|| field.0.text().to_owned()));
            }
            Some(found)
        }
        Expr::RefBrack { refr, index, .. } => {
            let mut found = static_ref(refr)?;
            match index.as_ref() {
                Expr::String { value, .. } | Expr::RawString { value, .. } if found.is_whole => {
                    found.path.extend(string_value(value));
                }
                _ => found.is_whole = false,
            }
            Some(found)
        }
        _ => None,
    }
}

fn string_value(value: &regorus::Value) -> Option<String> {
    value.as_string().ok().map(ToString::to_string)
}

/// Where a reference begins: the engine puts the span of `a.b.c` on its last dot.
pub fn start_of(expr: &Expr) -> &Span {
    match expr {
        Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => start_of(refr),
        other => other.span(),
    }
}

/// The name an import is used by, and what it stands for.
pub fn import_alias(import: &Import) -> Option<(String, Vec<String>)> {
    let path = static_ref(&import.refr)?.path;
    let alias =
        import.r#as.as_ref().map_or_else(|| path.last().cloned(), |span| Some(span.text().to_owned()))?;
    Some((alias, path))
}

/// The reference that names a rule, and how many arguments it takes if it is a function.
pub fn rule_name(rule: &Rule) -> (&Expr, Option<usize>) {
    match rule {
        Rule::Default { refr, args, .. } => (refr, (!args.is_empty()).then_some(args.len())),
        Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. }, .. } => (refr, None),
        Rule::Spec { head: RuleHead::Func { refr, args, .. }, .. } => (refr, Some(args.len())),
    }
}

pub fn walk_rule<'a>(rule: &'a Rule, visit: &mut impl FnMut(Node<'a>)) {
    match rule {
        Rule::Default { args, value, .. } => {
            args.iter().for_each(|arg| walk_argument(arg, visit));
            walk_expr(value, visit);
        }
        Rule::Spec { head, bodies, .. } => {
            match head {
                RuleHead::Compr { refr, assign, .. } => {
                    walk_head(refr, visit);
                    walk_assign(assign.as_ref(), visit);
                }
                RuleHead::Set { refr, key, .. } => {
                    walk_head(refr, visit);
                    key.iter().for_each(|key| walk_expr(key, visit));
                }
                RuleHead::Func { refr, args, assign, .. } => {
                    walk_head(refr, visit);
                    args.iter().for_each(|arg| walk_argument(arg, visit));
                    walk_assign(assign.as_ref(), visit);
                }
            }
            for body in bodies {
                walk_assign(body.assign.as_ref(), visit);
                walk_query(&body.query, visit);
            }
        }
    }
}

/// The head's own name is not a use of anything; the keys in its brackets are.
fn walk_head<'a>(expr: &'a Expr, visit: &mut impl FnMut(Node<'a>)) {
    match expr {
        Expr::RefDot { refr, .. } => walk_head(refr, visit),
        Expr::RefBrack { refr, index, .. } => {
            walk_head(refr, visit);
            walk_expr(index, visit);
        }
        _ => {}
    }
}

fn walk_argument<'a>(arg: &'a Expr, visit: &mut impl FnMut(Node<'a>)) {
    declare(arg, visit);
    walk_expr(arg, visit);
}

fn walk_assign<'a>(assign: Option<&'a RuleAssign>, visit: &mut impl FnMut(Node<'a>)) {
    if let Some(assign) = assign {
        walk_expr(&assign.value, visit);
    }
}

fn walk_query<'a>(query: &'a Query, visit: &mut impl FnMut(Node<'a>)) {
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => {
                vars.iter().for_each(|span: &Span| visit(Node::Local(span.text())));
            }
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().for_each(|key| walk_argument(key, visit));
                walk_argument(value, visit);
                visit(Node::Domain(collection));
                walk_expr(collection, visit);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => walk_expr(expr, visit),
            Literal::Every { key, value, domain, query, .. } => {
                key.iter().for_each(|span| visit(Node::Local(span.text())));
                visit(Node::Local(value.text()));
                visit(Node::Domain(domain));
                walk_expr(domain, visit);
                walk_query(query, visit);
            }
        }
        for with in &statement.with_mods {
            walk_expr(&with.refr, visit);
            walk_expr(&with.r#as, visit);
        }
    }
}

/// Announces every variable of a pattern as a local name.
fn declare<'a>(pattern: &'a Expr, visit: &mut impl FnMut(Node<'a>)) {
    match pattern {
        Expr::Var { span, .. } => visit(Node::Local(span.text())),
        Expr::Array { items, .. } => items.iter().for_each(|item| declare(item, visit)),
        Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| declare(value, visit)),
        _ => {}
    }
}

fn walk_expr<'a>(expr: &'a Expr, visit: &mut impl FnMut(Node<'a>)) {
    visit(Node::Expr(expr));
    match expr {
        Expr::String { .. }
        | Expr::RawString { .. }
        | Expr::Number { .. }
        | Expr::Bool { .. }
        | Expr::Null { .. }
        | Expr::Var { .. } => {}
        Expr::Array { items, .. } | Expr::Set { items, .. } => {
            items.iter().for_each(|item| walk_expr(item, visit));
        }
        Expr::Object { fields, .. } => {
            for (_, key, value) in fields {
                walk_expr(key, visit);
                walk_expr(value, visit);
            }
        }
        Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
            walk_expr(term, visit);
            walk_query(query, visit);
        }
        Expr::ObjectCompr { key, value, query, .. } => {
            walk_expr(key, visit);
            walk_expr(value, visit);
            walk_query(query, visit);
        }
        Expr::Call { params, .. } => params.iter().for_each(|param| walk_expr(param, visit)),
        Expr::UnaryExpr { expr, .. } => walk_expr(expr, visit),
        Expr::RefDot { .. } | Expr::RefBrack { .. } => walk_ref(expr, visit),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. } => {
            walk_expr(lhs, visit);
            walk_expr(rhs, visit);
        }
        Expr::AssignExpr { op, lhs, rhs, .. } => {
            if matches!(op, regorus::unstable::AssignOp::ColEq) {
                declare(lhs, visit);
            }
            walk_expr(lhs, visit);
            walk_expr(rhs, visit);
        }
        Expr::Membership { key, value, collection, .. } => {
            key.iter().for_each(|key| walk_expr(key, visit));
            walk_expr(value, visit);
            walk_expr(collection, visit);
        }
    }
}

/// A reference is one node; of its parts only the bracketed keys, and what it begins with unless that is a
/// variable, are nodes of their own.
fn walk_ref<'a>(expr: &'a Expr, visit: &mut impl FnMut(Node<'a>)) {
    match expr {
        Expr::RefDot { refr, .. } => walk_ref(refr, visit),
        Expr::RefBrack { refr, index, .. } => {
            walk_ref(refr, visit);
            walk_expr(index, visit);
        }
        Expr::Var { .. } => {}
        other => walk_expr(other, visit),
    }
}
