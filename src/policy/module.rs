//! One file on its way from what somebody wrote to what the engine compiles.

use regorus::Value;

use super::desugar;
use super::edits::{Edit, Edited};
use super::error::Problem;
use super::names::File;
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
        let edits = desugar::edits(&file.name, &file.text, file.version, constants)?;
        let edited = edited(&file.name, &file.text, edits)?;
        Ok(Self { name: file.name.clone(), version: file.version, edited })
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
        placed(problem, |line, column| self.edited.original(line, column))
    }

    /// # Errors
    /// Something in the file cannot be given OPA's meaning.
    pub fn translate(self, file: &File<'_>, context: &Context) -> Result<Vec<Module>, Problem> {
        let cannot = |_| Problem::in_file(&self.name, CannotRewrite.to_string());
        let parts = rewrite::rewrite(file, self.text(), context).map_err(cannot)?;
        let module = |rewritten: Edited| {
            let module = Module {
                name: self.name.clone(),
                version: self.version,
                is_written: true,
                desugared: self.edited.clone(),
                rewritten,
            };
            // Calls nest where operators only stood in a row, and the engine has a limit for that.
            match syntax::parse(&module.name, module.text(), module.version) {
                Ok(_) => Ok(module),
                Err(problem) => {
                    let message = format!("{CannotRewrite} ({})", problem.message);
                    Err(Problem { message, ..module.place(problem) })
                }
            }
        };
        parts.into_iter().map(module).collect()
    }
}

/// What the engine compiles, and where each part of it came from.
pub struct Module {
    pub name: String,
    pub version: RegoVersion,
    /// By somebody, not by us.
    pub is_written: bool,
    desugared: Edited,
    rewritten: Edited,
}

impl Module {
    /// A module that needs no translation.
    #[must_use]
    pub fn plain(file: RegoFile) -> Self {
        let same = Edited::unchanged(file.text);
        Self {
            name: file.name,
            version: file.version,
            is_written: false,
            desugared: same.clone(),
            rewritten: same,
        }
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.rewritten.text
    }

    /// Whether anything is on a line: a file may have become two modules, each with the other's lines empty.
    #[must_use]
    pub fn has_line(&self, line: u32) -> bool {
        let index = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
        self.text().lines().nth(index).is_some_and(|line| !line.trim().is_empty())
    }

    #[must_use]
    pub fn place(&self, problem: Problem) -> Problem {
        placed(problem, |line, column| {
            let (line, column) = self.rewritten.original(line, column);
            self.desugared.original(line, column)
        })
    }
}

/// # Errors
/// The edits overlap: a mistake of ours.
pub fn edited(name: &str, text: &str, edits: Vec<Edit>) -> Result<Edited, Problem> {
    Edited::new(text, edits).ok_or_else(|| Problem::in_file(name, CannotRewrite.to_string()))
}

fn placed(problem: Problem, original: impl FnOnce(u32, u32) -> (u32, u32)) -> Problem {
    if problem.line == 0 {
        return problem;
    }
    let (line, column) = original(problem.line, problem.column);
    Problem { line, column, ..problem }
}
