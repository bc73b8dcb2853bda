//! Definitions that cannot stand beside each other: OPA's compiler refuses them, the engine takes the first, or fails
//! while it decides.

use std::collections::BTreeMap;

use regorus::Value;
use regorus::unstable::{Expr, Rule, RuleHead};

use super::error::{ErrorCode, Problem};
use super::names::{File, Name};
use super::syntax;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Function,
    /// One value.
    Complete,
    Set,
    /// Has members, each by a definition of its own.
    Object,
}

struct Definitions<'a> {
    kind: Kind,
    defaults: usize,
    arity: Option<usize>,
    rule: &'a Rule,
}

/// Every conflict of definitions with each other, with packages and with base data.
#[must_use]
pub fn conflicts(files: &[File<'_>], data: &Value) -> Vec<Problem> {
    let mut problems = lost_sets(files);
    let mut known: BTreeMap<Name, Definitions<'_>> = BTreeMap::new();
    for file in files {
        for rule in &file.module.policy {
            let (head, arity) = syntax::rule_name(rule);
            let Some(name) = file.ground_path(head) else { continue };
            let kind = kind_of(rule, head, arity);
            let defaults = usize::from(matches!(rule.as_ref(), Rule::Default { .. }));
            let Some(earlier) = known.get_mut(&name) else {
                known.insert(name, Definitions { kind, defaults, arity, rule });
                continue;
            };
            earlier.defaults += defaults;
            if defaults == 1 && earlier.defaults > 1 {
                problems.push(problem(rule, format!("multiple default rules {} found", name.join("."))));
            } else if earlier.kind != kind || earlier.arity != arity {
                problems.push(problem(rule, format!("conflicting rules {} found", name.join("."))));
            }
        }
    }
    for (name, found) in &known {
        let package = files.iter().map(|file| &file.package).find(|package| {
            found.kind != Kind::Object && package.len() >= name.len() && package.starts_with(name)
        });
        if let Some(package) = package {
            let message = format!("package {} conflicts with rule {}", package.join("."), name.join("."));
            problems.push(problem(found.rule, message));
        }
        let below = known.range(name.clone()..).nth(1).map(|(below, _)| below);
        if let Some(below) = below.filter(|below| found.kind != Kind::Object && below.starts_with(name)) {
            let message = format!("rule {} conflicts with {}", name.join("."), below.join("."));
            problems.push(problem(found.rule, message));
        }
        if let Some(place) = in_the_way(data, name) {
            let message = format!("conflicting rule for data path {place} found: data files set it, too");
            problems.push(problem(found.rule, message));
        }
    }
    problems
}

/// A rule's name as far as it is known, by its package.
struct Head<'a> {
    package: &'a Name,
    pattern: Vec<Option<String>>,
    rule: &'a Rule,
}

impl Head<'_> {
    /// Whether both can name one and the same thing, and are not written alike.
    fn meets(&self, other: &Self) -> bool {
        let fits = |(one, other): (&Option<String>, &Option<String>)| {
            one.is_none() || other.is_none() || one == other
        };
        self.package == other.package
            && self.pattern != other.pattern
            && self.pattern.len() == other.pattern.len()
            && self.pattern.iter().zip(&other.pattern).all(fits)
    }
}

/// Sets below a variable, `p[x].r contains y`, of which other rules say members, too: the engine would lose the latter, and
/// a policy that asks whether there is none would allow.
fn lost_sets(files: &[File<'_>]) -> Vec<Problem> {
    let heads: Vec<Head<'_>> = files
        .iter()
        .flat_map(|file| file.module.policy.iter().map(move |rule| (&file.package, rule)))
        .filter_map(|(package, rule)| {
            let pattern = syntax::pattern_ref(syntax::rule_name(rule).0)?;
            Some(Head { package, pattern, rule })
        })
        .collect();
    let is_lost = |head: &&Head<'_>| {
        matches!(head.rule, Rule::Spec { head: RuleHead::Set { .. }, .. })
            && head.pattern.contains(&None)
            && heads.iter().any(|other| head.meets(other))
    };
    let message = "a set below a variable is not supported beside other rules that name the same";
    heads.iter().filter(is_lost).map(|head| problem(head.rule, message.to_owned())).collect()
}

fn kind_of(rule: &Rule, head: &Expr, arity: Option<usize>) -> Kind {
    match rule {
        _ if arity.is_some() => Kind::Function,
        _ if syntax::static_ref(head).is_none_or(|found| !found.is_whole) => Kind::Object,
        Rule::Spec { head: RuleHead::Set { .. }, .. } => Kind::Set,
        _ => Kind::Complete,
    }
}

/// Base data at a rule's name, or something above it that has no members.
fn in_the_way(data: &Value, name: &Name) -> Option<String> {
    let mut here = data;
    for (depth, part) in name.iter().enumerate().skip(1) {
        let Value::Object(members) = here else { return Some(name.get(1..depth)?.join("/")) };
        here = members.get(&Value::from(part.as_str()))?;
    }
    Some(name.get(1..)?.join("/"))
}

fn problem(rule: &Rule, message: String) -> Problem {
    let at = syntax::start_of(syntax::rule_name(rule).0);
    Problem {
        file: at.source.get_path().clone(),
        line: at.line,
        column: at.col,
        code: ErrorCode::Compile,
        message,
    }
}
