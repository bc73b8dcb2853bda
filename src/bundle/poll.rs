//! The task that keeps one bundle: what was persisted first, and then the server again and again.
//!
//! An ETag is remembered only with the bundle that was activated, and with no other: a server that is asked with the
//! ETag of a bundle that was refused would answer that nothing changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{self, Digest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::compose::Arrival;
use super::config::{Origin, Polling, Source};
use super::fetch::{self, Answer, Download, Query};
use super::status::Board;
use super::{BundleError, archive, directory, persist};

/// Before the first retry, as OPA.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Each delay over the one before it, as OPA.
const RETRY_FACTOR: f64 = 1.6;
/// Of a retry's delay, either way, as OPA: sidecars that lost their server together come back apart.
const RETRY_JITTER: f64 = 0.2;
/// Between two requests that a server may answer when it has news. One that always answers at once is not stormed.
const LONG_POLL_PAUSE: Duration = Duration::from_millis(100);

/// Characters of a media type that are shown; no registered one has more.
const MAX_MEDIA_TYPE_CHARS: usize = 100;

/// Ends only with the process.
pub async fn run(source: Source, directory: Arc<Path>, board: Arc<Board>, arrivals: mpsc::Sender<Arrival>) {
    let can_wait = source.polling.long_poll.is_some();
    let persisted = source.persist.then(|| persist::path(&directory, &source.name));
    let source = Arc::new(source);
    let mut poller = Poller { source, persisted, board, arrivals, active: None, can_wait, last_error: None };
    if let Err(error) = poller.restore().await {
        poller.failed(&error);
    }
    let mut retries = 0;
    loop {
        let delay = match poller.poll().await {
            Ok(()) => {
                retries = 0;
                poller.succeeded();
                poller.delay()
            }
            Err(error) => {
                // What was refused on its own may fit, now that other bundles are there.
                if poller.active.is_none() && poller.restore().await.is_err() {
                    tracing::debug!(bundle = poller.source.name, "not restored either");
                }
                poller.failed(&error);
                let delay = retry_delay(retries, poller.source.polling.max_delay, fastrand::f64());
                retries += 1;
                delay
            }
        };
        tokio::time::sleep(delay).await;
    }
}

struct Poller {
    source: Arc<Source>,
    persisted: Option<PathBuf>,
    board: Arc<Board>,
    arrivals: mpsc::Sender<Arrival>,
    active: Option<Active>,
    /// Whether the server waits for news, as far as is known.
    can_wait: bool,
    /// The last one that was logged: a server that is away is one line, not one per attempt.
    last_error: Option<String>,
}

/// What is known of the archive in use.
struct Active {
    etag: Option<String>,
    digest: Digest,
}

impl Poller {
    async fn restore(&mut self) -> Result<(), BundleError> {
        let Some(path) = self.persisted.clone() else { return Ok(()) };
        let limit = self.source.limits.size_bytes;
        let loaded = blocking(move || {
            persist::load(&path, limit)
                .map_err(|error| BundleError::File(format!("{}: {error}", path.display())))
        });
        if let Some(archive) = loaded.await? {
            self.activate(archive, None, None).await?;
            tracing::info!(bundle = self.source.name, "bundle restored from disk");
        }
        Ok(())
    }

    async fn poll(&mut self) -> Result<(), BundleError> {
        self.update(super::Status::begin_request);
        let Some(download) = self.download().await? else {
            self.update(super::Status::not_modified);
            return Ok(());
        };
        let digest = digest::digest(&digest::SHA256, &download.archive);
        if let Some(active) = self.active.as_mut().filter(|active| active.digest.as_ref() == digest.as_ref())
        {
            // The same from a server without ETags, or with a new one for it.
            active.etag.clone_from(&download.etag);
            let etag = download.etag;
            self.update(|status| {
                status.active_etag = etag;
                status.not_modified();
            });
            return Ok(());
        }
        let archive = self.activate(download.archive, download.etag, download.content_type).await?;
        if let Some(path) = self.persisted.clone() {
            let saved = blocking(move || {
                persist::save(&path, &archive)
                    .map_err(|error| BundleError::File(format!("{}: not persisted: {error}", path.display())))
            });
            // It is in use all the same.
            if let Err(error) = saved.await {
                tracing::warn!(bundle = self.source.name, "{error}");
            }
        }
        Ok(())
    }

    /// None: what is in use is what there is.
    async fn download(&mut self) -> Result<Option<Download>, BundleError> {
        match &self.source.origin {
            Origin::File(path) => {
                let (path, limit) = (path.clone(), self.source.limits.size_bytes);
                let archive = blocking(move || read_file(&path, limit)).await?;
                Ok(Some(Download { archive, etag: None, can_wait: false, content_type: None }))
            }
            Origin::Service { service, url } => {
                let query = Query {
                    service,
                    url,
                    etag: self.active.as_ref().and_then(|active| active.etag.as_deref()),
                    wait: self.source.polling.long_poll.filter(|_| self.can_wait),
                    size_limit: self.source.limits.size_bytes,
                };
                match fetch::fetch(query).await? {
                    Answer::NotModified => Ok(None),
                    Answer::Bundle(download) => {
                        self.can_wait = download.can_wait;
                        Ok(Some(download))
                    }
                }
            }
        }
    }

    /// Reads, verifies, and offers; returns when there is a verdict.
    async fn activate(
        &mut self,
        archive: Vec<u8>,
        etag: Option<String>,
        content_type: Option<String>,
    ) -> Result<Arc<[u8]>, BundleError> {
        let archive: Arc<[u8]> = archive.into();
        let (source, bytes) = (Arc::clone(&self.source), Arc::clone(&archive));
        let bundle = blocking(move || {
            archive::read(&source.name, &bytes, source.limits, source.verification.as_ref())
        });
        let bundle = bundle.await.map_err(|error| match (error, content_type) {
            // A login page, most often.
            (BundleError::Archive(reason), Some(content_type)) => {
                BundleError::Archive(format!("{reason}; the server calls it {}", media_type(&content_type)))
            }
            (error, _) => error,
        })?;
        self.update(super::Status::downloaded);
        let revision = bundle.manifest.revision.clone();
        let (verdict, decided) = oneshot::channel();
        let arrival = Arrival::new(Arc::clone(&self.source), bundle, Arc::clone(&archive), verdict);
        let nobody = || BundleError::Activation("nobody takes bundles any more".to_owned());
        self.arrivals.send(arrival).await.map_err(|_| nobody())?;
        decided.await.map_err(|_| nobody())??;
        tracing::info!(bundle = self.source.name, revision, "bundle activated");
        self.active = Some(Active { etag: etag.clone(), digest: digest::digest(&digest::SHA256, &archive) });
        self.update(|status| status.activated(revision, etag, archive.len()));
        Ok(archive)
    }

    fn delay(&self) -> Duration {
        let Polling { min_delay, max_delay, long_poll } = self.source.polling;
        if long_poll.is_some() && self.can_wait {
            return LONG_POLL_PAUSE;
        }
        min_delay + max_delay.saturating_sub(min_delay).mul_f64(fastrand::f64())
    }

    fn succeeded(&mut self) {
        if self.last_error.take().is_some() {
            tracing::info!(bundle = self.source.name, "bundle is up to date again");
        }
    }

    fn failed(&mut self, error: &BundleError) {
        self.update(|status| status.failed(error));
        let text = error.to_string();
        if self.last_error.as_deref() != Some(text.as_str()) {
            tracing::warn!(bundle = self.source.name, code = error.code(), "bundle not updated: {text}");
            self.last_error = Some(text);
        }
    }

    fn update(&self, change: impl FnOnce(&mut super::Status)) {
        self.board.update(&self.source.name, change);
    }
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, BundleError> {
    let found = if path.is_dir() {
        directory::pack(path, limit)
    } else {
        persist::load(path, limit).and_then(|found| found.ok_or(std::io::ErrorKind::NotFound.into()))
    };
    found.map_err(|error| BundleError::File(format!("{}: {error}", path.display())))
}

/// What of a header may be shown to others: the server's words are not ours.
fn media_type(content_type: &str) -> String {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let is_part = |c: &char| c.is_ascii_alphanumeric() || "/.+-_".contains(*c);
    media_type.chars().take_while(is_part).take(MAX_MEDIA_TYPE_CHARS).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
) -> Result<T, BundleError> {
    let began = Instant::now();
    let result = tokio::task::spawn_blocking(work).await;
    tracing::debug!(took = ?began.elapsed(), "bundle work");
    // A panic in a parser is that bundle's, and not the end of the process.
    result.map_err(|error| BundleError::Content(format!("it cannot be read: {error}")))?
}

/// `luck` is in 0..1.
fn retry_delay(retries: i32, max: Duration, luck: f64) -> Duration {
    let growth = RETRY_FACTOR.powi(retries.clamp(0, 64));
    let jitter = 1.0 + RETRY_JITTER * (luck * 2.0 - 1.0);
    let seconds = (MIN_RETRY_DELAY.as_secs_f64() * growth).min(max.as_secs_f64()) * jitter;
    Duration::try_from_secs_f64(seconds).unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_header_only_the_type_is_shown() {
        assert_eq!(media_type("text/html; charset=\"x\""), "text/html");
        assert_eq!(
            media_type("application/vnd.oci.image.layer.v1.tar+gzip"),
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        assert_eq!(media_type("text/x <script>"), "text/x");
        assert_eq!(media_type(&"a".repeat(5000)).len(), MAX_MEDIA_TYPE_CHARS);
    }

    #[test]
    fn retries_grow_to_the_longest_delay_and_vary() {
        let max = Duration::from_secs(120);
        let seconds = |retries, luck| retry_delay(retries, max, luck).as_secs_f64();
        assert!((seconds(0, 0.5) - 0.1).abs() < 1e-9 && (seconds(2, 0.5) - 0.256).abs() < 1e-9);
        for retries in [20, 1_000_000, i32::MAX] {
            assert!((seconds(retries, 0.5) - 120.0).abs() < 1e-9);
        }
        assert!(seconds(30, 0.0) > 95.9 && seconds(30, 1.0) < 144.1);
    }
}
