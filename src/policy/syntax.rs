//! Walking the syntax tree of a policy. The only file that knows the shape of the engine's tree.

use regorus::unstable::{
    AssignOp, Expr, Import, Literal, Module, Parser, Query, Rule, RuleAssign, RuleHead, Source, Span,
};

use super::error::{ErrorCode, Problem};
use super::source::RegoVersion;

/// OPA has no line limit; a JWKS on one line is usual. The engine's own default of 1,024 columns would refuse it.
pub const MAX_COLUMNS: u32 = 1 << 20;
/// Well above any policy written by people, well below what could exhaust memory.
pub const MAX_FILE_BYTES: usize = 16 << 20;
pub const MAX_LINES: usize = 200_000;

pub fn parse(file: &str, text: &str, version: RegoVersion) -> Result<Module, Problem> {
    let limits = (non_zero(MAX_FILE_BYTES), non_zero(MAX_LINES));
    let module = || {
        let source = Source::from_contents_with_limits(file.to_owned(), text.to_owned(), limits.0, limits.1)?;
        let mut parser = Parser::new(&source)?;
        parser.set_max_col(std::num::NonZeroU32::new(MAX_COLUMNS).unwrap_or(std::num::NonZeroU32::MAX));
        if version == RegoVersion::V1 {
            parser.enable_rego_v1()?;
        }
        parser.parse()
    };
    module().map_err(|error: anyhow::Error| Problem {
        code: ErrorCode::Parse,
        ..Problem::from_engine(file, &error)
    })
}

pub const fn non_zero(value: usize) -> std::num::NonZeroUsize {
    match std::num::NonZeroUsize::new(value) {
        Some(value) => value,
        None => std::num::NonZeroUsize::MIN,
    }
}

/// How an expression stands in a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    Plain,
    Negated,
}

/// What a walk comes across, parents before children.
#[derive(Clone, Copy)]
pub enum Node<'a> {
    /// A body, a comprehension or a rule with arguments begins; what is declared from here on holds until it ends.
    Open,
    Close,
    /// A name that this scope declares: `some x`, `every k, v`, an argument, the left of `:=`. All of a scope come
    /// before anything that can use them.
    Local(&'a Span),
    Expr(&'a Expr),
    /// An expression that stands as a statement of its own; follows as an expression too.
    Statement {
        expr: &'a Expr,
        kind: Statement,
    },
    /// The name of a function that is called, and with how many arguments.
    Callee {
        name: &'a Expr,
        arguments: usize,
    },
    /// What `some .. in` or `every .. in` iterates over; its expression follows as a node of its own.
    Domain(&'a Expr),
    /// `with target as value`; neither follows as a node of its own if it names a function.
    With {
        target: &'a Expr,
        value: &'a Expr,
    },
    /// The name in a rule's head.
    Head(&'a Expr),
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

/// A reference with `None` for what is only known when it is evaluated: `data[x].a` is `[data, None, a]`.
pub fn pattern_ref(expr: &Expr) -> Option<Vec<Option<String>>> {
    match expr {
        Expr::Var { span, .. } => Some(vec![Some(span.text().to_owned())]),
        Expr::RefDot { refr, field, .. } => {
            let mut found = pattern_ref(refr)?;
            found.push(Some(string_value(&field.1).unwrap_or_else(|| field.0.text().to_owned())));
            Some(found)
        }
        Expr::RefBrack { refr, index, .. } => {
            let mut found = pattern_ref(refr)?;
            found.push(match index.as_ref() {
                Expr::String { value, .. } | Expr::RawString { value, .. } => string_value(value),
                // No rule is named by a number.
                Expr::Number { span, .. } => Some(format!("[{}]", span.text())),
                _ => None,
            });
            Some(found)
        }
        _ => None,
    }
}

fn string_value(value: &regorus::Value) -> Option<String> {
    value.as_string().ok().map(ToString::to_string)
}

/// Where an expression begins: the engine puts the span of `a.b.c` on its last dot, and that of `a + b` on the operator.
pub fn start_of(expr: &Expr) -> &Span {
    match expr {
        Expr::RefDot { refr: inner, .. }
        | Expr::RefBrack { refr: inner, .. }
        | Expr::BinExpr { lhs: inner, .. }
        | Expr::AssignExpr { lhs: inner, .. }
        | Expr::BoolExpr { lhs: inner, .. }
        | Expr::Call { fcn: inner, .. }
        | Expr::Membership { key: Some(inner), .. }
        | Expr::Membership { key: None, value: inner, .. }
        | Expr::ArithExpr { lhs: inner, .. } => start_of(inner),
        other => other.span(),
    }
}

/// The variable that a reference begins with, if it begins with one.
pub fn root_of(expr: &Expr) -> Option<&Span> {
    match expr {
        Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => root_of(refr),
        Expr::Var { span, .. } => Some(span),
        _ => None,
    }
}

/// Where a node stands in its text. The engine's spans leave out the quotes of a string.
pub fn range(text: &str, span: &Span) -> Option<(usize, usize)> {
    let (from, to) = (usize::try_from(span.start).ok()?, usize::try_from(span.end).ok()?);
    let is_quote = |at: usize| matches!(text.as_bytes().get(at), Some(b'"' | b'`'));
    // Nothing but a string stands directly beside a quote.
    let before = from.checked_sub(1).filter(|before| is_quote(*before));
    Some((before.unwrap_or(from), if is_quote(to) { to + 1 } else { to }))
}

/// As [`range`], for an expression: the engine's span of `set()` takes in what follows it.
pub fn expr_range(text: &str, expr: &Expr) -> Option<(usize, usize)> {
    let (from, to) = range(text, expr.span())?;
    match expr {
        Expr::Set { items, .. } if items.is_empty() => {
            let closes = text.get(from..)?.find(')')?;
            Some((from, from + closes + 1))
        }
        _ => Some((from, to)),
    }
}

/// The name an import is used by, and what it stands for.
pub fn import_alias(import: &Import) -> Option<(String, Vec<String>)> {
    let path = static_ref(&import.refr)?.path;
    let alias =
        import.r#as.as_ref().map_or_else(|| path.last().cloned(), |span| Some(span.text().to_owned()))?;
    Some((alias, path))
}

/// The arguments of a function's head; none for other rules.
pub fn arguments(rule: &Rule) -> &[regorus::unstable::Ref<Expr>] {
    match rule {
        Rule::Default { args, .. } | Rule::Spec { head: RuleHead::Func { args, .. }, .. } => args,
        Rule::Spec { .. } => &[],
    }
}

/// What evaluating a rule takes of the stack, in about 2 KiB of a debug build: its scopes, of which every rule has two
/// and each comprehension one, and expressions within each other.
pub fn depth(rule: &Rule) -> usize {
    const SCOPE: usize = 4;
    let (mut open, mut deepest) = (0usize, 0usize);
    walk_rule(rule, &mut |node| {
        let inside = match node {
            Node::Open => {
                open += SCOPE;
                0
            }
            Node::Close => {
                open = open.saturating_sub(SCOPE);
                0
            }
            Node::Expr(expr) => nesting(expr),
            _ => 0,
        };
        deepest = deepest.max(open + inside);
    });
    deepest
}

/// Expressions within each other, up to where a scope of its own begins. The parser itself ends at 32 levels.
fn nesting(expr: &Expr) -> usize {
    let deepest = |parts: &[&Expr]| parts.iter().map(|part| nesting(part)).max().unwrap_or(0);
    let of_all =
        |items: &[regorus::unstable::Ref<Expr>]| items.iter().map(|item| nesting(item)).max().unwrap_or(0);
    1 + match expr {
        Expr::Array { items, .. } | Expr::Set { items, .. } | Expr::Call { params: items, .. } => {
            of_all(items)
        }
        Expr::Object { fields, .. } => {
            fields.iter().map(|(_, key, value)| deepest(&[key, value])).max().unwrap_or(0)
        }
        Expr::UnaryExpr { expr, .. } | Expr::RefDot { refr: expr, .. } => nesting(expr),
        Expr::RefBrack { refr, index, .. } => deepest(&[refr, index]),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => deepest(&[lhs, rhs]),
        Expr::Membership { value, collection, .. } => deepest(&[value, collection]),
        _ => 0,
    }
}

/// All of a rule, from its head to the end of its last body.
pub fn rule_span(rule: &Rule) -> &Span {
    match rule {
        Rule::Default { span, .. } | Rule::Spec { span, .. } => span,
    }
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
    visit(Node::Open);
    match rule {
        Rule::Default { refr, args, value, .. } => {
            walk_arguments(args, visit);
            walk_head(refr, visit);
            walk_expr(value, visit);
        }
        Rule::Spec { head, bodies, .. } => {
            if let RuleHead::Func { args, .. } = head {
                walk_arguments(args, visit);
            }
            let mut bodies = bodies.iter();
            let first = bodies.next();
            // The head's key and value are evaluated where the first body's variables are.
            walk_scope(first.map(|body| body.query.as_ref()), visit, |visit| {
                let (refr, key, assign) = match head {
                    RuleHead::Compr { refr, assign, .. } | RuleHead::Func { refr, assign, .. } => {
                        (refr, None, assign.as_ref())
                    }
                    RuleHead::Set { refr, key, .. } => (refr, key.as_ref(), None),
                };
                walk_head(refr, visit);
                key.into_iter().for_each(|key| walk_expr(key, visit));
                walk_assign(assign, visit);
                first.into_iter().for_each(|body| walk_assign(body.assign.as_ref(), visit));
            });
            for body in bodies {
                walk_scope(Some(&body.query), visit, |visit| walk_assign(body.assign.as_ref(), visit));
            }
        }
    }
    visit(Node::Close);
}

/// The head's own name is not a use of anything; the keys in its brackets are.
fn walk_head<'a>(expr: &'a Expr, visit: &mut impl FnMut(Node<'a>)) {
    visit(Node::Head(expr));
    walk_keys(expr, visit);
}

fn walk_keys<'a>(expr: &'a Expr, visit: &mut impl FnMut(Node<'a>)) {
    match expr {
        Expr::RefDot { refr, .. } => walk_keys(refr, visit),
        Expr::RefBrack { refr, index, .. } => {
            walk_keys(refr, visit);
            walk_expr(index, visit);
        }
        _ => {}
    }
}

fn walk_arguments<'a>(args: &'a [regorus::unstable::Ref<Expr>], visit: &mut impl FnMut(Node<'a>)) {
    args.iter().for_each(|arg| declare(arg, visit));
    args.iter().for_each(|arg| walk_expr(arg, visit));
}

fn walk_assign<'a>(assign: Option<&'a RuleAssign>, visit: &mut impl FnMut(Node<'a>)) {
    if let Some(assign) = assign {
        walk_expr(&assign.value, visit);
    }
}

/// A query with its own variables, and `terms` that see them.
fn walk_scope<'a, V: FnMut(Node<'a>)>(query: Option<&'a Query>, visit: &mut V, terms: impl FnOnce(&mut V)) {
    visit(Node::Open);
    query.into_iter().for_each(|query| declare_locals(query, visit));
    terms(visit);
    query.into_iter().for_each(|query| walk_statements(query, visit));
    visit(Node::Close);
}

fn declare_locals<'a>(query: &'a Query, visit: &mut impl FnMut(Node<'a>)) {
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => vars.iter().for_each(|span| visit(Node::Local(span))),
            Literal::SomeIn { key, value, .. } => {
                key.iter().for_each(|key| declare(key, visit));
                declare(value, visit);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => {
                if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr.as_ref() {
                    declare(lhs, visit);
                }
            }
            Literal::Every { .. } => {}
        }
    }
}

fn walk_statements<'a>(query: &'a Query, visit: &mut impl FnMut(Node<'a>)) {
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().for_each(|key| walk_expr(key, visit));
                walk_expr(value, visit);
                visit(Node::Domain(collection));
                walk_expr(collection, visit);
            }
            Literal::Expr { expr, .. } => {
                visit(Node::Statement { expr, kind: Statement::Plain });
                walk_expr(expr, visit);
            }
            Literal::NotExpr { expr, .. } => {
                visit(Node::Statement { expr, kind: Statement::Negated });
                walk_expr(expr, visit);
            }
            Literal::Every { key, value, domain, query, .. } => {
                visit(Node::Domain(domain));
                walk_expr(domain, visit);
                visit(Node::Open);
                key.iter().for_each(|span| visit(Node::Local(span)));
                visit(Node::Local(value));
                walk_scope(Some(query), visit, |_| ());
                visit(Node::Close);
            }
        }
        for with in &statement.with_mods {
            visit(Node::With { target: &with.refr, value: &with.r#as });
            walk_expr(&with.r#as, visit);
        }
    }
}

/// Announces every variable of a pattern as a local name.
fn declare<'a>(pattern: &'a Expr, visit: &mut impl FnMut(Node<'a>)) {
    match pattern {
        Expr::Var { span, .. } => visit(Node::Local(span)),
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
            walk_scope(Some(query), visit, |visit| walk_expr(term, visit));
        }
        Expr::ObjectCompr { key, value, query, .. } => {
            walk_scope(Some(query), visit, |visit| {
                walk_expr(key, visit);
                walk_expr(value, visit);
            });
        }
        Expr::Call { fcn, params, .. } => {
            visit(Node::Callee { name: fcn, arguments: params.len() });
            params.iter().for_each(|param| walk_expr(param, visit));
        }
        Expr::UnaryExpr { expr, .. } => walk_expr(expr, visit),
        Expr::RefDot { .. } | Expr::RefBrack { .. } => walk_ref(expr, visit),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. } => {
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
