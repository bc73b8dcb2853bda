//! For the orchestrator and the people who run it: `/livez`, `/readyz` and `/metrics`.
//!
//! Everybody who reaches this listener may read it, so nothing here names a caller, a grant or a secret.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde_json::json;

use crate::bundle::{Status, Statuses};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::replica::Replica;

/// Whether this sidecar can answer. A policy that cannot be used is told of and is no obstacle: the one before it
/// decides.
#[derive(Debug)]
pub struct Readiness {
    pub replica: Arc<Replica>,
    pub policy: Arc<PolicyReport>,
    pub clock: Clock,
    /// Set when the process is asked to stop.
    pub is_draining: AtomicBool,
}

/// What is known of the policy in force, and of the last one that was refused.
#[derive(Debug)]
pub struct PolicyReport(Mutex<PolicyState>);

#[derive(Debug, Clone)]
struct PolicyState {
    revision: Arc<str>,
    loaded_at: Timestamp,
    failures: u64,
    /// Of the last attempt; none if it succeeded.
    error: Option<String>,
    /// Bundles that have not arrived since the start.
    missing: Vec<String>,
    bundles: Option<Statuses>,
}

impl PolicyReport {
    /// A policy with this revision is in force.
    #[must_use]
    pub fn new(revision: Arc<str>) -> Self {
        Self(Mutex::new(PolicyState {
            revision,
            loaded_at: Timestamp::now(),
            failures: 0,
            error: None,
            missing: Vec::new(),
            bundles: None,
        }))
    }

    /// Bundles are part of the policy, and these have not arrived.
    pub fn awaits(&self, bundles: Statuses) {
        let mut state = self.lock();
        state.missing = bundles.all().into_iter().map(|status| status.name).collect();
        state.bundles = Some(bundles);
    }

    pub fn set_missing(&self, missing: Vec<String>) {
        self.lock().missing = missing;
    }

    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.lock().missing.clone()
    }

    /// Of every bundle; none if none is configured.
    #[must_use]
    pub fn bundles(&self) -> Vec<Status> {
        self.lock().bundles.as_ref().map(Statuses::all).unwrap_or_default()
    }

    pub fn loaded(&self, revision: &Arc<str>) {
        let mut state = self.lock();
        state.revision = Arc::clone(revision);
        state.loaded_at = Timestamp::now();
        state.error = None;
    }

    pub fn refused(&self, error: &str) {
        let mut state = self.lock();
        state.failures += 1;
        state.error = Some(error.to_owned());
    }

    fn json(&self) -> serde_json::Value {
        let bundles = self.bundles();
        let PolicyState { revision, loaded_at, failures, error, .. } = self.lock().clone();
        let mut json = json!({"revision": revision.as_ref(), "loaded_at": loaded_at, "failures": failures});
        if let Some(error) = error {
            json["error"] = error.into();
        }
        if !bundles.is_empty() {
            json["bundles"] = json!(bundles);
        }
        json
    }

    /// A panic elsewhere leaves at worst a half-told report.
    fn lock(&self) -> MutexGuard<'_, PolicyState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    Draining,
    /// Bundles that policy needs have not arrived.
    PolicyIncomplete {
        missing: Vec<String>,
    },
    /// No complete copy of the grants yet, or the store forgot everything.
    ReplicaNeverSynced {
        trouble: Option<Arc<str>>,
    },
    ReplicaStale {
        age_ms: u128,
        trouble: Option<Arc<str>>,
    },
}

impl NotReady {
    fn component(&self) -> &'static str {
        match self {
            Self::Draining => "process",
            Self::PolicyIncomplete { .. } => "policy",
            Self::ReplicaNeverSynced { .. } | Self::ReplicaStale { .. } => "replica",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Draining => "shutting down".to_owned(),
            Self::PolicyIncomplete { missing } => {
                format!("waiting for the first time for bundles: {}", missing.join(", "))
            }
            Self::ReplicaNeverSynced { trouble } => {
                format!("the store's grants have not been read yet: {}", trouble.as_deref().unwrap_or(UNTOLD))
            }
            Self::ReplicaStale { age_ms, trouble } => format!(
                "the store has not answered for {age_ms} ms, and every check that rests on grants is denied: {}",
                trouble.as_deref().unwrap_or(UNTOLD)
            ),
        }
    }
}

/// While nothing has failed yet.
const UNTOLD: &str = "waiting for it";

impl Readiness {
    #[must_use]
    pub fn obstacles(&self) -> Vec<NotReady> {
        let mut obstacles = Vec::new();
        if self.is_draining.load(Ordering::Acquire) {
            obstacles.push(NotReady::Draining);
        }
        let missing = self.policy.missing();
        if !missing.is_empty() {
            obstacles.push(NotReady::PolicyIncomplete { missing });
        }
        let freshness = self.replica.freshness(self.clock.now());
        if !freshness.is_fresh() {
            let trouble = self.replica.trouble();
            obstacles.push(match freshness.age() {
                None => NotReady::ReplicaNeverSynced { trouble },
                Some(age) => NotReady::ReplicaStale { age_ms: age.as_millis(), trouble },
            });
        }
        obstacles
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.obstacles().is_empty()
    }
}

#[derive(Debug, Clone)]
struct Ops {
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

pub fn router(readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render_metrics))
        .with_state(Ops { readiness, metrics })
}

async fn readyz(State(ops): State<Ops>) -> Response {
    let obstacles = ops.readiness.obstacles();
    let status = if obstacles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reasons: Vec<_> = obstacles
        .iter()
        .map(|obstacle| json!({"component": obstacle.component(), "message": obstacle.message()}))
        .collect();
    let policy = ops.readiness.policy.json();
    let body = json!({"ready": obstacles.is_empty(), "reasons": reasons, "policy": policy});
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn render_metrics(State(ops): State<Ops>) -> Response {
    let freshness = ops.readiness.replica.freshness(ops.readiness.clock.now());
    ops.metrics.set_replica(ops.readiness.replica.len(), freshness.age(), freshness.is_fresh());
    ops.metrics.set_locks(ops.readiness.replica.lock_count());
    for status in ops.readiness.policy.bundles() {
        let activated = status.last_successful_activation.map(Timestamp::as_second);
        ops.metrics.set_bundle(&status.name, activated, status.failures, status.error.is_some());
    }
    match ops.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
