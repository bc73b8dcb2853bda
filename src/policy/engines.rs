//! Engines, one per thread and policy: engines that share a syntax tree would count references on one cache line.
//!
//! A thread keeps the engine of the policy before the current one too, for checks that began under it. An engine that
//! returned an error is never used again: state of the failed evaluation would leak into the next one.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use regorus::{Engine, Value};

use super::error::EvalError;

/// The current policy's and the one's before it.
const KEPT: usize = 2;

/// Which policy of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub(super) u64);

pub struct Worker {
    /// Tells the policies of this process apart.
    generation: Generation,
    /// Never evaluated, so never dirty.
    pristine: Engine,
    live: Engine,
}

impl Worker {
    #[must_use]
    pub fn new(generation: Generation, pristine: Engine) -> Self {
        Self { generation, live: pristine.clone(), pristine }
    }
}

thread_local! {
    /// The newest last.
    static WORKERS: RefCell<Vec<Worker>> = const { RefCell::new(Vec::new()) };
}

/// Has this thread's engine for a policy, made by `make` if there is none yet.
///
/// # Errors
/// What `make` says.
pub fn install(
    generation: Generation,
    make: impl FnOnce() -> Result<Worker, EvalError>,
) -> Result<(), EvalError> {
    WORKERS.with_borrow_mut(|workers| find(workers, generation, make).map(|_| ()))
}

/// Drops this thread's engines of policies before this one, and with them what they hold of data.
pub fn retire_before(generation: Generation) {
    WORKERS.with_borrow_mut(|workers| workers.retain(|worker| worker.generation >= generation));
}

/// Evaluates one rule on this thread's engine.
///
/// # Errors
/// There is no value; `failed` says why from the engine's error. `printed` takes what `print` said.
pub fn evaluate(
    generation: Generation,
    make: impl FnOnce() -> Result<Worker, EvalError>,
    input: Value,
    rule: &str,
    printed: impl FnOnce(&mut Engine),
    failed: impl FnOnce(&anyhow::Error) -> EvalError,
) -> Result<Value, EvalError> {
    WORKERS.with_borrow_mut(|workers| {
        let index = find(workers, generation, make)?;
        let Some(worker) = workers.get_mut(index) else {
            return Err(EvalError::Failed("no engine".to_owned()));
        };
        worker.live.set_input(input);
        match catch_unwind(AssertUnwindSafe(|| worker.live.eval_rule(rule.to_owned()))) {
            Ok(Ok(value)) => {
                printed(&mut worker.live);
                Ok(value)
            }
            Ok(Err(error)) => {
                worker.live = worker.pristine.clone();
                Err(failed(&error))
            }
            Err(_) => {
                // The pristine engine shares parts with the one that panicked.
                workers.remove(index);
                Err(EvalError::Panicked)
            }
        }
    })
}

fn find(
    workers: &mut Vec<Worker>,
    generation: Generation,
    make: impl FnOnce() -> Result<Worker, EvalError>,
) -> Result<usize, EvalError> {
    if let Some(index) = workers.iter().rposition(|worker| worker.generation == generation) {
        return Ok(index);
    }
    let worker = make()?;
    if workers.len() >= KEPT {
        workers.remove(0);
    }
    workers.push(worker);
    Ok(workers.len() - 1)
}
