//! What docs/operations.md tells operators to look for is there to be found.

use std::collections::BTreeSet;

use daypass::decision::{AllowReason, DenyReason};
use daypass::metrics::Metrics;

use crate::support::daypass::http_get;
use crate::support::envoy::Envoy;

const DOCUMENT: &str = include_str!("../../docs/operations.md");

/// What stands in the braces of Envoy's metrics, and in its configuration.
const NO_METRICS: [&str; 3] = ["envoy_cluster_name", "envoy_http_conn_manager_prefix", "envoy_grpc"];

/// Every word of the document that begins so.
fn words(prefix: &str) -> BTreeSet<&'static str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    DOCUMENT.split(|c| !is_part(c)).filter(|word| word.starts_with(prefix)).collect()
}

/// The name of the family that a series belongs to, if `page` declares it.
fn is_declared(page: &str, series: &str) -> bool {
    let family = series.strip_suffix("_bucket").unwrap_or(series);
    page.lines()
        .any(|line| line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()) == Some(family))
}

#[test]
fn every_reason_is_explained_with_its_status() {
    let rows: Vec<Vec<&str>> = DOCUMENT
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let row = |code: &str| {
        let mut found = rows.iter().filter(|row| row[0] == format!("`{code}`"));
        let first = found.next().unwrap_or_else(|| panic!("no row for {code}"));
        assert!(found.next().is_none(), "two rows for {code}");
        first
    };
    for reason in DenyReason::ALL {
        let row = row(reason.code());
        assert_eq!(row[1], reason.http_status().to_string(), "{reason:?}");
        assert!(row.len() == 5 && row[2..].iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
    for reason in [AllowReason::Grant, AllowReason::Policy, AllowReason::DryRun(DenyReason::NoGrant)] {
        assert_eq!(row(reason.code())[1], "pass", "{reason:?}");
    }
    let of_reasons = rows.iter().filter(|row| row.len() == 5).count();
    assert_eq!(of_reasons, DenyReason::ALL.len() + 3, "a row for what is no reason");
}

#[test]
fn every_metric_of_ours_exists() {
    let metrics = Metrics::new().unwrap();
    // Families whose series come with their first event.
    metrics.count_policy_load(true);
    metrics.count_session_end("link");
    metrics.set_bundle("b", None, 0, false);
    metrics.count_webhook("w", "delivered", 0);
    metrics.set_webhook_lag("w", 0);
    let page = metrics.render().unwrap();
    let named = words("daypass_");
    assert!(named.len() > 15, "{named:?}");
    for series in named {
        assert!(is_declared(&page, series), "{series} is no metric of daypass");
    }
    // The codes in an alert are reasons.
    let codes = DOCUMENT.split("reason=~\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    for code in codes.split('|') {
        assert!(DenyReason::ALL.iter().any(|reason| reason.code() == code), "{code}");
    }
}

#[test]
fn every_metric_of_envoys_exists() {
    let dir = tempfile::tempdir().unwrap();
    let loopback = [("address: 0.0.0.0", "address: 127.0.0.1")];
    let Some(envoy) = Envoy::start("compose.yaml", dir.path(), &loopback) else { return };
    let (_, page) = http_get(&envoy.admin, "/stats/prometheus");
    let named = words("envoy_");
    assert!(named.len() > 5, "{named:?}");
    for series in named.into_iter().filter(|word| !NO_METRICS.contains(word)) {
        assert!(is_declared(&page, series), "{series} is no metric of Envoy");
    }
}
