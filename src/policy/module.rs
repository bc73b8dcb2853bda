//! One file on its way from what somebody wrote to what the engine compiles.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::desugar;
use super::edits::{Edit, Edited, blank, offset_of};
use super::error::Problem;
use super::names::{File, Name};
use super::rewrite::{self, CannotRewrite, Context};
use super::source::{RegoFile, RegoVersion};
use super::syntax;

/// A file in the engine's grammar.
pub struct Desugared {
    pub name: String,
    version: RegoVersion,
    edited: Edited,
}

impl Desugared {
    /// # Errors
    /// What the file has and no grammar knows.
    pub fn new(file: &RegoFile, constants: &mut Vec<Value>) -> Result<Self, Problem> {
        // Its author asked for version 1 in the file itself.
        let asks_for_v1 =
            |line: &str| line.split('#').next().is_some_and(|line| line.trim() == "import rego.v1");
        let version = if file.text.lines().any(asks_for_v1) { RegoVersion::V1 } else { file.version };
        let edits = desugar::edits(&file.name, &file.text, version, constants)?;
        let edited = edited(&file.name, &file.text, edits)?;
        Ok(Self { name: file.name.clone(), version, edited })
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.edited.text
    }

    #[must_use]
    pub fn into_edited(self) -> Edited {
        self.edited
    }

    /// # Errors
    /// Where the file is not Rego.
    pub fn parse(&self) -> Result<regorus::unstable::Module, Problem> {
        syntax::parse(&self.name, self.text(), self.version).map_err(|problem| self.place(problem))
    }

    #[must_use]
    pub fn place(&self, problem: Problem) -> Problem {
        placed(problem, self.text(), |offset| self.edited.position(self.edited.original_offset(offset)))
    }

    /// One part for each package that the file has rules of.
    ///
    /// # Errors
    /// Something in the file cannot be given OPA's meaning.
    pub fn translate(self, file: &File<'_>, context: &Context) -> Result<Vec<Part>, Problem> {
        let cannot = |_| Problem::in_file(&self.name, CannotRewrite.to_string());
        let texts = rewrite::rewrite(file, self.text(), context).map_err(cannot)?;
        let part = |rewritten: Edited| {
            let name = self.name.clone();
            let part = Part { name, version: self.version, desugared: self.edited.clone(), rewritten };
            // Calls nest where operators only stood in a row, and the engine has a limit for that.
            match syntax::parse(&part.name, &part.rewritten.text, part.version) {
                Ok(_) => Ok(part),
                Err(problem) => {
                    let message = format!("{CannotRewrite} ({})", problem.message);
                    Err(Problem { message, ..part.place(problem) })
                }
            }
        };
        texts.into_iter().map(part).collect()
    }
}

/// What one file has of one package, in the engine's language.
pub struct Part {
    pub name: String,
    pub version: RegoVersion,
    desugared: Edited,
    rewritten: Edited,
}

/// The tree of a part.
struct Parsed(regorus::unstable::Module);

impl Parsed {
    /// What its file imports that is not data: keywords.
    fn keywords(&self) -> BTreeSet<Vec<String>> {
        self.0
            .imports
            .iter()
            .filter_map(|import| syntax::static_ref(&import.refr))
            .map(|found| found.path)
            .collect()
    }
}

impl Part {
    fn parse(&self) -> Result<Parsed, Problem> {
        syntax::parse(&self.name, &self.rewritten.text, self.version).map(Parsed)
    }

    fn place(&self, problem: Problem) -> Problem {
        placed(problem, &self.rewritten.text, |offset| {
            let offset = self.rewritten.original_offset(offset);
            self.desugared.position(self.desugared.original_offset(offset))
        })
    }
}

/// All of one package: the engine loses rules of packages that it gets in several modules.
pub struct Module {
    /// Of its file, or of its package if it has several.
    pub name: String,
    pub package: Name,
    pub version: RegoVersion,
    text: String,
    /// Each with the line it begins on. None in modules that nobody wrote.
    parts: Vec<(u32, Part)>,
}

impl Module {
    /// A module that needs no translation.
    #[must_use]
    pub fn plain(file: RegoFile, package: Name) -> Self {
        Self { name: file.name, package, version: file.version, text: file.text, parts: Vec::new() }
    }

    /// One module for each package. Those of packages further down come first: the engine takes what it has of a
    /// package for all that is below it.
    ///
    /// # Errors
    /// Files of one package are in different versions of the language.
    pub fn of_parts(parts: Vec<Part>) -> Result<Vec<Self>, Problem> {
        let mut packages: BTreeMap<(Reverse<usize>, Name), Vec<Part>> = BTreeMap::new();
        for part in parts {
            let tree = syntax::parse(&part.name, &part.rewritten.text, part.version)?;
            let package = syntax::package_path(&tree);
            packages.entry((Reverse(package.len()), package)).or_default().push(part);
        }
        let mut taken = BTreeSet::new();
        packages
            .into_iter()
            .map(|((_, package), parts)| {
                let mut module = Self::joined(package, parts)?;
                if !taken.insert(module.name.clone()) {
                    module.name = module.package.join(".");
                }
                Ok(module)
            })
            .collect()
    }

    fn joined(package: Name, parts: Vec<Part>) -> Result<Self, Problem> {
        let name = match parts.as_slice() {
            [only] => only.name.clone(),
            _ => package.join("."),
        };
        let Some(first) = parts.first() else { return Ok(Self::plain(RegoFile::new(name, ""), package)) };
        let (version, keywords) = (first.version, first.parse()?.keywords());
        let mut module = Self { name, package, version, text: String::new(), parts: Vec::new() };
        let (mut line, mut rules) = (1, 0);
        for part in parts {
            let parsed = part.parse()?;
            rules += parsed.0.policy.len();
            let is_other =
                part.version != version || (version == RegoVersion::V0 && parsed.keywords() != keywords);
            if is_other {
                let message = "other files of this package are in another version of Rego, or import other keywords; \
                               give all of them `import rego.v1`";
                return Err(Problem::in_file(&part.name, message));
            }
            let text =
                if module.parts.is_empty() { part.rewritten.text.clone() } else { without_header(&part)? };
            module.text.push_str(&text);
            module.text.push('\n');
            module.parts.push((line, part));
            line += u32::try_from(text.matches('\n').count()).unwrap_or(0) + 1;
        }
        // Whatever else joining might do to a text, it may neither lose a rule nor make one.
        let joined =
            syntax::parse(&module.name, &module.text, version).map_err(|problem| module.place(problem))?;
        if joined.policy.len() == rules {
            Ok(module)
        } else {
            Err(Problem::in_file(&module.name, "the files of this package cannot be put together"))
        }
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file and line that a line of the module came from. None if nobody wrote it.
    #[must_use]
    pub fn origin(&self, line: u32) -> Option<(&str, u32)> {
        let (begins, part) = self.parts.iter().rev().find(|(begins, _)| *begins <= line)?;
        Some((&part.name, line - begins + 1))
    }

    #[must_use]
    pub fn place(&self, problem: Problem) -> Problem {
        match self.parts.iter().rev().find(|(begins, _)| *begins <= problem.line) {
            Some((begins, part)) => {
                let line = problem.line - begins + 1;
                part.place(Problem { file: part.name.clone(), line, ..problem })
            }
            None => problem,
        }
    }
}

/// The text of a part behind another one's: a module has one package and its imports first.
fn without_header(part: &Part) -> Result<String, Problem> {
    let text = &part.rewritten.text;
    let tree = syntax::parse(&part.name, text, part.version)?;
    let spans = std::iter::once(&tree.package.span).chain(tree.imports.iter().map(|import| &import.span));
    let edits = spans.filter_map(|span| {
        let (from, to) = syntax::range(text, span)?;
        Some(Edit::replace(from, to, blank(text.get(from..to)?)))
    });
    edited(&part.name, text, edits.collect()).map(|edited| edited.text)
}

/// # Errors
/// The edits overlap: a mistake of ours.
pub fn edited(name: &str, text: &str, edits: Vec<Edit>) -> Result<Edited, Problem> {
    Edited::new(text, edits).ok_or_else(|| Problem::in_file(name, CannotRewrite.to_string()))
}

/// From a position of the engine to that of what was written.
fn placed(problem: Problem, text: &str, position: impl FnOnce(usize) -> (u32, u32)) -> Problem {
    match offset_of(text, problem.line, problem.column) {
        Some(offset) => {
            let (line, column) = position(offset);
            Problem { line, column, ..problem }
        }
        None => problem,
    }
}
