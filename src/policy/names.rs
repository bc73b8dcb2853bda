//! What a name in a policy means: a variable of its own, an import of its file, a rule of its package.

use std::collections::{BTreeSet, HashMap, HashSet};

use regorus::unstable::{Expr, Module, Span};

use super::desugar;
use super::syntax;

/// A rule under its full name, `data.envoy.authz.allow`.
pub type Name = Vec<String>;

/// One file's view of names.
pub struct File<'a> {
    pub module: &'a Module,
    pub package: Name,
    pub imports: HashMap<String, Name>,
}

impl<'a> File<'a> {
    #[must_use]
    pub fn new(module: &'a Module) -> Self {
        let imports = module.imports.iter().filter_map(syntax::import_alias);
        let imports = imports
            .filter(|(_, path)| path.first().is_some_and(|root| matches!(root.as_str(), "data" | "input")));
        Self { module, package: syntax::package_path(module), imports: imports.collect() }
    }

    #[must_use]
    pub fn rule_path(&self, name: &Expr) -> Name {
        let mut path = self.package.clone();
        path.extend(syntax::static_ref(name).map(|found| found.path).unwrap_or_default());
        if let Some(root) = path.get_mut(self.package.len())
            && let Some(keyword) = desugar::keyword_of(root)
        {
            *root = keyword.to_owned();
        }
        path
    }

    /// The part of a rule's full name that is known without evaluating it; none where that is only its package.
    #[must_use]
    pub fn ground_path(&self, name: &Expr) -> Option<Name> {
        let path = self.rule_path(name);
        (path.len() > self.package.len()).then_some(path)
    }

    /// The full name behind a reference that does not begin with a local variable.
    #[must_use]
    pub fn resolve(&self, path: &[String]) -> Name {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let first = desugar::keyword_of(first).unwrap_or(first);
        let mut full = match first {
            "data" | "input" => vec![first.to_owned()],
            _ => self.imports.get(first).cloned().unwrap_or_else(|| {
                let mut own = self.package.clone();
                own.push(first.to_owned());
                own
            }),
        };
        full.extend_from_slice(rest);
        full
    }
}

/// The first part of each rule's name, by package.
#[must_use]
pub fn rule_roots(files: &[File<'_>]) -> HashMap<Name, BTreeSet<String>> {
    let mut roots: HashMap<Name, BTreeSet<String>> = HashMap::new();
    for file in files {
        let of_package = roots.entry(file.package.clone()).or_default();
        for rule in &file.module.policy {
            let path = file.rule_path(syntax::rule_name(rule).0);
            of_package.extend(path.get(file.package.len()).cloned());
        }
    }
    roots
}

/// The variables that are declared where a walk is, innermost last.
#[derive(Default)]
pub struct Scopes<'a>(Vec<HashSet<&'a str>>);

impl<'a> Scopes<'a> {
    pub fn open(&mut self) {
        self.0.push(HashSet::new());
    }

    pub fn close(&mut self) {
        self.0.pop();
    }

    pub fn declare(&mut self, span: &'a Span) {
        self.0.last_mut().into_iter().for_each(|frame| {
            frame.insert(span.text());
        });
    }

    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|frame| frame.contains(name))
    }
}

/// `data.a["b-c"].d`
#[must_use]
pub fn reference(path: &[String]) -> String {
    let mut text = String::new();
    for (index, part) in path.iter().enumerate() {
        let is_identifier = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        match (index, is_identifier && !desugar::is_keyword(part)) {
            (0, _) => text.push_str(part),
            (_, true) => text.extend([".", part]),
            (_, false) => text.extend(["[", &serde_json::Value::from(part.as_str()).to_string(), "]"]),
        }
    }
    text
}
