//! OPA bundles: policy and data from a server, as OPA fetches, verifies and keeps them.
//!
//! One task per bundle polls its server. What it reads and verifies is offered to whoever uses policy, as a
//! [`Candidate`] that holds every bundle there is; only what that consumer accepts counts as active. Until a
//! candidate is accepted, the bundles before it stay in use, and their ETags are what the servers are asked with.
//! A bundle that cannot be verified must never be offered.

mod archive;
mod canonical;
mod compose;
pub mod config;
mod directory;
mod error;
mod fetch;
mod keys;
mod manifest;
mod pattern;
mod persist;
mod poll;
mod signature;
mod status;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::policy::{Data, RegoFile};

pub use archive::{Limits, read};
pub use compose::{Candidate, Candidates};
pub use config::Config;
pub use error::BundleError;
pub use keys::{Algorithm, Key};
pub use manifest::Manifest;
pub use signature::Verification;
pub use status::{Failure, Status};

use status::Board;

/// What one archive holds, verified and within its roots.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    pub manifest: Manifest,
    pub modules: Vec<RegoFile>,
    pub data: Data,
}

/// All configured bundles and the tasks that keep them. Dropping it ends the tasks.
#[derive(Debug)]
pub struct Bundles {
    board: Arc<Board>,
    tasks: JoinSet<()>,
}

/// A view of every bundle's status that outlives nobody's interest in it.
#[derive(Debug, Clone)]
pub struct Statuses(Arc<Board>);

impl Statuses {
    /// In the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Status> {
        self.0.all()
    }
}

impl Bundles {
    /// Begins with what was persisted, and polls. Must be called on a runtime.
    #[must_use]
    pub fn start(config: Config) -> (Self, Candidates) {
        let board = Arc::new(Board::new(config.sources.iter().map(|source| source.name.clone())));
        let mut tasks = JoinSet::new();
        // One per source: a task waits for the verdict on its bundle before it fetches the next.
        let (arrivals, queue) = mpsc::channel(config.sources.len().max(1));
        let names = config.sources.iter().map(|source| source.name.clone()).collect();
        let candidates = compose::start(&mut tasks, names, queue);
        let directory = Arc::<std::path::Path>::from(config.persistence_directory);
        if let Some(name) =
            proxy_variable(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
            && config.sources.iter().any(|source| matches!(source.origin, config::Origin::Service { .. }))
        {
            tracing::warn!("{name} is set, and bundles are fetched without a proxy");
        }
        for source in config.sources {
            warn_of(&source);
            let (board, arrivals, directory) = (Arc::clone(&board), arrivals.clone(), Arc::clone(&directory));
            tasks.spawn(poll::run(source, directory, board, arrivals));
        }
        (Self { board, tasks }, candidates)
    }

    /// In the order of their names.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        self.board.all()
    }

    /// The same for somebody else to look at.
    #[must_use]
    pub fn watched(&self) -> Statuses {
        Statuses(Arc::clone(&self.board))
    }

    /// Returns when one of the tasks ended, which none does by itself: something is broken.
    pub async fn ended(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Err(error)) => error.to_string(),
            Some(Ok(())) | None => "a task of the bundles ended".to_owned(),
        }
    }
}

/// What OPA would go by.
fn proxy_variable(is_set: impl Fn(&str) -> bool) -> Option<&'static str> {
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"].into_iter().find(|name| is_set(name))
}

/// Of what lets others write policy. OPA takes it, so it is not refused.
fn warn_of(source: &config::Source) {
    let config::Origin::Service { service, url } = &source.origin else { return };
    if service.tls.is_insecure {
        tracing::warn!(
            bundle = source.name,
            "allow_insecure_tls: whoever is on the way can pose as the server"
        );
    }
    let is_local = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let is_signed = source.verification.as_ref().is_some_and(|verification| verification.is_required);
    if url.scheme() == "http" && !is_local && !is_signed {
        tracing::warn!(
            bundle = source.name,
            "fetched in clear and not signed: whoever is on the way can change policy"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_proxy() {
        assert_eq!(proxy_variable(|name| name == "http_proxy"), Some("http_proxy"));
        assert_eq!(proxy_variable(|name| name == "NO_PROXY"), None);
    }
}
