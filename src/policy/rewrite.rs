//! A module's text with OPA's meaning, for an engine that differs here and there.
//!
//! * Arithmetic, set operators and iteration become calls of our own functions: an operand of the wrong type makes the
//!   expression undefined, where the engine would fail the whole evaluation, and whoever writes request bodies could
//!   make every decision an error.
//! * Imports are spelled out: the engine shares them between the files of a package.
//! * A variable that has the name of a rule or import gets one of its own.
//! * `f(x, y)` for a function that leaves its result in `y` becomes `f(x) = y`.
//! * A rule whose name begins with a keyword moves to a package of its own.
//!
//! Every line stays where it was; [`Edited`] knows the columns.

use std::collections::BTreeSet;

use regorus::unstable::{ArithOp, BinOp, Expr, Rule, Span};
use thiserror::Error;

use super::builtins::operators::{
    ADD, DIVIDE, DOMAIN, INTERSECT, MEMBER, MEMBER_WITH_KEY, MULTIPLY, REMAINDER, SUBTRACT, UNITE,
};
use super::builtins::template_string::PRINTED;
use super::builtins::{self, WRAPPERS};
use super::desugar;
use super::edits::{Edit, Edited, blank};
use super::names::{File, Name, Scopes, reference};
use super::syntax::{self, Node, Statement};

/// What of other files the rewriting of one must know.
#[derive(Default)]
pub struct Context {
    /// The first part of the names of this package's rules.
    pub rule_roots: BTreeSet<String>,
    /// The functions of all policies, by their whole names.
    pub functions: BTreeSet<Name>,
    /// Those that some `with` of the whole policy replaces.
    pub replaced_functions: BTreeSet<Name>,
    /// Functions of ours that some `with` of the whole policy replaces, by their names.
    pub replaced: BTreeSet<String>,
}

/// One file becomes one module, and one more for each package of rules that begin with a keyword.
///
/// # Errors
/// The text cannot be rewritten: a mistake here. Left as it was, it would not mean what it means in OPA.
pub fn rewrite(file: &File<'_>, text: &str, context: &Context) -> Result<Vec<Edited>, CannotRewrite> {
    let mut modules = vec![rewrite_part(file, text, context, None)?];
    let keywords: BTreeSet<String> =
        file.module.policy.iter().filter_map(|rule| keyword_root(rule)).collect();
    for keyword in &keywords {
        modules.push(rewrite_part(file, text, context, Some(keyword))?);
    }
    Ok(modules)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "an expression in this file cannot be given OPA's meaning; put the parts of the expression on rules of their own"
)]
pub struct CannotRewrite;

fn keyword_root(rule: &Rule) -> Option<String> {
    let root = syntax::root_of(syntax::rule_name(rule).0)?;
    desugar::keyword_of(root.text()).map(str::to_owned)
}

/// The rules that belong to the file's own package, or those that moved to the package of one keyword.
fn rewrite_part(
    file: &File<'_>,
    text: &str,
    context: &Context,
    moved: Option<&String>,
) -> Result<Edited, CannotRewrite> {
    let mut edits = Vec::new();
    for import in &file.module.imports {
        let is_ours =
            syntax::import_alias(import).is_some_and(|(alias, _)| file.imports.contains_key(&alias));
        if is_ours {
            edits.push(blanked(text, &import.span)?);
        }
    }
    if let Some(keyword) = moved {
        let mut package = file.package.clone();
        package.push(keyword.clone());
        let (from, to) = range(text, &file.module.package.span)?;
        let line =
            format!("package {}", reference(&package).trim_start_matches("data.").trim_start_matches("data"));
        edits.push(Edit::replace(from, to, line));
    }
    for rule in &file.module.policy {
        if keyword_root(rule).as_ref() == moved {
            let mut rewriter = Rewriter { file, text, context, moved: moved.is_some(), edits: &mut edits };
            rewriter.rule(rule)?;
        } else {
            edits.push(blanked(text, syntax::rule_span(rule))?);
        }
    }
    Edited::new(text, edits).ok_or(CannotRewrite)
}

fn blanked(text: &str, span: &Span) -> Result<Edit, CannotRewrite> {
    let (from, to) = range(text, span)?;
    Ok(Edit::replace(from, to, blank(text.get(from..to).ok_or(CannotRewrite)?)))
}

fn range(text: &str, span: &Span) -> Result<(usize, usize), CannotRewrite> {
    syntax::range(text, span).ok_or(CannotRewrite)
}

struct Rewriter<'a, 'e> {
    file: &'a File<'a>,
    text: &'a str,
    context: &'a Context,
    /// Whether the rule leaves its package, and must spell out the names of those it leaves behind.
    moved: bool,
    edits: &'e mut Vec<Edit>,
}

impl<'a> Rewriter<'a, '_> {
    fn rule(&mut self, rule: &'a Rule) -> Result<(), CannotRewrite> {
        let mut scopes = Scopes::default();
        let mut result = Ok(());
        syntax::walk_rule(rule, &mut |node| {
            if result.is_ok() {
                result = self.node(node, &mut scopes);
            }
        });
        result
    }

    fn node(&mut self, node: Node<'a>, scopes: &mut Scopes<'a>) -> Result<(), CannotRewrite> {
        match node {
            Node::Open => scopes.open(),
            Node::Close => scopes.close(),
            Node::Local(span) => {
                scopes.declare(span);
                self.variable(span, scopes)?;
            }
            Node::Expr(expr) => {
                self.edits.extend(operator_edits(expr, self.text).into_iter().flatten());
                self.membership(expr)?;
                self.printed(expr)?;
                if let Some(root) = syntax::root_of(expr) {
                    self.variable(root, scopes)?;
                }
            }
            Node::Statement { expr, kind } => {
                self.output_argument(expr, scopes)?;
                self.walked(expr, kind)?;
            }
            Node::Callee { name, .. } => self.callee(name, scopes)?,
            Node::Domain(expr) => self.edits.extend(domain_edits(expr).into_iter().flatten()),
            Node::With { target, value } => {
                self.target(target, scopes)?;
                self.replacement(value, scopes)?;
            }
            Node::Head(name) => self.head(name)?,
        }
        Ok(())
    }

    /// A variable or what a reference begins with.
    fn variable(&mut self, span: &Span, scopes: &Scopes<'_>) -> Result<(), CannotRewrite> {
        let name = span.text();
        let (from, to) = range(self.text, span)?;
        let is_keyword = desugar::keyword_of(name).is_some();
        if scopes.has(name) {
            if self.context.rule_roots.contains(name) || self.file.imports.contains_key(name) {
                self.edits.push(Edit::replace(from, to, format!("daypass__local__{name}")));
            }
        } else if is_keyword
            || self.file.imports.contains_key(name)
            || (self.moved && self.context.rule_roots.contains(name))
        {
            let full = self.file.resolve(&[name.to_owned()]);
            self.edits.push(Edit::replace(from, to, reference(&full)));
        }
        Ok(())
    }

    /// The name of a function, which may be one of ours that a `with` somewhere replaces.
    fn callee(&mut self, name: &Expr, scopes: &Scopes<'_>) -> Result<(), CannotRewrite> {
        match self.builtin(name, scopes) {
            Some(dotted) if self.context.replaced.contains(&dotted) => self.wrapped(name, &dotted),
            Some(_) => Ok(()),
            None if self.is_replaced(name, scopes) => self.spelled_out(name),
            None => syntax::root_of(name).map_or(Ok(()), |root| self.variable(root, scopes)),
        }
    }

    /// Whether some `with` of any file replaces this function: the engine compares names as they are written.
    fn is_replaced(&self, name: &Expr, scopes: &Scopes<'_>) -> bool {
        self.function(name, scopes).is_some_and(|full| self.context.replaced_functions.contains(&full))
    }

    /// The whole name of the policies' function that a name means.
    fn function(&self, name: &Expr, scopes: &Scopes<'_>) -> Option<Name> {
        let found = syntax::static_ref(name).filter(|found| found.is_whole)?;
        let is_local = found.path.first().is_some_and(|root| scopes.has(root));
        let full = self.file.resolve(&found.path);
        (!is_local && self.context.functions.contains(&full)).then_some(full)
    }

    fn spelled_out(&mut self, name: &Expr) -> Result<(), CannotRewrite> {
        let path = syntax::static_ref(name).ok_or(CannotRewrite)?.path;
        let (from, to) = (range(self.text, syntax::start_of(name))?.0, range(self.text, name.span())?.1);
        self.edits.push(Edit::replace(from, to, reference(&self.file.resolve(&path))));
        Ok(())
    }

    /// What a `with` replaces: the engine knows a rule of this package by its whole name only.
    fn target(&mut self, target: &Expr, scopes: &Scopes<'_>) -> Result<(), CannotRewrite> {
        let root = syntax::root_of(target).filter(|root| !scopes.has(root.text()));
        let Some(root) = root.filter(|root| self.context.rule_roots.contains(root.text())) else {
            return self.callee(target, scopes);
        };
        let name = syntax::static_ref(target).map(|found| self.file.resolve(&found.path)).unwrap_or_default();
        if self.file.imports.contains_key(root.text()) || self.context.functions.contains(&name) {
            return self.callee(target, scopes);
        }
        let (from, to) = range(self.text, root)?;
        let full = self.file.resolve(&[root.text().to_owned()]);
        self.edits.push(Edit::replace(from, to, reference(&full)));
        Ok(())
    }

    /// `x in xs` is undefined where a part of it is; to the engine it is false.
    fn membership(&mut self, expr: &Expr) -> Result<(), CannotRewrite> {
        let Expr::Membership { span, key, value, collection, .. } = expr else { return Ok(()) };
        let ends = syntax::expr_range(self.text, value).ok_or(CannotRewrite)?.1;
        let begins = range(self.text, syntax::start_of(collection))?.0;
        let operator = find_word(self.text, ends, begins, "in").ok_or(CannotRewrite)?;
        let function = if key.is_some() { MEMBER_WITH_KEY } else { MEMBER };
        // Parentheses around its parts are in its span, and not in theirs.
        let (first, last) = range(self.text, span)?;
        let last = last.max(syntax::expr_range(self.text, collection).ok_or(CannotRewrite)?.1);
        self.edits.push(Edit::insert(first, format!("{function}(")));
        self.edits.push(Edit::replace(operator, operator + 2, ","));
        self.edits.push(Edit::close(last, ")"));
        Ok(())
    }

    /// What is printed may be undefined or be several things, and decides nothing.
    fn printed(&mut self, expr: &Expr) -> Result<(), CannotRewrite> {
        let Expr::Call { span, fcn, params, .. } = expr else { return Ok(()) };
        if !matches!(fcn.as_ref(), Expr::Var { span, .. } if span.text() == "print") {
            return Ok(());
        }
        let closes = range(self.text, span)?.1.saturating_sub(1);
        let mut begins = range(self.text, fcn.span())?.1;
        begins += self.text.get(begins..closes).and_then(|rest| rest.find('(')).ok_or(CannotRewrite)? + 1;
        let mut params = params.iter().peekable();
        while let Some(param) = params.next() {
            let behind = syntax::expr_range(self.text, param).ok_or(CannotRewrite)?.1;
            let until = match params.peek() {
                Some(next) => range(self.text, syntax::start_of(next))?.0,
                None => closes,
            };
            let comma = find_operator(self.text, behind, until, ',');
            let ends = comma.or((params.peek().is_none()).then_some(closes)).ok_or(CannotRewrite)?;
            self.edits.push(Edit::insert(begins, format!("{PRINTED}({{daypass__print | daypass__print := ")));
            self.edits.push(Edit::close(ends, "})"));
            begins = ends + 1;
        }
        Ok(())
    }

    /// `[path, value] := walk(x)` has every value there is; the engine knows only `walk(x, [path, value])` for that.
    fn walked(&mut self, expr: &Expr, kind: Statement) -> Result<(), CannotRewrite> {
        let Some(call) = assigned_walk(expr).filter(|_| kind == Statement::Plain) else { return Ok(()) };
        let (begins, closes) = range(self.text, call)?;
        let variable = format!("daypass__walk_{begins}");
        self.edits.push(Edit::insert(begins, format!("{variable}; ")));
        self.edits.push(Edit::insert(closes - 1, format!(", {variable}")));
        Ok(())
    }

    /// What a `with` puts in a function's place: the engine takes only functions of policies there.
    fn replacement(&mut self, value: &Expr, scopes: &Scopes<'_>) -> Result<(), CannotRewrite> {
        match self.builtin(value, scopes) {
            Some(dotted) => self.wrapped(value, &dotted),
            None if self.function(value, scopes).is_some() => self.spelled_out(value),
            None => Ok(()),
        }
    }

    fn wrapped(&mut self, name: &Expr, dotted: &str) -> Result<(), CannotRewrite> {
        let (from, to) = (range(self.text, syntax::start_of(name))?.0, range(self.text, name.span())?.1);
        self.edits.push(Edit::replace(from, to, format!("data.{WRAPPERS}.{}", builtins::wrapper(dotted))));
        Ok(())
    }

    /// The built-in that a name means.
    fn builtin(&self, name: &Expr, scopes: &Scopes<'_>) -> Option<String> {
        let found = syntax::static_ref(name).filter(|found| found.is_whole)?;
        let root = found.path.first()?;
        let is_own = scopes.has(root)
            || self.file.imports.contains_key(root)
            || self.context.rule_roots.contains(root)
            || desugar::keyword_of(root).is_some();
        let dotted = found.path.join(".");
        (!is_own && builtins::exists(&dotted)).then_some(dotted)
    }

    /// Functions of ours take no argument for their result; the engine's and those of policies do.
    fn output_argument(&mut self, expr: &Expr, scopes: &Scopes<'_>) -> Result<(), CannotRewrite> {
        let Expr::Call { span, fcn, params, .. } = expr else { return Ok(()) };
        let Some(arity) = self.builtin(fcn, scopes).and_then(|name| builtins::own_arity(&name)) else {
            return Ok(());
        };
        let Some((output, inputs)) = params.split_last().filter(|(_, inputs)| inputs.len() == arity) else {
            return Ok(());
        };
        let begins = range(self.text, syntax::start_of(output))?.0;
        let closes = range(self.text, span)?.1;
        match inputs.last() {
            Some(last) => {
                let comma = find_operator(
                    self.text,
                    syntax::expr_range(self.text, last).ok_or(CannotRewrite)?.1,
                    begins,
                    ',',
                )
                .ok_or(CannotRewrite)?;
                self.edits.push(Edit::replace(comma, comma + 1, ") ="));
            }
            None => self.edits.push(Edit::insert(begins, ") = ")),
        }
        // The parenthesis that closed the call, and a comma that may stand before it.
        let ends = syntax::expr_range(self.text, output).ok_or(CannotRewrite)?.1;
        let rest = self.text.get(ends..closes).ok_or(CannotRewrite)?;
        self.edits.push(Edit::replace(ends, closes, blank(rest)));
        Ok(())
    }

    /// `daypass__keyword__as.foo` is `foo` in its own package.
    fn head(&mut self, name: &Expr) -> Result<(), CannotRewrite> {
        let Some(root) = syntax::root_of(name).filter(|root| desugar::keyword_of(root.text()).is_some())
        else {
            return Ok(());
        };
        let (from, to) = range(self.text, root)?;
        // The desugared text has a dot directly behind the keyword.
        self.edits.push(Edit::replace(from, to + 1, ""));
        Ok(())
    }
}

/// The call of `walk` with nothing to leave its result in.
pub fn walk_call(expr: &Expr) -> Option<&Span> {
    match expr {
        Expr::Call { span, fcn, params, .. } if params.len() == 1 => {
            matches!(fcn.as_ref(), Expr::Var { span, .. } if span.text() == "walk").then_some(span)
        }
        _ => None,
    }
}

/// As [`walk_call`], where its result is given to a variable, or to an array of them.
pub fn assigned_walk(expr: &Expr) -> Option<&Span> {
    let Expr::AssignExpr { lhs, rhs, .. } = expr else { return None };
    let is_variable = |expr: &Expr| matches!(expr, Expr::Var { .. });
    let is_known = match lhs.as_ref() {
        Expr::Array { items, .. } => items.iter().all(|item| is_variable(item)),
        other => is_variable(other),
    };
    walk_call(rhs).filter(|_| is_known)
}

/// Every function of ours that a `with` replaces anywhere.
#[must_use]
pub fn replaced_builtins(files: &[File<'_>]) -> BTreeSet<String> {
    let mut replaced = BTreeSet::new();
    for rule in files.iter().flat_map(|file| &file.module.policy) {
        syntax::walk_rule(rule, &mut |node| {
            if let Node::With { target, .. } = node
                && let Some(found) = syntax::static_ref(target).filter(|found| found.is_whole)
            {
                let dotted = found.path.join(".");
                if builtins::own_arity(&dotted).is_some() {
                    replaced.insert(dotted);
                }
            }
        });
    }
    replaced
}

/// Every name of anything that a `with` replaces anywhere.
#[must_use]
pub fn replaced_names(files: &[File<'_>]) -> BTreeSet<Name> {
    let mut replaced = BTreeSet::new();
    for file in files {
        for rule in &file.module.policy {
            syntax::walk_rule(rule, &mut |node| {
                if let Node::With { target, .. } = node {
                    replaced.extend(syntax::static_ref(target).map(|found| file.resolve(&found.path)));
                }
            });
        }
    }
    replaced
}

/// The built-ins that policies name as values of `with`, which need a function of a policy in their place.
#[must_use]
pub fn replacing_builtins(files: &[File<'_>]) -> BTreeSet<String> {
    let mut replacing = BTreeSet::new();
    for rule in files.iter().flat_map(|file| &file.module.policy) {
        syntax::walk_rule(rule, &mut |node| {
            if let Node::With { value, .. } = node
                && let Some(found) = syntax::static_ref(value).filter(|found| found.is_whole)
            {
                let dotted = found.path.join(".");
                if builtins::exists(&dotted) {
                    replacing.insert(dotted);
                }
            }
        });
    }
    replacing
}

fn operator_edits(expr: &Expr, text: &str) -> Option<[Edit; 3]> {
    let (span, function, symbol, lhs, rhs) = match expr {
        // Plain from the text, and cannot fail.
        Expr::ArithExpr { op: ArithOp::Add | ArithOp::Sub | ArithOp::Mul, lhs, rhs, .. }
            if is_number(lhs) && is_number(rhs) =>
        {
            return None;
        }
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
    let (whole, left, right) =
        (syntax::range(text, span)?, syntax::expr_range(text, lhs)?, syntax::expr_range(text, rhs)?);
    let operator = find_operator(text, left.1, right.0, symbol)?;
    Some([
        Edit::insert(whole.0, format!("{function}(")),
        Edit::replace(operator, operator + 1, ","),
        Edit::close(whole.1, ")"),
    ])
}

/// Only what has a value that is not plain from the text can be something else than a collection.
fn domain_edits(expr: &Expr) -> Option<[Edit; 2]> {
    if !matches!(expr, Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } | Expr::Call { .. }) {
        return None;
    }
    let start = usize::try_from(syntax::start_of(expr).start).ok()?;
    let end = usize::try_from(expr.span().end).ok()?;
    Some([Edit::insert(start, format!("{DOMAIN}(")), Edit::close(end, ")")])
}

fn is_number(expr: &Expr) -> bool {
    matches!(expr, Expr::Number { .. })
}

/// As [`find_operator`], for an operator that is a word.
fn find_word(text: &str, from: usize, to: usize, word: &str) -> Option<usize> {
    let first = word.chars().next()?;
    let found = find_operator(text, from, to, first)?;
    text.get(found..to)?.starts_with(word).then_some(found)
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
    use super::super::source::RegoVersion;
    use super::*;

    fn rewritten(text: &str) -> String {
        let module = syntax::parse("p.rego", text, RegoVersion::V1).unwrap();
        let rule_roots = ["taken".to_owned()].into();
        rewrite(&File::new(&module), text, &Context { rule_roots, ..Context::default() }).unwrap()[0]
            .text
            .clone()
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
