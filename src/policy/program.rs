//! Modules and data that compiled, from which engines are built. Knows nothing of decisions.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use regorus::{Engine, Value};

use super::analysis::{self, InputReads};
use super::builtins::{self, BuiltinErrors, Purpose};
use super::conflict;
use super::definitions;
use super::desugar::CONSTANT;
use super::error::{LoadError, Problem};
use super::module::{Desugared, Module};
use super::names::{self, File, Name};
use super::rewrite::{self, Context};
use super::source::{RegoFile, RegoVersion, Sources};
use super::syntax;

/// How often the engine looks at the clock, in evaluation steps of well under a microsecond each.
const TIME_CHECK_INTERVAL: u32 = 256;

/// Functions that stand for built-ins where `with` needs a function of a policy.
const WRAPPERS_MODULE: &str = "daypass/builtins.rego";

pub struct Program {
    modules: Vec<Module>,
    data: Value,
    /// Taken out of the modules' texts.
    constants: Arc<[Value]>,
    reads: InputReads,
    time_limit: Duration,
    purpose: Purpose,
}

impl Program {
    /// Parses, checks and translates.
    ///
    /// # Errors
    /// Every mistake found, each with its place.
    pub fn new(sources: &Sources, time_limit: Duration, purpose: Purpose) -> Result<Self, LoadError> {
        let data = sources.data.value();
        let (modules, reads, constants) = check(sources, &data, purpose)?;
        Ok(Self { modules, data, constants: constants.into(), reads, time_limit, purpose })
    }

    #[must_use]
    pub fn reads(&self) -> &InputReads {
        &self.reads
    }

    #[must_use]
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    #[must_use]
    pub fn constants(&self) -> &[Value] {
        &self.constants
    }

    /// Those of the program, and more behind them.
    pub fn set_constants(&mut self, constants: Vec<Value>) {
        self.constants = constants.into();
    }

    /// Adds a module that needs no checks.
    pub fn push(&mut self, module: RegoFile) {
        self.modules.push(Module::plain(module, Name::new()));
    }

    /// The problem where somebody wrote it, rather than in what it was translated to.
    #[must_use]
    pub fn place(&self, problem: Problem) -> Problem {
        match self.module_at(&problem) {
            Some(module) => module.place(problem),
            None => problem,
        }
    }

    /// What the engine says, in OPA's words and where somebody wrote it.
    #[must_use]
    pub fn explained(&self, file: &str, error: &anyhow::Error) -> Problem {
        let mut problem = Problem::from_engine(file, error);
        if let Some(wording) = self.conflict(&problem) {
            wording.clone_into(&mut problem.message);
        }
        self.place(problem)
    }

    /// OPA's words for a conflict, if the problem is one.
    #[must_use]
    pub fn conflict(&self, problem: &Problem) -> Option<&'static str> {
        conflict::wording(&problem.message, self.module_at(problem), problem.line)
    }

    fn module_at(&self, problem: &Problem) -> Option<&Module> {
        self.modules.iter().find(|module| module.name == problem.file)
    }

    /// What `print` said, each with the place of the call in front.
    #[must_use]
    pub fn prints(&self, engine: &mut Engine) -> Vec<String> {
        let placed = |text: String| {
            let origin = self.modules.iter().find_map(|module| {
                let (line, rest) = text.strip_prefix(&module.name)?.strip_prefix(':')?.split_once(':')?;
                let (file, line) = module.origin(line.parse().ok()?)?;
                Some(format!("{file}:{line}:{rest}"))
            });
            origin.unwrap_or(text)
        };
        engine.take_prints().unwrap_or_default().into_iter().map(placed).collect()
    }

    /// An engine with everything loaded, compiled for `entry` if there is one.
    ///
    /// # Errors
    /// What the engine refuses.
    pub fn engine(&self, entry: Option<&str>) -> Result<Engine, Problem> {
        let mut engine = Engine::new();
        let errors = self.purpose.builtin_errors();
        engine.set_strict_builtin_errors(errors == BuiltinErrors::Strict);
        engine.set_gather_prints(true);
        engine.set_policy_length_config(regorus::PolicyLengthConfig {
            max_col: NonZeroU32::new(syntax::MAX_COLUMNS).unwrap_or(NonZeroU32::MAX),
            max_file_bytes: syntax::non_zero(syntax::MAX_FILE_BYTES),
            max_lines: syntax::non_zero(syntax::MAX_LINES),
        });
        engine.set_execution_timer_config(regorus::utils::limits::ExecutionTimerConfig {
            limit: self.time_limit,
            check_interval: NonZeroU32::new(TIME_CHECK_INTERVAL).unwrap_or(NonZeroU32::MIN),
        });
        let whole = |error: &anyhow::Error| self.place(Problem::from_engine("policy", error));
        builtins::register(&mut engine, errors).map_err(|error| whole(&error))?;
        let constants = Arc::clone(&self.constants);
        let constant = move |number: Vec<Value>| {
            let index = number.first().and_then(|number| number.as_u64().ok());
            let index = index.and_then(|index| usize::try_from(index).ok());
            Ok(index.and_then(|index| constants.get(index).cloned()).unwrap_or(Value::Undefined))
        };
        engine.add_extension(CONSTANT.to_owned(), 1, Box::new(constant)).map_err(|error| whole(&error))?;
        for module in &self.modules {
            engine.set_rego_v0(module.version == RegoVersion::V0);
            engine
                .add_policy(module.name.clone(), module.text().to_owned())
                .map_err(|error| self.place(Problem::from_engine(&module.name, &error)))?;
        }
        engine.add_data(self.data.clone()).map_err(|error| whole(&error))?;
        if let Some(entry) = entry {
            engine.compile_with_entrypoint(&entry.into()).map_err(|error| whole(&error))?;
        }
        Ok(engine)
    }
}

/// Every module parsed, analysed and translated.
fn check(
    sources: &Sources,
    data: &Value,
    purpose: Purpose,
) -> Result<(Vec<Module>, InputReads, Vec<Value>), LoadError> {
    let mut constants = Vec::new();
    let desugared = all(sources.modules.iter().map(|file| Desugared::new(file, &mut constants)))?;
    let trees = all(desugared.iter().map(Desugared::parse))?;
    let files: Vec<File<'_>> = trees.iter().map(File::new).collect();
    let analysis = analysis::analyse(&files, purpose);
    let mut problems = analysis.problems;
    problems.extend(definitions::conflicts(&files, data));
    if !problems.is_empty() {
        let place = |problem: Problem| match desugared.iter().find(|file| file.name == problem.file) {
            Some(file) => file.place(problem),
            None => problem,
        };
        return Err(LoadError(problems.into_iter().map(place).collect()));
    }
    let functions = analysis::function_names(&files);
    let replaced_functions = rewrite::replaced_names(&files);
    let (roots, replaced) = (names::rule_roots(&files), rewrite::replaced_builtins(&files));
    let mut wrapped = rewrite::replacing_builtins(&files);
    wrapped.extend(replaced.iter().cloned());
    let translated = desugared.into_iter().zip(&files).map(|(source, file)| {
        let rule_roots = roots.get(&file.package).cloned().unwrap_or_default();
        source.translate(
            file,
            &Context {
                rule_roots,
                functions: functions.clone(),
                replaced_functions: replaced_functions.clone(),
                replaced: replaced.clone(),
            },
        )
    });
    let parts = all(translated)?.into_iter().flatten().collect();
    let mut modules = Module::of_parts(parts).map_err(|problem| LoadError(vec![problem]))?;
    if !wrapped.is_empty() {
        let file = RegoFile::new(WRAPPERS_MODULE, builtins::wrappers(wrapped.iter()));
        modules.push(Module::plain(file, Name::new()));
    }
    Ok((modules, analysis.reads, constants))
}

/// Every result, or every problem.
fn all<T>(results: impl Iterator<Item = Result<T, Problem>>) -> Result<Vec<T>, LoadError> {
    let (good, bad): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
    let problems: Vec<Problem> = bad.into_iter().filter_map(Result::err).collect();
    if problems.is_empty() {
        Ok(good.into_iter().filter_map(Result::ok).collect())
    } else {
        Err(LoadError(problems))
    }
}
