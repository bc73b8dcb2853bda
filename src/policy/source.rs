//! Policy files and the data beside them, as OPA reads a directory: every `.rego` is a module, every `.json`, `.yaml`
//! and `.yml` is data under the names of the directories it lies in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::builtins::yaml::place::{Place, Step, place};
use super::data::{self, BadData, Data};
use super::document::Document;
use super::error::{ErrorCode, LoadError, Problem};
use super::files::{self, Found, has_extension, unreadable};
use super::module::Desugared;
use super::syntax;

/// The policy a sidecar has when none is named.
const DEFAULT_POLICY: &str = include_str!("../../policies/authz.rego");

/// Which of the language's two versions a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RegoVersion {
    /// `if` and `contains` only where they are imported: what OPA took before 1.0.
    V0,
    #[default]
    V1,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegoFile {
    pub name: String,
    pub text: String,
    pub version: RegoVersion,
}

impl RegoFile {
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), version: RegoVersion::V1 }
    }

    /// Path of its package below `data`; empty where it cannot be told.
    ///
    /// # Errors
    /// The text is not Rego.
    pub fn package(&self) -> Result<Vec<String>, Problem> {
        let tree = Desugared::new(self, &mut Vec::new())?.parse()?;
        Ok(syntax::package_path(&tree).into_iter().skip(1).collect())
    }
}

/// Everything a policy is compiled from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    pub modules: Vec<RegoFile>,
    /// The base document `data`.
    pub data: Data,
    /// Of the names and bytes of all data files read.
    data_digest: Vec<u8>,
    /// Files with data of daypass' own, whose mistakes are found after they were read.
    own: Vec<OwnData>,
}

/// Below this name in `data` is what daypass itself reads.
const OWN: &str = "daypass";

#[derive(Debug, Clone, PartialEq)]
struct OwnData {
    file: String,
    below: Vec<String>,
    text: Arc<str>,
}

impl Sources {
    #[must_use]
    pub fn new(modules: Vec<RegoFile>, data: Data) -> Self {
        Self { modules, data, ..Self::default() }
    }

    /// The built-in policy: a request passes if a grant covers it.
    #[must_use]
    pub fn built_in() -> Self {
        let module = RegoFile::new("built-in/authz.rego", DEFAULT_POLICY);
        Self::new(vec![module], Data::default())
    }

    #[must_use]
    pub fn from_text(name: &str, text: &str) -> Self {
        let module = RegoFile::new(name, text);
        Self::new(vec![module], Data::default())
    }

    /// # Errors
    /// Every file that cannot be read or is not what its name says, and paths that hold no policy at all.
    pub fn read(paths: &[PathBuf]) -> Result<Self, LoadError> {
        let mut sources = Self::default();
        let (found, mut problems) = files::list(paths);
        if problems.is_empty() {
            for Found { path, below } in found {
                problems.extend(sources.read_file(&path, &below).err().into_iter().flatten());
            }
        }
        if problems.is_empty() && sources.modules.is_empty() && sources.data.get(OWN).is_none() {
            let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            problems.push(Problem::in_file(&names, "no .rego file found here"));
        }
        if problems.is_empty() { Ok(sources) } else { Err(LoadError(problems)) }
    }

    /// Adds all of other sources.
    ///
    /// # Errors
    /// Both say something of one place in `data`.
    pub fn merge(&mut self, other: Self) -> Result<(), LoadError> {
        self.modules.extend(other.modules);
        self.own.extend(other.own);
        self.data.merge(other.data).map_err(|place| {
            LoadError(vec![Problem::in_file("data", format!("{place} is set by a file and by a bundle"))])
        })
    }

    /// Adds the built-in policy for checks where there is nothing but what daypass itself reads: entitlements, and rules
    /// for asking.
    pub fn complete(&mut self) {
        let is_own = |module: &RegoFile| {
            module.package().is_ok_and(|package| package.first().is_some_and(|first| first == OWN))
        };
        if self.modules.iter().all(is_own) && (!self.modules.is_empty() || self.data.get(OWN).is_some()) {
            self.modules.extend(Self::built_in().modules);
        }
    }

    /// Whether one of the files is of this package.
    #[must_use]
    pub fn has_package(&self, path: &[&str]) -> bool {
        self.modules.iter().any(|module| module.package().is_ok_and(|package| package == path))
    }

    /// Whether one of the files is of this package or of one below it.
    #[must_use]
    pub fn has_package_below(&self, path: &[&str]) -> bool {
        let starts = |package: &[String]| {
            package.len() >= path.len() && package.iter().zip(path).all(|(own, name)| own == name)
        };
        self.modules.iter().any(|module| module.package().is_ok_and(|package| starts(&package)))
    }

    /// The file that says what is at this place below `data`, and where it does, as near as can be told.
    #[must_use]
    pub fn place_of(&self, path: &[Step<'_>]) -> Option<(&str, u32, u32)> {
        let mut nearest: Option<(usize, &str, u32, u32)> = None;
        for OwnData { file, below, text } in &self.own {
            let is_below = below.iter().zip(path).all(|(name, step)| *step == Step::Name(name));
            let Some(rest) = path.get(below.len()..).filter(|_| is_below) else { continue };
            let found = place(text, rest);
            // The file that knows more of the way.
            if let Some(Place { parts, line, column }) = found
                && nearest.is_none_or(|(most, ..)| below.len() + parts > most)
            {
                nearest = Some((below.len() + parts, file, line, column));
            }
        }
        nearest.map(|(_, file, line, column)| (file, line, column))
    }

    /// What tells files that were read from others, short enough to be read out.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        for module in &self.modules {
            for part in [&module.name, &module.text] {
                context.update(&part.len().to_be_bytes());
                context.update(part.as_bytes());
            }
        }
        context.update(&self.data_digest);
        data_encoding::HEXLOWER.encode(context.finish().as_ref().get(..6).unwrap_or_default())
    }

    /// Adds what the configuration says, under `data.daypass.config`.
    #[expect(clippy::needless_pass_by_value, reason = "made for this, and of no use to anybody afterwards")]
    pub fn set_config(&mut self, config: serde_json::Value) {
        if let Ok(config) = Document::from_json(&config.to_string()) {
            self.data.set(&["daypass", "config"], config);
        }
    }

    fn read_file(&mut self, path: &Path, below: &[String]) -> Result<(), Vec<Problem>> {
        let name = path.display().to_string();
        let bytes = fs::read(path).map_err(|error| vec![unreadable(path, &error)])?;
        if has_extension(path, &["rego"]) {
            let text = String::from_utf8(bytes).map_err(|_| vec![Problem::in_file(&name, "not UTF-8")])?;
            self.modules.push(RegoFile::new(name, text));
            return Ok(());
        }
        let misread = |kind: &str, wrong: BadData| {
            let message = format!("not {kind}: {}", wrong.message);
            let BadData { line, column, .. } = wrong;
            vec![Problem { file: name.clone(), line, column, code: ErrorCode::Read, message }]
        };
        let document = if has_extension(path, &["json"]) {
            data::read_json(&bytes).map_err(|wrong| misread("JSON", wrong))?
        } else if has_extension(path, &["yaml", "yml"]) {
            let found = data::read_yaml(&bytes, data::MAX_VALUES);
            found.map_err(|wrong| misread("YAML", wrong))?.0
        } else {
            return Err(vec![Problem::in_file(&name, "a policy file ends in .rego, .json, .yaml or .yml")]);
        };
        self.note(&name, &bytes);
        if document.has_member(OWN) && below.is_empty() || below.first().is_some_and(|first| first == OWN) {
            let text = String::from_utf8_lossy(&bytes).into();
            self.own.push(OwnData { file: name.clone(), below: below.to_vec(), text });
        }
        self.data.insert(below, document).map_err(|wrong| vec![Problem::in_file(&name, wrong.to_string())])
    }

    fn note(&mut self, name: &str, bytes: &[u8]) {
        let mut context = Context::new(&SHA256);
        context.update(&self.data_digest);
        for part in [name.as_bytes(), bytes] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        self.data_digest = context.finish().as_ref().to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lies_where_its_directory_says() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a.rego", "package a");
        write("data.json", r#"{"x": {"one": 1}}"#);
        write("x/more.yaml", "two: [2, yes, 'n']\n");
        write("x/dup.yml", "{}");
        write("ignored.txt", "?");
        let sources = Sources::read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(sources.modules.len(), 1);
        assert_eq!(Ok(&sources.data), Data::from_json(r#"{"x":{"one":1,"two":[2,true,"n"]}}"#).as_ref());
        write("x/dup.yml", " {}");
        let respaced = Sources::read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(respaced.data, sources.data);
        assert_ne!(respaced.digest(), sources.digest());
        write("x/clash.json", r#"{"one": 2}"#);
        let error = Sources::read(&[dir.path().to_owned()]).unwrap_err();
        assert!(
            error.to_string().ends_with("x/clash.json: data.x.one is set by another file already"),
            "{error}"
        );
    }

    #[test]
    fn names_every_mistake() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bad.json"), "{").unwrap();
        fs::write(dir.path().join("bad.yaml"), "a: [").unwrap();
        let error = Sources::read(&[dir.path().to_owned(), "/nowhere.rego".into()]).unwrap_err();
        assert_eq!(error.0.len(), 3, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("bad.json:1:2: not JSON: ") && text.contains("bad.yaml:1:1: not YAML: "),
            "{text}"
        );
    }
}
