//! For the orchestrator and the people who run it: `/livez`, `/readyz` and `/metrics`.
//!
//! Everybody who reaches this listener may read it, so nothing here names a caller, a grant or a secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::replica::Replica;

/// Whether this sidecar can answer. Policy is not in it: without one the process does not start.
#[derive(Debug)]
pub struct Readiness {
    pub replica: Arc<Replica>,
    pub clock: Clock,
    /// Set when the process is asked to stop.
    pub is_draining: AtomicBool,
}

/// One thing that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    Draining,
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
            Self::ReplicaNeverSynced { .. } | Self::ReplicaStale { .. } => "replica",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Draining => "shutting down".to_owned(),
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
    let body = json!({"ready": obstacles.is_empty(), "reasons": reasons});
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn render_metrics(State(ops): State<Ops>) -> Response {
    let freshness = ops.readiness.replica.freshness(ops.readiness.clock.now());
    ops.metrics.set_replica(ops.readiness.replica.len(), freshness.age(), freshness.is_fresh());
    match ops.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
