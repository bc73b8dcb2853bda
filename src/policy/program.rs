//! Modules and data that compiled, from which engines are built. Knows nothing of decisions.

use std::num::NonZeroU32;
use std::time::Duration;

use regorus::{Engine, Value};

use super::analysis::{self, InputReads};
use super::builtins::{self, BuiltinErrors};
use super::error::{LoadError, Problem};
use super::source::{RegoFile, Sources};
use super::{json, rewrite, syntax};

/// How often the engine looks at the clock, in evaluation steps of well under a microsecond each.
const TIME_CHECK_INTERVAL: u32 = 256;

pub struct Program {
    modules: Vec<RegoFile>,
    data: Value,
    reads: InputReads,
    time_limit: Duration,
    builtin_errors: BuiltinErrors,
}

impl Program {
    /// Parses, checks and translates.
    ///
    /// # Errors
    /// Every mistake found, each with its place.
    pub fn new(
        sources: &Sources,
        time_limit: Duration,
        builtin_errors: BuiltinErrors,
    ) -> Result<Self, LoadError> {
        let (modules, reads) = check(sources)?;
        let data = json::parse(&serde_json::Value::Object(sources.data.clone()).to_string())
            .map_err(|error| LoadError(vec![Problem::in_file("data", error.to_string())]))?;
        Ok(Self { modules, data, reads, time_limit, builtin_errors })
    }

    #[must_use]
    pub fn reads(&self) -> &InputReads {
        &self.reads
    }

    #[must_use]
    pub fn modules(&self) -> &[RegoFile] {
        &self.modules
    }

    /// Adds a module that needs no checks.
    pub fn push(&mut self, module: RegoFile) {
        self.modules.push(module);
    }

    /// An engine with everything loaded, compiled for `entry` if there is one.
    ///
    /// # Errors
    /// What the engine refuses.
    pub fn engine(&self, entry: Option<&str>) -> Result<Engine, Problem> {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(self.builtin_errors == BuiltinErrors::Strict);
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
        let whole = |error: &anyhow::Error| Problem::from_engine("policy", error);
        builtins::register(&mut engine, self.builtin_errors).map_err(|error| whole(&error))?;
        for module in &self.modules {
            engine
                .add_policy(module.name.clone(), module.text.clone())
                .map_err(|error| Problem::from_engine(&module.name, &error))?;
        }
        engine.add_data(self.data.clone()).map_err(|error| whole(&error))?;
        if let Some(entry) = entry {
            engine.compile_with_entrypoint(&entry.into()).map_err(|error| whole(&error))?;
        }
        Ok(engine)
    }
}

/// Every module parsed, analysed and translated.
fn check(sources: &Sources) -> Result<(Vec<RegoFile>, InputReads), LoadError> {
    let parsed: Vec<_> = sources.modules.iter().map(|file| syntax::parse(&file.name, &file.text)).collect();
    let problems: Vec<_> = parsed.iter().filter_map(|result| result.as_ref().err().cloned()).collect();
    if !problems.is_empty() {
        return Err(LoadError(problems));
    }
    let trees: Vec<_> = parsed.into_iter().filter_map(Result::ok).collect();
    let analysis = analysis::analyse(&trees);
    if !analysis.problems.is_empty() {
        return Err(LoadError(analysis.problems));
    }
    let rewritten = sources.modules.iter().zip(&trees).map(|(file, tree)| translate(file, tree));
    let (modules, problems): (Vec<_>, Vec<_>) = rewritten.partition(Result::is_ok);
    let problems: Vec<Problem> = problems.into_iter().filter_map(Result::err).collect();
    if !problems.is_empty() {
        return Err(LoadError(problems));
    }
    Ok((modules.into_iter().filter_map(Result::ok).collect(), analysis.reads))
}

fn translate(file: &RegoFile, tree: &regorus::unstable::Module) -> Result<RegoFile, Problem> {
    let text = rewrite::rewrite(tree, &file.text)
        .map_err(|error| Problem::in_file(&file.name, error.to_string()))?;
    // Calls nest where operators only stood in a row, and the engine has a limit for that.
    match syntax::parse(&file.name, &text) {
        Ok(_) => Ok(RegoFile { name: file.name.clone(), text }),
        Err(problem) => Err(Problem { message: rewrite::CannotRewrite.to_string(), ..problem }),
    }
}
