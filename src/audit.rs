//! The decision log: one JSON line per check, when switched on.
//!
//! It never changes a decision and never makes one wait: lines go through a bounded queue, and what does not fit is
//! counted as lost. Credentials are masked before a line is built, and bodies are never in it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

use crate::metrics::Metrics;

/// Words in the names of headers that carry secrets. Their presence is of interest, their value is not.
const SECRET_WORDS: [&str; 11] = [
    "auth",
    "cookie",
    "token",
    "secret",
    "key",
    "password",
    "credential",
    "session",
    "signature",
    "client-cert",
    "jwt",
];
const MASK: &str = "***";
/// Headers whose values are URLs: shown without the query.
const URL_HEADERS: [&str; 4] = ["referer", "x-envoy-original-path", "x-original-url", "x-rewrite-url"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    File(PathBuf),
}

#[derive(Debug, Error)]
#[error("the decision log {} cannot be opened", .path.display())]
pub struct OpenError {
    path: PathBuf,
    source: std::io::Error,
}

/// One decision. `v` is the version of this schema.
#[derive(Debug, Serialize)]
pub struct Record {
    pub v: u32,
    pub timestamp: Timestamp,
    pub decision_id: String,
    /// Of the policy that decided.
    pub revision: Arc<str>,
    pub allowed: bool,
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub principals: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// The lock that stood in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Envoy's own number of the stream (`AttributeContext.HttpRequest.id`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
    /// Of the trace that the check is part of, where checks are traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Without the query, which carries tokens as often as not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub headers: serde_json::Map<String, serde_json::Value>,
    pub duration_us: u64,
}

/// Header values with the secret ones masked. Pseudo-headers are in the record's own fields.
#[must_use]
pub fn masked<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> serde_json::Map<String, serde_json::Value> {
    headers
        .filter(|(name, _)| !name.starts_with(':'))
        .map(|(name, value)| {
            let lower = name.to_ascii_lowercase();
            let shown = if SECRET_WORDS.iter().any(|word| lower.contains(word)) {
                MASK
            } else if URL_HEADERS.contains(&lower.as_str()) {
                value.split('?').next().unwrap_or_default()
            } else {
                value
            };
            (name.to_owned(), shown.into())
        })
        .collect()
}

/// Where records go. Cheap to clone; the writer ends when the last clone is gone.
#[derive(Debug, Clone)]
pub struct DecisionLog {
    queue: SyncSender<Record>,
    metrics: Arc<Metrics>,
}

impl DecisionLog {
    /// Opens the target and starts the thread that writes to it. A thread, because files block.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(
        target: &LogTarget,
        capacity: usize,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, JoinHandle<()>), OpenError> {
        let output: Box<dyn Write + Send> = match target {
            LogTarget::Stdout => Box::new(std::io::stdout()),
            LogTarget::File(path) => Box::new(open_file(path)?),
        };
        let (queue, records) = sync_channel(capacity);
        let losses = Arc::clone(&metrics);
        let writer = std::thread::spawn(move || write_all(&records, output, &losses));
        Ok((Self { queue, metrics }, writer))
    }

    /// Never waits.
    pub fn record(&self, record: Record) {
        match self.queue.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.count_decision_log_lost();
            }
        }
    }
}

fn open_file(path: &Path) -> Result<std::fs::File, OpenError> {
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    file.map_err(|source| OpenError { path: path.to_owned(), source })
}

fn write_all(records: &Receiver<Record>, output: Box<dyn Write + Send>, metrics: &Metrics) {
    /// Long enough to gather lines under load, short enough for somebody who watches the file.
    const FLUSH_AFTER: Duration = Duration::from_millis(100);
    let mut output = std::io::BufWriter::new(output);
    loop {
        let record = match records.recv_timeout(FLUSH_AFTER) {
            Ok(record) => record,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                if output.flush().is_err() {
                    metrics.count_decision_log_lost();
                }
                continue;
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        };
        let line = serde_json::to_vec(&record);
        let written = line.map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            output.write_all(&line)
        });
        if written.is_err() {
            metrics.count_decision_log_lost();
        }
    }
    if output.flush().is_err() {
        metrics.count_decision_log_lost();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_whatever_their_case() {
        let headers = [
            (":path", "/x"),
            ("Authorization", "Bearer s"),
            ("cookie", "s"),
            ("accept", "*/*"),
            ("x-api-key", "s"),
            ("referer", "http://a/b?token=s"),
        ];
        let shown = serde_json::Value::Object(masked(headers.into_iter())).to_string();
        assert_eq!(
            shown,
            r#"{"Authorization":"***","accept":"*/*","cookie":"***","referer":"http://a/b","x-api-key":"***"}"#
        );
    }

    #[test]
    fn a_full_queue_loses_lines_and_counts_them() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (queue, _records) = sync_channel(1);
        let log = DecisionLog { queue, metrics: Arc::clone(&metrics) };
        for _ in 0..3 {
            log.record(Record {
                v: 1,
                timestamp: Timestamp::UNIX_EPOCH,
                decision_id: String::new(),
                revision: "".into(),
                allowed: false,
                reason: "no_grant",
                error: None,
                principals: Vec::new(),
                grants: Vec::new(),
                lock: None,
                request_id: None,
                stream_id: None,
                trace_id: None,
                method: String::new(),
                host: String::new(),
                path: String::new(),
                source: None,
                headers: serde_json::Map::new(),
                duration_us: 0,
            });
        }
        assert!(metrics.render().unwrap().contains("daypass_decision_log_lost_total 2"));
    }
}
