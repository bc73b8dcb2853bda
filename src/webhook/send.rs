//! One attempt: signed, bounded, and what its answer means. Must never log a header, a URL or a body.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use jiff::Timestamp;
use tokio::time::timeout;

use super::config::WebhookConfig;
use super::signature::{read_secret, sign};
use crate::fetch::{self, Incoming, tls::Tls};

/// Of an answer, in bytes: read so that the connection ends well, and dropped.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// What is not there by then is not waited for: the status has said it all.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// Longest wait that a receiver can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What is delivered.
#[derive(Debug)]
pub struct Delivery {
    pub number: u64,
    pub kind: String,
    pub body: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// The receiver will never take it.
    Refused(StatusCode),
    /// Not now.
    Failed {
        why: String,
        retry_after: Option<Duration>,
    },
}

/// Ends within the webhook's timeout and a second.
pub async fn send(config: &WebhookConfig, delivery: &Delivery, now: Timestamp) -> Verdict {
    let failed = |why: String| Verdict::Failed { why, retry_after: None };
    match timeout(config.timeout, attempt(config, delivery, now)).await {
        Err(_) => failed(format!("no answer within {:?}", config.timeout)),
        Ok(Err(why)) => failed(why),
        Ok(Ok(response)) => {
            let verdict = verdict(response.status(), response.headers(), now);
            let _ = timeout(ANSWER_LIMIT, fetch::body(response, MAX_ANSWER_BYTES)).await;
            verdict
        }
    }
}

async fn attempt(
    config: &WebhookConfig,
    delivery: &Delivery,
    now: Timestamp,
) -> Result<Response<Incoming>, String> {
    let files = (config.secret_file.clone(), config.header_files.clone());
    let (secret, from_files) = tokio::task::spawn_blocking(move || {
        let (secret, headers) = files;
        let secret = secret.map(|path| read_secret(&path)).transpose()?;
        let mut read = Vec::new();
        for (name, path) in headers {
            let value = HeaderValue::from_bytes(&read_secret(&path)?);
            let mut value = value.map_err(|_| format!("{} is no value of a header", path.display()))?;
            value.set_sensitive(true);
            read.push((name, value));
        }
        Ok::<_, String>((secret, read))
    })
    .await
    .map_err(|error| error.to_string())??;

    let mut headers: HeaderMap = config.headers.iter().cloned().chain(from_files).collect();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let timestamp = now.as_second();
    let mut own = |name: &'static str, value: String| {
        // Names and types have none but plain characters.
        HeaderValue::try_from(value).map(|value| drop(headers.insert(name, value)))
    };
    let signature = secret.map(|secret| sign(&secret, timestamp, delivery.body.as_bytes()));
    own("x-daypass-event", delivery.kind.clone())
        .and_then(|()| own("x-daypass-delivery", format!("{}-{}", config.name, delivery.number)))
        .and_then(|()| own("x-daypass-timestamp", timestamp.to_string()))
        .and_then(|()| signature.map_or(Ok(()), |signature| own("x-daypass-signature", signature)))
        .map_err(|error| error.to_string())?;
    let tls = Tls { ca_file: config.ca_file.clone(), ..Tls::default() };
    let body = delivery.body.clone().into_bytes();
    fetch::post(&config.url, headers, body, tls).await.map_err(|error| error.to_string())
}

fn verdict(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Verdict {
    let is_refusal = status.is_client_error()
        && !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if status.is_success() {
        Verdict::Delivered
    } else if is_refusal {
        Verdict::Refused(status)
    } else {
        let more = if status.is_redirection() { ", and redirects are not followed" } else { "" };
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = after.and_then(|text| retry_after(text, now));
        Verdict::Failed { why: format!("the receiver answered {status}{more}"), retry_after }
    }
}

/// Seconds, or a date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => MAX_RETRY_AFTER,
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_what_they_mean() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let of = |status: u16| verdict(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), now);
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(of(status), Verdict::Delivered);
        }
        for status in [400, 401, 403, 404, 410, 413, 422] {
            assert!(matches!(of(status), Verdict::Refused(_)), "{status}");
        }
        for status in [301, 307, 408, 429, 500, 502, 503, 599] {
            assert!(matches!(of(status), Verdict::Failed { .. }), "{status}");
        }
    }

    #[test]
    fn receivers_ask_for_time_and_not_for_ever() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("99999", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("Sat, 31 Jan 2026 12:00:30 GMT", Some(30)),
            ("Sat, 31 Jan 2026 11:00:00 GMT", Some(0)),
            ("Wed, 31 Dec 9000 23:59:59 GMT", Some(3600)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text, now), wanted.map(Duration::from_secs), "{text}");
        }
    }
}
