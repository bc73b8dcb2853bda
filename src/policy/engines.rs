//! Engines, one per thread and policy: engines that share a syntax tree would count references on one cache line. A policy
//! that is asked seldom, on any thread, has a [`Pool`] of its own instead, which goes when the policy does.
//!
//! A thread keeps the engine of the policy before the current one too, for checks that began under it. An engine that
//! returned an error is never used again: state of the failed evaluation would leak into the next one.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

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

    /// After a panic it must not be used again: the pristine engine shares parts with the one that panicked.
    fn evaluate(
        &mut self,
        input: Value,
        rule: &str,
        printed: impl FnOnce(&mut Engine),
        failed: impl FnOnce(&anyhow::Error) -> EvalError,
    ) -> Result<Value, EvalError> {
        self.live.set_input(input);
        match catch_unwind(AssertUnwindSafe(|| self.live.eval_rule(rule.to_owned()))) {
            Ok(Ok(value)) => {
                printed(&mut self.live);
                Ok(value)
            }
            Ok(Err(error)) => {
                self.live = self.pristine.clone();
                Err(failed(&error))
            }
            Err(_) => Err(EvalError::Panicked),
        }
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
        let result = worker.evaluate(input, rule, printed, failed);
        if result == Err(EvalError::Panicked) {
            workers.remove(index);
        }
        result
    })
}

/// Engines of one policy for whichever thread asks. They hold the policy's data, so no thread may keep one: threads that
/// are idle for long would keep data of policies long gone.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Worker>>);

/// Engines that are kept while nobody asks. Threads that ask at once are few, and one more engine takes milliseconds.
const MAX_POOLED: usize = 4;

impl Pool {
    /// Evaluates one rule.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(
        &self,
        make: impl FnOnce() -> Result<Worker, EvalError>,
        input: Value,
        rule: &str,
        printed: impl FnOnce(&mut Engine),
        failed: impl FnOnce(&anyhow::Error) -> EvalError,
    ) -> Result<Value, EvalError> {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut worker = pooled.map_or_else(make, Ok)?;
        let result = worker.evaluate(input, rule, printed, failed);
        if result != Err(EvalError::Panicked) {
            let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.len() < MAX_POOLED {
                pool.push(worker);
            }
        }
        result
    }
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
