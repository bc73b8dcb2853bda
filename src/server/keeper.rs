//! Keeps the policies that checks and requests for access are decided by: reads their sources, notices when they change,
//! compiles what changed and swaps both in. What does not compile, or fails its own tests, never replaces what does.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinError;

use super::worker::STACK_BYTES;
use crate::authz::{LiveRules, Rules};
use crate::bundle::{Candidate, Candidates};
use crate::config::PolicyConfig;
use crate::desk::admission::{self, Admission, LiveAdmission};
use crate::entitlement::Limits;
use crate::metrics::Metrics;
use crate::ops::PolicyReport;
use crate::policy::{
    self, ErrorCode, Fingerprint, Generation, LoadError, Policy, Problem, Sources, TestOutcome,
};

/// How often files are looked at. Polling works on every file system and for every way of replacing files (links of a
/// mounted ConfigMap, network file systems, bind mounts), and costs a few `stat` calls.
const POLL_PERIOD: Duration = Duration::from_millis(500);
/// Looks that may differ from the one before. Whoever writes all the time must not keep a change out for ever.
const MAX_UNSETTLED: u32 = 20;
/// For one test of a policy that is about to be used.
const TEST_TIMEOUT: Duration = Duration::from_secs(1);
/// For one step of a request for access: people wait for it, not proxies.
const ADMISSION_TIMEOUT: Duration = Duration::from_millis(250);
/// Longer than any check may take, so that no check needs the engine of a policy that is retired.
const RETIRE_AFTER: Duration = Duration::from_secs(2);

/// What workers do after a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Take an engine of the current policy, before the next check needs one.
    Install,
    /// Drop the engines of policies before this one.
    Retire(Generation),
}

pub struct Keeper {
    settings: PolicyConfig,
    live: Live,
    report: Arc<PolicyReport>,
    metrics: Arc<Metrics>,
    turn: watch::Sender<Turn>,
    threads: usize,
    seen: Fingerprint,
    /// The last files that were good.
    files: Option<Sources>,
    /// The last bundles that were good, if files can change beside them.
    fetched: Option<Fetched>,
    /// The last one that was logged: bundles that are refused come again and again.
    last_refusal: Option<String>,
}

/// What is in force.
#[derive(Clone)]
pub struct Live {
    pub rules: Arc<LiveRules>,
    pub admission: Arc<LiveAdmission>,
}

/// What sources were compiled to. Both come into force, or neither.
pub struct Loaded {
    pub rules: Rules,
    pub admission: Admission,
}

/// Policy that came from servers, and what it is called.
#[derive(Clone)]
struct Fetched {
    sources: Sources,
    revision: String,
}

/// Reads and compiles what the configuration names, with an engine for each of `threads`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(settings: &PolicyConfig, threads: usize) -> Result<Loaded, LoadError> {
    compile_all(settings, threads, read_files(settings)?, None)
}

/// What the paths of the configuration hold; the built-in policy if nothing is configured at all.
fn read_files(settings: &PolicyConfig) -> Result<Sources, LoadError> {
    match (settings.paths.is_empty(), &settings.bundles) {
        (false, _) => Sources::read(&settings.paths),
        (true, None) => Ok(Sources::built_in()),
        // Undefined, so that every check is denied, until the first bundles arrive.
        (true, Some(_)) => Ok(Sources::default()),
    }
}

fn compile_all(
    settings: &PolicyConfig,
    threads: usize,
    mut sources: Sources,
    fetched: Option<Fetched>,
) -> Result<Loaded, LoadError> {
    let own = match (settings.paths.is_empty(), &settings.bundles) {
        (false, _) => Some(sources.digest()),
        (true, None) => Some(format!("built-in-{}", env!("CARGO_PKG_VERSION"))),
        (true, Some(_)) => None,
    };
    let theirs = fetched.as_ref().map(|fetched| fetched.revision.clone());
    let revision = own.into_iter().chain(theirs).collect::<Vec<_>>().join(" ");
    if let Some(fetched) = fetched {
        sources.merge(fetched.sources)?;
    }
    if settings.bundles.is_none() {
        sources.complete();
    }
    sources.set_config(config_data(settings));
    compile(&sources, settings, threads, revision)
}

/// What the policies see as `data.daypass.config`.
fn config_data(settings: &PolicyConfig) -> serde_json::Value {
    let mut config = serde_json::json!({"health_paths": settings.health_paths});
    if let Some(url) = &settings.request_url {
        config["request_url"] = url.as_str().into();
    }
    config
}

fn compile(
    sources: &Sources,
    settings: &PolicyConfig,
    threads: usize,
    revision: String,
) -> Result<Loaded, LoadError> {
    let compile = || {
        let limits = Limits { max_grant_ttl: settings.max_grant_ttl };
        let policy = Policy::compile(sources, &settings.decision, settings.evaluation_timeout);
        let admission = Admission::compile(sources, limits, ADMISSION_TIMEOUT);
        let (policy, admission) = LoadError::both(policy, admission)?;
        if settings.run_tests {
            run_tests(sources)?;
        }
        policy.prepare(threads);
        let revision: Arc<str> = revision.into();
        Ok(Loaded { rules: Rules::new(policy, Arc::clone(&revision)), admission: admission.named(revision) })
    };
    let failed = |message: &str| LoadError(vec![Problem::in_file("policy", message)]);
    let caught =
        || catch_unwind(AssertUnwindSafe(compile)).unwrap_or_else(|_| Err(failed("compiling it panicked")));
    // On as much stack as the workers have, which evaluate it: a policy that fits here fits there.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, caught);
        let thread = thread.map_err(|error| failed(&format!("no thread to compile it on: {error}")))?;
        thread.join().map_err(|_| failed("compiling it panicked"))?
    })
}

fn run_tests(sources: &Sources) -> Result<(), LoadError> {
    // As they will be in force.
    let mut sources = sources.clone();
    admission::complete(&mut sources);
    let run = policy::run_tests(&sources, &|_| true, TEST_TIMEOUT)?;
    let problem = |result: policy::TestResult| {
        let why = match &result.outcome {
            TestOutcome::Passed | TestOutcome::Skipped => return None,
            TestOutcome::Failed { .. } => "is not true".to_owned(),
            TestOutcome::Errored(error) => error.clone(),
        };
        let message = format!("test {} failed: {why}", result.full_name());
        Some(Problem { file: result.file, line: result.line, column: 1, code: ErrorCode::Test, message })
    };
    let problems: Vec<Problem> = run.results.into_iter().filter_map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(LoadError(problems)) }
}

impl Keeper {
    /// A keeper of rules that were just loaded, and where workers hear of new ones.
    #[must_use]
    pub fn new(
        settings: PolicyConfig,
        live: Live,
        report: Arc<PolicyReport>,
        metrics: Arc<Metrics>,
        threads: usize,
        seen: Fingerprint,
    ) -> (Self, watch::Receiver<Turn>) {
        let (turn, turns) = watch::channel(Turn::Install);
        (
            Self {
                settings,
                live,
                report,
                metrics,
                turn,
                threads,
                seen,
                files: None,
                fetched: None,
                last_refusal: None,
            },
            turns,
        )
    }

    /// Watches the files, and loads them again when they changed, or on SIGHUP whether or not they did. Takes bundles
    /// as they come.
    pub async fn follow(mut self, mut hangup: Signal, mut candidates: Option<Candidates>) -> Infallible {
        let mut ticks = tokio::time::interval(POLL_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_look = self.seen.clone();
        let mut unsettled = 0;
        loop {
            let is_asked = tokio::select! {
                _ = ticks.tick() => false,
                _ = hangup.recv() => true,
                candidate = next(&mut candidates) => {
                    self.consider(candidate).await;
                    continue;
                }
            };
            let look = look_at(self.settings.paths.clone()).await;
            // Files that are still being written would be half a policy: two looks must agree.
            let is_settled = look == last_look;
            unsettled = if is_settled { 0 } else { unsettled + 1 };
            let is_due = is_settled || unsettled >= MAX_UNSETTLED;
            if is_asked || (is_due && look != self.seen) {
                unsettled = 0;
                self.seen = look.clone();
                // Whoever wrote them waits for an answer, even if it is the same.
                self.last_refusal = None;
                // Why it is not used is in the log and in the report.
                let _ = self.load(None, self.fetched.clone()).await;
            }
            last_look = look;
        }
    }

    /// Bundles are used if everything compiles with them.
    async fn consider(&mut self, candidate: Candidate) {
        let Candidate { sources, revisions, missing, verdict } = candidate;
        let name = |(name, revision): (&String, &Option<String>)| {
            format!("{name}={}", revision.as_deref().unwrap_or("unnamed"))
        };
        let revision = revisions.iter().map(name).collect::<Vec<_>>().join(" ");
        let fetched = Fetched { sources, revision };
        let kept = (!self.settings.paths.is_empty()).then(|| fetched.clone());
        // Files may be broken or half-written at this moment; that must keep no bundle out.
        match self.load(self.files.clone(), Some(fetched)).await {
            Ok(()) => {
                self.fetched = kept;
                self.report.set_missing(missing);
                verdict.accept();
            }
            Err(error) => verdict.reject(error.to_string()),
        }
    }

    /// With the files as they were, or read anew.
    async fn load(&mut self, files: Option<Sources>, fetched: Option<Fetched>) -> Result<(), LoadError> {
        let (settings, threads) = (self.settings.clone(), self.threads);
        let load = move || {
            let files = files.map_or_else(|| read_files(&settings), Ok)?;
            Ok((compile_all(&settings, threads, files.clone(), fetched)?, files))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let failed = |error: JoinError| LoadError(vec![Problem::in_file("policy", error.to_string())]);
        match loaded.map_err(failed).flatten() {
            Ok((loaded, files)) => {
                self.files = Some(files);
                self.last_refusal = None;
                self.swap(loaded);
                Ok(())
            }
            Err(error) => {
                self.metrics.count_policy_load(false);
                let text = error.to_string();
                self.report.refused(&text);
                if self.last_refusal.as_ref() != Some(&text) {
                    tracing::error!(
                        "a changed policy cannot be used, and the one before stays in force:\n{text}"
                    );
                    self.last_refusal = Some(text);
                }
                Err(error)
            }
        }
    }

    fn swap(&self, Loaded { rules, admission }: Loaded) {
        let (generation, revision) = (rules.policy.generation(), Arc::clone(&rules.revision));
        let before = (self.live.rules.replace(rules), self.live.admission.replace(admission));
        // Only now: who reads that it is in force must not get an answer of the one before.
        self.metrics.count_policy_load(true);
        self.report.loaded(&revision);
        tracing::info!(%revision, "a changed policy is in force");
        self.turn.send_replace(Turn::Install);
        let turn = self.turn.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RETIRE_AFTER).await;
            turn.send_replace(Turn::Retire(generation));
            tokio::time::sleep(RETIRE_AFTER).await;
            // Large documents take long to free: not on a worker.
            let freed = tokio::task::spawn_blocking(move || drop(before)).await;
            if let Err(error) = freed {
                tracing::error!("a policy that is no longer used could not be freed: {error}");
            }
        });
    }
}

/// Never, where there are no bundles.
async fn next(candidates: &mut Option<Candidates>) -> Candidate {
    let next = match candidates {
        Some(candidates) => candidates.next().await,
        None => None,
    };
    match next {
        Some(candidate) => candidate,
        // The tasks that make candidates are vital: when they end, the process does.
        None => std::future::pending().await,
    }
}

async fn look_at(paths: Vec<PathBuf>) -> Fingerprint {
    // An error here is a panic there, and looks like a change, which is then looked into.
    tokio::task::spawn_blocking(move || Fingerprint::of(&paths)).await.unwrap_or_default()
}

/// # Errors
/// The process cannot have the signal.
pub fn hangup() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
