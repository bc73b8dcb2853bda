//! A sidecar in this process: the real store, replica and check path, over real sockets to Redis, without Envoy's
//! side, so that thousands of changes can be held against what it knows.

use std::sync::Arc;
use std::time::Duration;

use daypass::authz::Checker;
use daypass::clock::Clock;
use daypass::metrics::Metrics;
use daypass::policy::Sources;
use daypass::replica::{Limits, Replica, Staleness};
use daypass::store::{Ledger, RedisConfig, RedisStore, Store, Surroundings};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::checker;

pub struct Sidecar {
    pub checker: Arc<Checker>,
    pub replica: Arc<Replica>,
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    follower: JoinHandle<()>,
    _dir: TempDir,
}

/// What differs between the sidecars of these tests.
#[derive(Clone, Copy)]
pub struct Settings {
    pub max_staleness: Duration,
    pub require_replicas: usize,
    pub max_grants: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_staleness: Duration::from_secs(2), require_replicas: 0, max_grants: 100_000 }
    }
}

impl Sidecar {
    /// On the runtime of the test; it follows the store until it is dropped.
    pub fn start(url: &str, settings: Settings) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let limits = Limits { grants: settings.max_grants, grants_per_principal: 1_000 };
        let replica = Arc::new(Replica::new(Staleness::AtMost(settings.max_staleness), limits));
        let around = Surroundings {
            replica: Arc::clone(&replica),
            metrics: Arc::clone(&metrics),
            clock: Clock::System,
            max_ttl: Duration::from_secs(86_400),
        };
        let config = RedisConfig {
            max_staleness: settings.max_staleness,
            require_replicas: settings.require_replicas,
            max_lag: Duration::from_secs(1),
            ..RedisConfig::new(url.parse().unwrap())
        };
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(RedisStore::new(config, Ledger::open(dir.path()).unwrap(), around));
        let follow = Arc::clone(&store).follow();
        let follower = tokio::spawn(async move { match follow.await {} });
        let store = Arc::new(Store::Redis(store));
        let checker = Arc::new(checker::on(&Sources::built_in(), &replica, &metrics, &store));
        Self { checker, replica, store, metrics, follower, _dir: dir }
    }

    pub fn is_fresh(&self) -> bool {
        self.replica.freshness(Clock::System.now()).is_fresh()
    }

    /// Waits until it has a complete copy.
    pub async fn in_step(self) -> Self {
        until("the first copy", || self.is_fresh()).await;
        self
    }

    /// The reason of the answer to alice's request.
    pub async fn reason(&self) -> String {
        super::request::reason(&self.checker.check(&super::request::alice()).await)
    }

    pub async fn until_reason(&self, expected: &str) -> Duration {
        let started = std::time::Instant::now();
        loop {
            let found = self.reason().await;
            if found == expected {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < super::PATIENCE,
                "still {found}, not {expected}: {:?}",
                self.replica.trouble()
            );
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    pub fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("daypass_grants_refused_total{{reason=\"{reason}\"}}"))
    }

    pub fn metric(&self, series: &str) -> u64 {
        super::daypass::series(&self.metrics.render().unwrap(), series)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Waits for a condition without holding up the runtime.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + super::PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
