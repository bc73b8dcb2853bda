//! Webhooks: every event of the journal is told to the receivers that the configuration names. Each has a task of its
//! own, so that a slow one delays no other. Reads the record as the system, not as a caller; must never decide anything,
//! and nothing that is decided ever waits for it.

mod body;
mod config;
mod deliver;
mod mark;
mod record;
mod send;
mod signature;

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::desk::admission::LiveAdmission;
use crate::metrics::Metrics;
use crate::store::Store;
use deliver::{Deliverer, Fate};

pub use config::{
    DEFAULT_MAX_AGE, DEFAULT_TIMEOUT, Format, MAX_TIMEOUT, Reach, WebhookConfig, is_known_type,
};

/// Between two looks at what entitlements name.
const NAMES_PERIOD: Duration = Duration::from_secs(2);
/// Unknown names that are said: whoever writes more of them has read the first.
const MAX_UNKNOWN: usize = 1000;

#[derive(Debug, Error)]
#[error("webhook {name}: {why}")]
pub struct WebhookError {
    name: String,
    why: String,
}

/// Never ends.
pub type Task = Pin<Box<dyn Future<Output = Infallible> + Send>>;

/// All of them, before they run.
#[derive(Clone)]
pub struct Webhooks {
    configs: Vec<WebhookConfig>,
    store: Arc<Store>,
    admission: Arc<LiveAdmission>,
    metrics: Arc<Metrics>,
}

impl Webhooks {
    /// Whoever starts with a secret that cannot be used is told now, and not with the first event. Blocking.
    ///
    /// # Errors
    /// A file of secrets cannot be read, or others can read it.
    pub fn open(
        configs: Vec<WebhookConfig>,
        store: Arc<Store>,
        admission: Arc<LiveAdmission>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, WebhookError> {
        for config in &configs {
            let files = config.secret_file.iter().chain(config.header_files.iter().map(|(_, path)| path));
            for path in files {
                signature::read_secret(path)
                    .map_err(|why| WebhookError { name: config.name.clone(), why })?;
            }
            // A series that appears only with its first event cannot be alerted on.
            Fate::ALL.iter().for_each(|fate| metrics.count_webhook(&config.name, fate.as_str(), 0));
            metrics.set_webhook_lag(&config.name, 0);
        }
        Ok(Self { configs, store, admission, metrics })
    }

    /// All that is to run: what delivers, one for each webhook, and what looks at names.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        let owner = uuid::Uuid::new_v4().simple().to_string();
        let deliverer = |config: &WebhookConfig| -> Task {
            let deliverer = Deliverer {
                config: config.clone(),
                store: Arc::clone(&self.store),
                admission: Arc::clone(&self.admission),
                metrics: Arc::clone(&self.metrics),
                owner: owner.clone(),
            };
            Box::pin(deliverer.run())
        };
        let mut tasks: Vec<Task> = self.configs.iter().map(deliverer).collect();
        tasks.push(Box::pin(self.clone().watch_names()));
        tasks
    }

    /// Says which webhooks entitlements name that are none, each once.
    async fn watch_names(self) -> Infallible {
        let mut said = HashSet::new();
        let mut looked_at = None;
        loop {
            let current = Arc::clone(&*self.admission.current());
            if !looked_at.as_ref().is_some_and(|before| Arc::ptr_eq(before, &current)) {
                self.say_unknown(&current, &mut said);
                looked_at = Some(current);
            }
            tokio::time::sleep(NAMES_PERIOD).await;
        }
    }

    fn say_unknown(&self, admission: &crate::desk::admission::Admission, said: &mut HashSet<String>) {
        for entitlement in admission.entitlements().iter() {
            for name in &entitlement.webhooks {
                let is_known = self.configs.iter().any(|config| config.name == *name);
                if !is_known && said.len() < MAX_UNKNOWN && said.insert(name.clone()) {
                    let entitlement = &entitlement.name;
                    tracing::warn!(entitlement, webhook = name, "there is no webhook of this name");
                }
            }
        }
    }
}
