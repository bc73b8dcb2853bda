//! What is known of each bundle, for people and alerts. Never consulted to decide what to do next.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::BundleError;

/// One bundle. Names are those of OPA's status, where it has the same thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub name: String,
    /// Of the bundle in use; a manifest may have none.
    pub active_revision: Option<String>,
    pub active_etag: Option<String>,
    /// Compressed bytes of the bundle in use.
    pub size: usize,
    pub last_request: Option<Timestamp>,
    pub last_successful_request: Option<Timestamp>,
    pub last_successful_download: Option<Timestamp>,
    pub last_successful_activation: Option<Timestamp>,
    /// Of the last attempt; none if it succeeded. The bundle in use stays in use.
    pub error: Option<Failure>,
    pub requests: u64,
    pub downloads: u64,
    pub activations: u64,
    pub failures: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub code: &'static str,
    pub message: String,
    pub http_code: Option<u16>,
    pub at: Timestamp,
}

impl Status {
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.last_successful_activation.is_some()
    }

    pub(super) fn begin_request(&mut self) {
        self.requests += 1;
        self.last_request = Some(Timestamp::now());
    }

    /// The server answered that what is in use is what it has.
    pub(super) fn not_modified(&mut self) {
        self.last_successful_request = self.last_request;
        self.error = None;
    }

    /// Read and verified. Not active yet, so an error of an earlier attempt still stands.
    pub(super) fn downloaded(&mut self) {
        self.downloads += 1;
        self.last_successful_request = self.last_request;
        self.last_successful_download = Some(Timestamp::now());
    }

    pub(super) fn activated(&mut self, revision: Option<String>, etag: Option<String>, size: usize) {
        self.activations += 1;
        self.last_successful_activation = Some(Timestamp::now());
        self.active_revision = revision;
        self.active_etag = etag;
        self.size = size;
        self.error = None;
    }

    pub(super) fn failed(&mut self, error: &BundleError) {
        self.failures += 1;
        self.error = Some(Failure {
            code: error.code(),
            message: error.to_string(),
            http_code: error.http_code(),
            at: Timestamp::now(),
        });
    }
}

/// The status of every configured bundle.
#[derive(Debug)]
pub(super) struct Board(Mutex<BTreeMap<String, Status>>);

impl Board {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let status = |name: String| (name.clone(), Status { name, ..Status::default() });
        Self(Mutex::new(names.into_iter().map(status).collect()))
    }

    pub fn update(&self, name: &str, change: impl FnOnce(&mut Status)) {
        if let Some(status) = self.lock().get_mut(name) {
            change(status);
        }
    }

    pub fn all(&self) -> Vec<Status> {
        self.lock().values().cloned().collect()
    }

    /// A panic elsewhere leaves at worst a half-told status, which the next attempt overwrites.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
