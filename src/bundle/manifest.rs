//! `.manifest`: which part of `data` a bundle owns, and which Rego its files are written in. What it does not permit
//! must not get into policy.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::BundleError;
use super::pattern::Pattern;
use crate::policy::{self, Branch, Data, Document, RegoVersion};

/// A path below `data`. No segments: all of `data`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Root(Vec<String>);

impl Root {
    fn new(text: &str) -> Self {
        let text = text.trim_matches('/');
        Self(if text.is_empty() { Vec::new() } else { text.split('/').map(str::to_owned).collect() })
    }

    #[must_use]
    pub fn contains<S: AsRef<str>>(&self, path: &[S]) -> bool {
        self.0.len() <= path.len() && self.0.iter().zip(path).all(|(own, other)| own == other.as_ref())
    }

    /// Whether this root lies at or below `path`.
    #[must_use]
    pub fn is_below<S: AsRef<str>>(&self, path: &[S]) -> bool {
        path.len() <= self.0.len() && self.0.iter().zip(path).all(|(own, other)| own == other.as_ref())
    }

    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(&other.0) || other.contains(&self.0)
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.join("/"))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub revision: Option<String>,
    pub roots: Vec<Root>,
    /// As it was written, with OPA's defaults; for `data.system.bundles`.
    pub document: Document,
    rego_version: Option<i64>,
    file_rego_versions: Vec<(Pattern, i64)>,
}

/// What OPA reads of it. Keys that OPA does not know either are left alone.
#[derive(Deserialize)]
struct Written {
    revision: Option<String>,
    roots: Option<Vec<String>>,
    rego_version: Option<i64>,
    file_rego_versions: Option<BTreeMap<String, i64>>,
    wasm: Option<Vec<IgnoredAny>>,
}

impl Default for Manifest {
    /// Of a bundle without one: it owns everything.
    fn default() -> Self {
        Self {
            revision: None,
            roots: vec![Root(Vec::new())],
            document: with_defaults(Data::default()),
            rego_version: None,
            file_rego_versions: Vec::new(),
        }
    }
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let wrong = |message: String| BundleError::Content(format!(".manifest: {message}"));
        let document = policy::read_json(bytes).map_err(|error| wrong(format!("not JSON: {error}")))?;
        let document = Data::from_document(document).ok_or_else(|| wrong("not an object".to_owned()))?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let written: Written = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if written.wasm.is_some_and(|resolvers| !resolvers.is_empty()) {
            let message = ".manifest: rules compiled to WebAssembly (`wasm`) are not supported; build the bundle with \
                           `-t rego`";
            return Err(BundleError::Unsupported(message.to_owned()));
        }
        let roots: Vec<Root> = match &written.roots {
            Some(roots) => roots.iter().map(|root| Root::new(root)).collect(),
            None => vec![Root(Vec::new())],
        };
        for (index, root) in roots.iter().enumerate() {
            if let Some(other) = roots.iter().skip(index + 1).find(|other| root.overlaps(other)) {
                return Err(wrong(format!("its roots {root} and {other} overlap")));
            }
        }
        let versions = written.file_rego_versions.unwrap_or_default();
        let file_rego_versions = versions.into_iter().map(|(path, version)| {
            let pattern = Pattern::glob(path.trim_start_matches('/'));
            pattern
                .map(|pattern| (pattern, version))
                .map_err(|reason| wrong(format!("file_rego_versions: {path:?}: {reason}")))
        });
        Ok(Self {
            revision: written.revision.filter(|revision| !revision.is_empty()),
            roots,
            rego_version: written.rego_version,
            file_rego_versions: file_rego_versions.collect::<Result<_, _>>()?,
            document: with_defaults(document),
        })
    }

    /// Which version of Rego a module is written in.
    pub(super) fn version(&self, path: &str, text: &str) -> Result<RegoVersion, BundleError> {
        let own = self.file_rego_versions.iter().find(|(pattern, _)| pattern.matches(path));
        match own.map(|(_, version)| *version).or(self.rego_version) {
            None | Some(1) => Ok(RegoVersion::V1),
            // Its author asked for version 1 in the file itself.
            Some(0) if text.lines().any(|line| line.trim() == "import rego.v1") => Ok(RegoVersion::V1),
            Some(0) => Ok(RegoVersion::V0),
            Some(other) => Err(BundleError::Content(format!(
                ".manifest: {path} has Rego version {other}, which is unknown"
            ))),
        }
    }

    /// Complains of a package outside the roots.
    pub(super) fn check_package(&self, path: &str, package: &[String]) -> Result<(), BundleError> {
        if self.roots.iter().any(|root| root.contains(package)) {
            return Ok(());
        }
        let package = package.join(".");
        Err(BundleError::Content(format!(
            "{path}: the manifest's roots {} do not permit package {package}",
            list(&self.roots)
        )))
    }

    /// Complains of data outside the roots.
    pub(super) fn check_data(&self, data: &Data) -> Result<(), BundleError> {
        match outside(&self.roots, data.root(), &mut Vec::new()) {
            None => Ok(()),
            Some(place) => Err(BundleError::Content(format!(
                "the manifest's roots {} do not permit data at {place:?}",
                list(&self.roots)
            ))),
        }
    }
}

fn with_defaults(mut document: Data) -> Document {
    document.set_default(&["revision"], Document::string(""));
    if document.get("roots").is_none_or(|roots| roots == Document::NULL) {
        document.set(&["roots"], Document::list([Document::string("")]));
    }
    document.into_document()
}

fn list(roots: &[Root]) -> String {
    let roots: Vec<_> = roots.iter().map(ToString::to_string).collect();
    format!("[{}]", roots.join(", "))
}

/// The first path that no root permits. Goes no deeper than the deepest root.
fn outside<'a>(roots: &[Root], data: Branch<'a>, path: &mut Vec<&'a str>) -> Option<String> {
    if roots.iter().any(|root| root.contains(path.as_slice())) {
        return None;
    }
    for (name, below) in data.members() {
        path.push(name);
        if !roots.iter().any(|root| root.contains(path.as_slice())) {
            match below {
                Some(members) if roots.iter().any(|root| root.is_below(path.as_slice())) => {
                    if let Some(place) = outside(roots, members, path) {
                        return Some(place);
                    }
                }
                _ => return Some(path.join("/")),
            }
        }
        path.pop();
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "reads as what it is")]
    fn manifest(document: Json) -> Manifest {
        Manifest::parse(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn data_and_packages_stay_below_the_roots() {
        let manifest = manifest(json!({"roots": ["/roles/", "http/example"]}));
        let check_data = |manifest: &Manifest, data: &Json| {
            manifest.check_data(&Data::from_json(&data.to_string()).unwrap())
        };
        let check = |data: Json| check_data(&manifest, &data).map_err(|error| error.to_string());
        for good in [
            json!({}),
            json!({"roles": 1}),
            json!({"roles": {"any": []}, "http": {}}),
            json!({"http": {"example": {"deep": {"er": 1}}}}),
        ] {
            assert_eq!(check(good.clone()), Ok(()), "{good}");
        }
        for (bad, place) in [
            (json!({"role": 1}), "\"role\""),
            (json!({"http": 1}), "\"http\""),
            (json!({"http": {"exampl": 1}}), "\"http/exampl\""),
            (json!({"http/example": 1}), "\"http/example\""),
            (json!({"http": {"example": 1, "other": {}}}), "\"http/other\""),
        ] {
            assert!(check(bad).unwrap_err().ends_with(place));
        }
        let package = |path: &str| {
            let path: Vec<_> = path.split('.').map(str::to_owned).collect();
            manifest.check_package("x.rego", &path).is_ok()
        };
        assert!(package("roles") && package("http.example.authz"));
        assert!(!package("http") && !package("rolesx") && !package("other"));
        assert!(manifest.check_package("x.rego", &[]).is_err(), "a package that cannot be told");
    }

    #[test]
    fn no_roots_is_everything_and_an_empty_list_is_nothing() {
        assert!(manifest(json!({})).check_data(&Data::from_json("{\"a\": 1}").unwrap()).is_ok());
        assert!(manifest(json!({"roots": [""]})).check_data(&Data::from_json("{\"a\": 1}").unwrap()).is_ok());
        assert!(manifest(json!({"roots": []})).check_data(&Data::from_json("{\"a\": 1}").unwrap()).is_err());
    }

    #[test]
    fn what_a_manifest_may_not_say() {
        let refusal =
            |document: Json| Manifest::parse(document.to_string().as_bytes()).unwrap_err().to_string();
        assert!(refusal(json!({"roots": ["a/b", "c", "a"]})).contains("\"a/b\" and \"a\" overlap"));
        assert!(refusal(json!({"roots": ["", "c"]})).contains("overlap"));
        assert!(refusal(json!({"roots": "a"})).starts_with(".manifest: invalid type"));
        assert!(refusal(json!([])).starts_with(".manifest: "));
        assert!(refusal(json!({"revision": 7})).starts_with(".manifest: "));
        assert!(refusal(json!({"wasm": [{"entrypoint": "a"}]})).contains("WebAssembly"));
        assert!(manifest(json!({"wasm": [], "later": {"keys": 1}})).revision.is_none());
    }

    #[test]
    fn the_version_of_a_file() {
        let manifest =
            manifest(json!({"rego_version": 1, "file_rego_versions": {"/old/*.rego": 0, "/odd.rego": 7}}));
        let check = |path: &str, text: &str| manifest.version(path, text).map_err(|error| error.code());
        assert_eq!(check("new.rego", ""), Ok(RegoVersion::V1));
        assert_eq!(check("old/a.rego", "package a"), Ok(RegoVersion::V0));
        assert_eq!(check("old/a.rego", "package a\n  import rego.v1\n"), Ok(RegoVersion::V1));
        assert_eq!(check("odd.rego", ""), Err("content"));
    }
}
