//! What can be known of a policy before the first request: which parts of `input` it can read, and the mistakes that
//! OPA's compiler refuses and the engine would only meet while deciding (unknown functions, wrong arity, recursion).
//!
//! Recursion matters most: a recursive function would overflow the stack and end the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use regorus::unstable::{Expr, Rule, Span};

use super::builtins::{self, Arity, Purpose};
use super::desugar;
use super::error::{ErrorCode, Problem};
use super::graph::{self, Trouble, Uses};
use super::names::{File, Name, Scopes};
use super::rewrite;
use super::syntax::{self, Node, Statement};

/// The parts of `input` that some rule may read, as prefixes of references.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputReads(BTreeSet<Vec<String>>);

impl InputReads {
    #[must_use]
    pub fn everything() -> Self {
        Self(BTreeSet::from([Vec::new()]))
    }

    /// Whether any rule may read something at, above or below `path`.
    #[must_use]
    pub fn touches(&self, path: &[&str]) -> bool {
        self.0.iter().any(|read| read.iter().zip(path).all(|(a, b)| a == b))
    }
}

impl InputReads {
    /// Whether any rule spells out `input.<name>`, as opposed to reading `input` as a whole.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.0.iter().any(|read| read.first().is_some_and(|first| first == name))
    }
}

pub struct Analysis {
    pub reads: InputReads,
    pub problems: Vec<Problem>,
}

#[must_use]
pub fn analyse(files: &[File<'_>], purpose: Purpose) -> Analysis {
    let functions = functions(files);
    let mut reads = InputReads::default();
    let mut problems = Vec::new();
    let mut uses: BTreeMap<Name, Uses<'_>> = BTreeMap::new();
    for file in files {
        if file.package.get(1).is_some_and(|first| desugar::keyword_of(first).is_some()) {
            let message =
                "a package whose name begins with a keyword is not supported; put it below another one";
            problems.push(problem_at(&file.module.package.span, ErrorCode::Parse, message.to_owned()));
        }
        reads.0.extend(file.imports.values().filter_map(|path| input_path(path)));
        for rule in &file.module.policy {
            let (name_expr, _) = syntax::rule_name(rule);
            let name = file.rule_path(name_expr);
            problems.extend(syntax::arguments(rule).iter().filter_map(|arg| computed(arg)));
            let new = || Uses { at: rule.span(), names: BTreeSet::new(), depth: 1 };
            let entry = uses.entry(name).or_insert_with(new);
            entry.depth = entry.depth.max(syntax::depth(rule));
            look_into(file, rule, &functions, purpose, &mut reads, &mut problems, &mut entry.names);
        }
    }
    problems.extend(chains(&uses));
    Analysis { reads, problems }
}

/// The whole names of all functions.
#[must_use]
pub fn function_names(files: &[File<'_>]) -> BTreeSet<Name> {
    functions(files).into_keys().collect()
}

fn functions(files: &[File<'_>]) -> HashMap<Name, BTreeSet<usize>> {
    let mut functions: HashMap<Name, BTreeSet<usize>> = HashMap::new();
    for file in files {
        for rule in &file.module.policy {
            if let (name, Some(arity)) = syntax::rule_name(rule) {
                functions.entry(file.rule_path(name)).or_default().insert(arity);
            }
        }
    }
    functions
}

fn look_into(
    file: &File<'_>,
    rule: &Rule,
    functions: &HashMap<Name, BTreeSet<usize>>,
    purpose: Purpose,
    reads: &mut InputReads,
    problems: &mut Vec<Problem>,
    names: &mut BTreeSet<graph::Pattern>,
) {
    let mut scopes = Scopes::default();
    // The call that is a statement of its own may leave its result in a last argument, and that of `walk` may be assigned.
    let mut statement: Option<&Expr> = None;
    let mut walked: Option<u32> = None;
    syntax::walk_rule(rule, &mut |node| match node {
        Node::Open => scopes.open(),
        Node::Close => scopes.close(),
        Node::Local(span) => scopes.declare(span),
        Node::Statement { expr, kind } => {
            statement = match expr {
                Expr::Call { fcn, .. } => Some(fcn),
                _ => None,
            };
            let is_plain = kind == Statement::Plain;
            walked = rewrite::assigned_walk(expr).filter(|_| is_plain).map(|span| span.start);
        }
        Node::Callee { name, arguments } => match callee(
            &Called {
                file,
                name,
                arguments,
                is_local: syntax::root_of(name).is_some_and(|root| scopes.has(root.text())),
                is_statement: statement.is_some_and(|statement| std::ptr::eq(statement, name)),
            },
            functions,
            purpose,
        ) {
            Ok(Some(name)) => {
                names.insert(name.into_iter().map(Some).collect());
            }
            Ok(None) => {}
            Err(message) => {
                problems.push(problem_at(syntax::start_of(name), ErrorCode::UnknownFunction, message));
            }
        },
        Node::Expr(expr) if rewrite::walk_call(expr).is_some_and(|span| Some(span.start) != walked) => {
            let message = "the result of `walk` is many values; write walk(x, [path, value]) instead";
            problems.push(problem_at(syntax::start_of(expr), ErrorCode::Compile, message.to_owned()));
        }
        Node::Expr(expr) => {
            let Some(found) = syntax::static_ref(expr) else { return };
            let Some(root) = found.path.first().filter(|root| !scopes.has(root)) else { return };
            let full = file.resolve(&found.path);
            if let Some(path) = input_path(&full) {
                reads.0.insert(path);
            } else {
                let pattern = syntax::pattern_ref(expr).unwrap_or_default();
                let rest = pattern.into_iter().skip(1);
                names.insert(
                    file.resolve(std::slice::from_ref(root)).into_iter().map(Some).chain(rest).collect(),
                );
            }
        }
        Node::With { target, .. } => {
            // What replaces a part of input may be read where the part is.
            let path = syntax::static_ref(target).map(|found| file.resolve(&found.path));
            reads.0.extend(path.and_then(|path| input_path(&path)));
        }
        Node::Domain(_) | Node::Head(_) => {}
    });
}

fn input_path(full: &[String]) -> Option<Vec<String>> {
    full.split_first().filter(|(root, _)| *root == "input").map(|(_, rest)| rest.to_vec())
}

/// A pattern is made of constants, variables and collections; the engine takes nothing else.
fn computed(argument: &Expr) -> Option<Problem> {
    match argument {
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().find_map(|item| computed(item)),
        Expr::Object { fields, .. } => fields.iter().find_map(|(_, _, value)| computed(value)),
        Expr::Call { .. } | Expr::ArithExpr { .. } | Expr::BinExpr { .. } => {
            let message =
                "an argument of a function's head cannot be computed; name it, and compare in the body";
            Some(problem_at(syntax::start_of(argument), ErrorCode::Compile, message.to_owned()))
        }
        _ => None,
    }
}

/// A call, and how it stands.
struct Called<'a> {
    file: &'a File<'a>,
    name: &'a Expr,
    arguments: usize,
    is_local: bool,
    is_statement: bool,
}

/// The user function a call means, or `None` for a built-in.
fn callee(
    called: &Called<'_>,
    functions: &HashMap<Name, BTreeSet<usize>>,
    purpose: Purpose,
) -> Result<Option<Name>, String> {
    let Called { file, name, arguments, .. } = *called;
    let path = syntax::static_ref(name).filter(|found| found.is_whole).map(|found| found.path);
    let Some(path) = path else { return Err("only a name can be called".to_owned()) };
    let full = file.resolve(&path);
    let dotted = path.join(".");
    if let Some(arities) = functions.get(&full) {
        let fits = fits(arities, called);
        return if fits { Ok(Some(full)) } else { Err(arity_message(&dotted, arities, arguments)) };
    }
    // An import or a variable takes the name from the built-ins.
    let is_taken = called.is_local || path.first().is_some_and(|root| file.imports.contains_key(root));
    match builtins::arity(&dotted).filter(|_| purpose.permits(&dotted) && !is_taken) {
        Some(Arity::Any) => Ok(None),
        Some(Arity::Exactly(arity)) => {
            let arities = BTreeSet::from([arity]);
            if fits(&arities, called) { Ok(None) } else { Err(arity_message(&dotted, &arities, arguments)) }
        }
        None if is_taken => Err(format!("unknown function `{dotted}`")),
        None => Err(builtins::why_unknown(&dotted)),
    }
}

/// One more argument than declared takes the result: `f(x, y)` for `y = f(x)`, where the call stands alone.
fn fits(arities: &BTreeSet<usize>, called: &Called<'_>) -> bool {
    let given = called.arguments;
    arities.iter().any(|arity| *arity == given || (called.is_statement && arity + 1 == given))
}

fn arity_message(name: &str, arities: &BTreeSet<usize>, found: usize) -> String {
    let wanted = arities.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    format!("`{name}` takes {wanted} argument(s), not {found}")
}

fn problem_at(span: &Span, code: ErrorCode, message: String) -> Problem {
    Problem { file: span.source.get_path().clone(), line: span.line, column: span.col, code, message }
}

fn chains(uses: &BTreeMap<Name, Uses<'_>>) -> Vec<Problem> {
    let at = |name: &Name| uses.get(name).map(|found| found.at);
    match graph::trouble(uses) {
        None => Vec::new(),
        Some(Trouble::Recursive(names)) => names
            .iter()
            .filter_map(|name| {
                let message = format!("rule {} is recursive", name.join("."));
                Some(problem_at(at(name)?, ErrorCode::Recursion, message))
            })
            .collect(),
        Some(Trouble::TooDeep(name, depth)) => {
            let message = format!(
                "rule {} rests on a chain of rules that is {depth} levels deep, and at most {} fit on a stack",
                name.join("."),
                graph::MAX_CHAIN_DEPTH
            );
            at(&name).map(|at| problem_at(at, ErrorCode::Compile, message)).into_iter().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::RegoVersion;
    use super::*;

    fn analysed(texts: &[&str]) -> Analysis {
        let parsed = texts.iter().map(|text| syntax::parse("p.rego", text, RegoVersion::V1).unwrap());
        let modules: Vec<_> = parsed.collect();
        analyse(&modules.iter().map(File::new).collect::<Vec<_>>(), Purpose::Decision)
    }

    fn messages(texts: &[&str]) -> Vec<String> {
        analysed(texts).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finds_what_of_input_can_be_read() {
        let reads = analysed(&["package a\nimport input.attributes.request.http as h\n\
            x := h.headers\ny := input.jit.covering[0].id\nz if input.parsed_body.a == 1\n\
            w if { some k; input.parsed_query[k] }"])
        .reads;
        for (path, touched) in [
            (&["attributes", "request", "http", "headers"][..], true),
            (&["attributes", "request", "time"], false),
            (&["attributes"], true),
            (&["jit", "covering"], true),
            (&["jit", "principals"], false),
            (&["parsed_query"], true),
            (&["parsed_path"], false),
        ] {
            assert_eq!(reads.touches(path), touched, "{path:?}");
        }
        assert!(analysed(&["package a\nx := json.marshal(input)"]).reads.touches(&["anything"]));
        assert!(
            analysed(&["package a\nx := 1 if y with input as {}\ny := true"]).reads.touches(&["anything"])
        );
    }

    #[test]
    fn refuses_unknown_functions_and_wrong_arity() {
        assert_eq!(messages(&["package a\nx if f(1)"]), ["p.rego:2:6: unknown function `f`"]);
        assert_eq!(
            messages(&["package a\nimport data.lib.u\nx if u.g(1)"]),
            ["p.rego:3:6: unknown function `u.g`"]
        );
        assert_eq!(
            messages(&["package a\nx := count(1, 2, 3)"]),
            ["p.rego:2:6: `count` takes 1 argument(s), not 3"]
        );
        assert_eq!(
            messages(&["package a\nf(x) := x\ny := f(1, 2, 3)"]),
            ["p.rego:3:6: `f` takes 1 argument(s), not 3"]
        );
        let good = [
            "package a\nimport data.lib.u\nx if u.g(1)\nprint_it if print(1, 2)\nz if { startswith(\"a\", \"b\") }",
            "package lib.u\ng(x) := x",
        ];
        assert_eq!(messages(&good), Vec::<String>::new());
    }

    #[test]
    fn refuses_recursion_and_only_that() {
        assert_eq!(messages(&["package a\nf(x) := f(x)"]), ["p.rego:2:1: rule data.a.f is recursive"]);
        assert_eq!(messages(&["package a\nf(x) := g(x)\ng(x) := data.a.f(x)"]).len(), 2);
        assert_eq!(messages(&["package a\np := q\nq := data.a.p"]).len(), 2);
        let good = "package a\nx := y if { y := input.y }\ny := 1 if x\np.q := 1\np.r := p.q\n\
            h(v) := v\nk := [h(v) | some v in [1]]\nallow if { some p in [1]; p == 1 }";
        assert_eq!(messages(&[good]), Vec::<String>::new());
    }
}
