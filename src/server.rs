//! Builds the parts, binds, supervises, drains.
//!
//! Two kinds of threads. Checks are decided on workers, one per core, each with its own single-threaded runtime and
//! its own policy engine: a check never leaves the thread its connection is on. Everything else (the store's session,
//! the grant API, health) runs on a runtime of its own, so that a policy that burns its time limit on every worker
//! starves no heartbeat.

mod api_call;
pub mod api_listener;
mod guests;
mod keeper;
mod listen;
mod office;
pub mod tls;
mod worker;

use std::convert::Infallible;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::Place;
use crate::api::rest::ContractError;
use crate::api::tokens::TokensError;
use crate::audit::{DecisionLog, OpenError};
use crate::authz::{Checker, LiveRules, Streams};
use crate::bundle::Bundles;
use crate::clock::Clock;
use crate::config::{Config, StoreConfig};
use crate::desk::admission::LiveAdmission;
use crate::metrics::Metrics;
use crate::ops::{self, PolicyReport, Readiness};
use crate::policy::{Fingerprint, LoadError};
use crate::replica::{Replica, Staleness};
use crate::store::{EmbeddedStore, Ledger, RedisStore, Store, StoreError, Surroundings};
use crate::trace::{TraceError, Tracer};
use crate::webhook::WebhookError;

pub use keeper::load as load_policy;

use keeper::{Keeper, Live, Loaded};
use listen::{CheckListener, ListenError};
use office::Office;
use tls::TlsError;
use worker::{Connections, Workers};

/// How soon a change of readiness shows in `grpc.health.v1`.
const HEALTH_PERIOD: Duration = Duration::from_millis(100);
/// Ended grants leave memory this often; they left use when they ended.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// And the embedded store's file this often.
const FILE_SWEEP_PERIOD: Duration = Duration::from_secs(60);
/// For the first copy before connections are accepted. With what Envoy then waits for an answer, below its timeout.
const FIRST_COPY_PATIENCE: Duration = Duration::from_millis(150);
const FIRST_COPY_PERIOD: Duration = Duration::from_millis(2);
/// Threads of the runtime beside the workers.
const CONTROL_THREADS: usize = 2;
/// For lines that wait for the disk when the process ends.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
const CHECK_WORKERS: &str = "the check workers";
/// The service name that Envoy's `grpc_health_check` asks for, beside the empty one.
const AUTHORIZATION: &str = "envoy.service.auth.v3.Authorization";

#[derive(Debug, Error)]
pub enum ServeError {
    #[error("the policy cannot be used:\n{0}")]
    Policy(LoadError),
    #[error("the data directory {path} cannot be used")]
    DataDir { path: String, source: std::io::Error },
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    #[error("the API's tokens cannot be used")]
    Tokens(#[from] TokensError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the API's TLS files cannot be used")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error(transparent)]
    DecisionLog(#[from] OpenError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Contract(#[from] ContractError),
    #[error("metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
    #[error("threads or signals cannot be set up")]
    System(#[from] std::io::Error),
    #[error("{task} ended: {reason}")]
    TaskEnded { task: &'static str, reason: String },
}

/// Not as a source: its text is the message already, a line for each mistake.
impl From<LoadError> for ServeError {
    fn from(error: LoadError) -> Self {
        Self::Policy(error)
    }
}

/// Runs until SIGTERM or SIGINT, or until a part that must not end does.
///
/// # Errors
/// A part cannot be started, or has ended.
pub fn run(config: Config) -> Result<(), ServeError> {
    // TLS towards Redis takes the process's provider; a second installation is no error worth more than this.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The API's threads evaluate policy, too.
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_stack_size(worker::STACK_BYTES)
        .enable_all()
        .build()?;
    let result = control.block_on(serve(config));
    // Blocking work that is still running, such as a commit, may finish; nothing waits for it.
    control.shutdown_background();
    result
}

async fn serve(config: Config) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parts = Parts::build(&config)?;
    let listeners = Listeners::bind(&config).await?;
    listeners.announce(&config)?;
    let _place = listeners.take_place(&config)?;
    let (stop, stopped) = watch::channel(false);
    let (reporter, health) = tonic_health::server::health_reporter();
    let is_ready = parts.readiness.is_ready();
    report_health(&reporter, is_ready).await;

    let mut vital = Vital::default();
    let (keeper, turns) = Keeper::new(
        config.policy.clone(),
        Live { rules: Arc::clone(&parts.checker.rules), admission: Arc::clone(&parts.admission) },
        Arc::clone(&parts.readiness.policy),
        Arc::clone(&parts.checker.metrics),
        worker::count(),
        parts.seen.clone(),
    );
    let candidates = config.policy.bundles.clone().map(|bundles| {
        let (mut bundles, candidates) = Bundles::start(bundles);
        parts.readiness.policy.awaits(bundles.watched());
        vital.spawn("the bundles", async move { Err::<(), _>(bundles.ended().await) });
        candidates
    });
    vital.spawn_endless(keeper.follow(keeper::hangup()?, candidates));
    let (workers, connections) = Workers::start(&parts.checker, &health, &config, &stopped, &turns)?;
    let check =
        after_first_copy(Arc::clone(&parts.checker.replica), listeners.check, connections, stopped.clone());
    vital.spawn("the check listener", check);
    vital.spawn(CHECK_WORKERS, workers.ended());
    if let (Some(office), Some(listener)) = (&parts.office, listeners.api) {
        office.start(&mut vital, &config, &parts.checker, &health, listener, &stopped)?;
    }
    let ops = ops::router(Arc::clone(&parts.readiness), Arc::clone(&parts.checker.metrics));
    vital.spawn("the ops listener", serve_ops(ops, listeners.ops));
    vital.spawn_endless(keep_health(reporter.clone(), Arc::clone(&parts.readiness), is_ready));
    vital.spawn_endless(sweep(Arc::clone(&parts.checker.replica)));
    match parts.store.as_ref() {
        Store::Redis(redis) => vital.spawn_endless(Arc::clone(redis).follow()),
        Store::Embedded(embedded) => vital.spawn_endless(sweep_file(Arc::clone(embedded))),
    }

    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = vital.first_end() => Some(ended),
    };
    if let Some(error) = ended {
        return Err(error);
    }
    tracing::info!("asked to stop; finishing the checks in flight");
    parts.readiness.is_draining.store(true, Ordering::Release);
    report_health(&reporter, false).await;
    drain(parts, vital, &stop, config.drain_timeout).await;
    tracing::info!("stopped");
    Ok(())
}

/// Lets checks in flight finish, and the decision log be written, each for as long as it may take.
async fn drain(parts: Parts, mut vital: Vital, stop: &watch::Sender<bool>, drain_timeout: Duration) {
    // Nobody waits for it only if everything has ended already.
    let _ = stop.send(true);
    if tokio::time::timeout(drain_timeout, vital.wait_for(CHECK_WORKERS)).await.is_err() {
        tracing::warn!(after = ?drain_timeout, "gave up waiting for checks in flight");
    }
    let Parts { checker, log_writer, tracer, .. } = parts;
    // The log's last clone is in the checker; once the workers are gone its writer flushes and ends.
    drop((checker, vital));
    if let Some(writer) = log_writer
        && tokio::time::timeout(LOG_FLUSH_TIMEOUT, tokio::task::spawn_blocking(|| writer.join()))
            .await
            .is_err()
    {
        tracing::warn!("the decision log did not finish writing");
    }
    if let Some(tracer) = tracer
        && tokio::task::spawn_blocking(move || tracer.finish(LOG_FLUSH_TIMEOUT)).await.is_err()
    {
        tracing::warn!("the last spans were not sent");
    }
}

/// Everything that is there before anybody can connect.
struct Parts {
    checker: Arc<Checker>,
    admission: Arc<LiveAdmission>,
    store: Arc<Store>,
    office: Option<Office>,
    readiness: Arc<Readiness>,
    log_writer: Option<JoinHandle<()>>,
    tracer: Option<Arc<Tracer>>,
    seen: Fingerprint,
}

impl Parts {
    fn build(config: &Config) -> Result<Self, ServeError> {
        let metrics = Arc::new(Metrics::new()?);
        // Before they are read: a change while they are is seen as one.
        let seen = Fingerprint::of(&config.policy.paths);
        let Loaded { rules, admission } =
            load_policy(&config.policy, worker::count()).inspect_err(|_| metrics.count_policy_load(false))?;
        metrics.count_policy_load(true);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.data_dir)
            .map_err(|source| ServeError::DataDir { path: config.data_dir.display().to_string(), source })?;
        let replica = Arc::new(Replica::new(staleness(&config.store), config.replica_limits));
        let around = Surroundings {
            replica: Arc::clone(&replica),
            metrics: Arc::clone(&metrics),
            clock: Clock::System,
            max_ttl: config.max_grant_ttl,
        };
        let store = Arc::new(open_store(config, around)?);
        let log = config.decision_log.as_ref();
        let log =
            log.map(|log| DecisionLog::open(&log.target, log.queue, Arc::clone(&metrics))).transpose()?;
        let (log, log_writer) = log.unzip();
        let tracer = config.trace.as_ref().map(Tracer::new).transpose()?.map(Arc::new);
        let readiness = Arc::new(Readiness {
            policy: Arc::new(PolicyReport::new(Arc::clone(&rules.revision))),
            replica: Arc::clone(&replica),
            clock: Clock::System,
            is_draining: AtomicBool::new(false),
        });
        let admission = Arc::new(LiveAdmission::new(admission));
        let checker = Arc::new(Checker {
            config: config.authz.clone(),
            rules: Arc::new(LiveRules::new(rules)),
            replica,
            store: Arc::clone(&store),
            metrics,
            log,
            tracer: tracer.clone(),
            clock: Clock::System,
            in_flight: AtomicUsize::new(0),
            streams: Streams::default(),
        });
        let office = Office::open(config, &checker, &admission)?;
        Ok(Self { checker, admission, store, office, readiness, log_writer, tracer, seen })
    }
}

/// Three, so that who can reach what is a decision of the deployment.
struct Listeners {
    check: CheckListener,
    api: Option<TcpListener>,
    ops: TcpListener,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ListenError> {
        Ok(Self {
            check: CheckListener::bind(&config.listen).await?,
            api: match config.api_listen {
                Some(address) => Some(listen::bind_tcp("--api-listen", address).await?),
                None => None,
            },
            ops: listen::bind_tcp("--ops-listen", config.ops_listen).await?,
        })
    }

    fn announce(&self, config: &Config) -> Result<(), std::io::Error> {
        let api = self.api.as_ref().map(TcpListener::local_addr).transpose()?;
        tracing::info!(
            check = %self.check.address(),
            api = %api.map_or_else(|| "off".to_owned(), |address| address.to_string()),
            ops = %self.ops.local_addr()?,
            data_dir = %config.data_dir.display(),
            max_staleness = ?staleness(&config.store),
            "listening"
        );
        Ok(())
    }
}

impl Listeners {
    /// Tells those who may read the data directory where its API is, for as long as the result lives. Without it they have
    /// to name the token; that stops no server.
    fn take_place(&self, config: &Config) -> Result<Option<Place>, std::io::Error> {
        let Some(api) = &self.api else { return Ok(None) };
        let place = Place::take(&config.data_dir, api.local_addr()?, config.api.tls.is_some());
        match &place {
            Ok(Some(_)) => {}
            Ok(None) => tracing::warn!("another server has this data directory; its token is for that one"),
            Err(error) => tracing::warn!(%error, "the data directory cannot say where the API is"),
        }
        Ok(place.unwrap_or_default())
    }
}

fn staleness(store: &StoreConfig) -> Staleness {
    match store {
        StoreConfig::Embedded | StoreConfig::Memory => Staleness::Local,
        StoreConfig::Redis(redis) => Staleness::AtMost(redis.max_staleness),
    }
}

fn open_store(config: &Config, around: Surroundings) -> Result<Store, StoreError> {
    Ok(match &config.store {
        StoreConfig::Embedded => Store::Embedded(Arc::new(EmbeddedStore::open(&config.data_dir, around)?)),
        StoreConfig::Memory => Store::Embedded(Arc::new(EmbeddedStore::in_memory(around)?)),
        StoreConfig::Redis(redis) => {
            let ledger = Ledger::open(&config.data_dir)?;
            Store::Redis(Arc::new(RedisStore::new((**redis).clone(), ledger, around)))
        }
    })
}

/// Whoever connects in the moment between the start and the first copy of the grants waits for it, rather than be denied.
async fn after_first_copy(
    replica: Arc<Replica>,
    listener: CheckListener,
    connections: Connections,
    stopped: watch::Receiver<bool>,
) -> Result<(), std::io::Error> {
    let is_there = async {
        while !replica.freshness(Clock::System.now()).is_fresh() {
            tokio::time::sleep(FIRST_COPY_PERIOD).await;
        }
    };
    // Without it checks are answered, too: with `stale`.
    let _ = tokio::time::timeout(FIRST_COPY_PATIENCE, is_there).await;
    listener.accept_for(connections, stopped).await
}

async fn serve_ops(router: axum::Router, listener: TcpListener) -> Result<(), std::io::Error> {
    axum::serve(listener, router).await
}

async fn wait_until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it everything that could still be served.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}

async fn report_health(reporter: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    reporter.set_service_status("", status).await;
    reporter.set_service_status(AUTHORIZATION, status).await;
}

async fn keep_health(reporter: HealthReporter, readiness: Arc<Readiness>, mut was_ready: bool) -> Infallible {
    let mut ticks = tokio::time::interval(HEALTH_PERIOD);
    loop {
        ticks.tick().await;
        let is_ready = readiness.is_ready();
        if is_ready != was_ready {
            tracing::info!(ready = is_ready, obstacles = ?readiness.obstacles(), "readiness changed");
            report_health(&reporter, is_ready).await;
            was_ready = is_ready;
        }
    }
}

async fn sweep(replica: Arc<Replica>) -> Infallible {
    let mut ticks = tokio::time::interval(SWEEP_PERIOD);
    loop {
        ticks.tick().await;
        replica.sweep(Clock::System.now());
    }
}

async fn sweep_file(store: Arc<EmbeddedStore>) -> Infallible {
    let mut ticks = tokio::time::interval(FILE_SWEEP_PERIOD);
    loop {
        ticks.tick().await;
        let store = Arc::clone(&store);
        match tokio::task::spawn_blocking(move || store.sweep()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!("ended grants could not be removed from the store's file: {error}");
            }
            Err(error) => tracing::error!("the store's sweep failed: {error}"),
        }
    }
}

/// Tasks without which the process is of no use: the first to end takes it with it.
#[derive(Default)]
struct Vital {
    tasks: JoinSet<(&'static str, String)>,
}

impl Vital {
    fn spawn<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            match task.await {
                Ok(()) => (name, "it had nothing left to do".to_owned()),
                Err(error) => (name, error.to_string()),
            }
        });
    }

    /// For tasks that can only end by a panic, which `first_end` reports.
    fn spawn_endless(&mut self, task: impl Future<Output = Infallible> + Send + 'static) {
        self.tasks.spawn(async move { match task.await {} });
    }

    async fn first_end(&mut self) -> ServeError {
        match self.tasks.join_next().await {
            Some(Ok((task, reason))) => ServeError::TaskEnded { task, reason },
            Some(Err(error)) => ServeError::TaskEnded { task: "a task", reason: error.to_string() },
            None => ServeError::TaskEnded { task: "every task", reason: "there was none".to_owned() },
        }
    }

    async fn wait_for(&mut self, name: &str) {
        while let Some(ended) = self.tasks.join_next().await {
            if ended.is_ok_and(|(task, _)| task == name) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_vital_task_to_end_names_itself_and_its_reason() {
        let mut vital = Vital::default();
        vital.spawn_endless(std::future::pending());
        vital.spawn("the store", async { Err::<(), _>("disk on fire") });
        assert_eq!(vital.first_end().await.to_string(), "the store ended: disk on fire");
        vital.spawn_endless(async { panic!("a bug") });
        assert!(vital.first_end().await.to_string().contains("a task ended"));
    }
}
