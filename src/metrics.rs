//! Every metric family and label in one place, and an observer that cannot forget to count.

use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::decision::{Decision, DenyReason};
use crate::grant::Refusal;

/// From 10 us, where a decision from memory lies, to the time Envoy gives up by default (200 ms) and beyond.
const CHECK_BUCKETS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.15, 0.2, 0.5, 1.0,
];

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    checks: IntCounterVec,
    check_seconds: Histogram,
    evaluation_seconds: Histogram,
    cancelled: IntCounter,
    refused: IntCounterVec,
    locks: LockMetrics,
    streams: StreamMetrics,
    policy_loads: IntCounterVec,
    decision_log_lost: IntCounter,
    resyncs: IntCounter,
    sessions_ended: IntCounterVec,
    forgotten: IntCounter,
    reapplied: IntCounter,
    store_replicas: IntGauge,
    store_concerns: IntGauge,
    clock_skew_seconds: Gauge,
    replica_grants: IntGauge,
    replica_age_seconds: Gauge,
    replica_fresh: IntGauge,
    bundles: BundleGauges,
    webhooks: WebhookMetrics,
}

/// By the name of a webhook.
#[derive(Debug)]
struct WebhookMetrics {
    deliveries: IntCounterVec,
    lag: IntGaugeVec,
}

impl WebhookMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        let deliveries = Opts::new(
            "daypass_webhook_deliveries_total",
            "Events of the journal that came to an end with a webhook, and failed attempts, by outcome.",
        );
        let lag = Opts::new(
            "daypass_webhook_lag",
            "Events of the journal that a webhook has not come to: the last number less its own.",
        );
        Ok(Self {
            deliveries: IntCounterVec::new(deliveries, &["webhook", "outcome"])?,
            lag: IntGaugeVec::new(lag, &["webhook"])?,
        })
    }

    fn families(&self) -> [Box<dyn Collector>; 2] {
        [Box::new(self.deliveries.clone()), Box::new(self.lag.clone())]
    }
}

/// By the name of a bundle.
#[derive(Debug)]
struct BundleGauges {
    activated_seconds: IntGaugeVec,
    failures: IntGaugeVec,
    failing: IntGaugeVec,
}

impl BundleGauges {
    fn new() -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["bundle"]);
        Ok(Self {
            activated_seconds: gauges(
                "daypass_bundle_activated_timestamp_seconds",
                "When the bundle in use was activated; 0 if none is.",
            )?,
            failures: gauges(
                "daypass_bundle_failures",
                "Requests, downloads and activations that failed since the start.",
            )?,
            failing: gauges(
                "daypass_bundle_failing",
                "1 while the last attempt on this bundle failed; what is in use stays in use.",
            )?,
        })
    }

    fn families(&self) -> [Box<dyn Collector>; 3] {
        [&self.activated_seconds, &self.failures, &self.failing]
            .map(|family| Box::new(family.clone()) as Box<dyn Collector>)
    }
}

#[derive(Debug)]
struct LockMetrics {
    unreadable: IntCounterVec,
    held: IntGauge,
}

impl LockMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        let unreadable = Opts::new(
            "daypass_locks_unreadable_total",
            "Stored locks that cannot be read, each of which locks everything, by reason.",
        );
        Ok(Self {
            unreadable: IntCounterVec::new(unreadable, &["reason"])?,
            held: IntGauge::new("daypass_replica_locks", "Locks in the replica.")?,
        })
    }

    fn families(&self) -> [Box<dyn Collector>; 2] {
        [Box::new(self.unreadable.clone()), Box::new(self.held.clone())]
    }
}

/// Why a live stream that Envoy wants watched is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwatched {
    /// The metadata of ext_authz did not come with it: not forwarded, or ext_authz is off on that route.
    NoDecision,
    TooMany,
    DryRun,
    Stopping,
}

impl Unwatched {
    const ALL: [Self; 4] = [Self::NoDecision, Self::TooMany, Self::DryRun, Self::Stopping];

    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoDecision => "no_decision",
            Self::TooMany => "too_many",
            Self::DryRun => "dry_run",
            Self::Stopping => "stopping",
        }
    }
}

#[derive(Debug)]
struct StreamMetrics {
    live: IntGauge,
    ended: IntCounterVec,
    unwatched: IntCounterVec,
    inferred: IntCounter,
}

impl StreamMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        let ended = Opts::new(
            "daypass_streams_ended_total",
            "Watched streams that ended: by us, with the reason, or by themselves (`closed`).",
        );
        let unwatched = Opts::new(
            "daypass_streams_unwatched_total",
            "Streams that Envoy asked to be watched and that are not, by reason; they end with their deadline.",
        );
        Ok(Self {
            live: IntGauge::new("daypass_streams_live", "Live streams that are watched.")?,
            ended: IntCounterVec::new(ended, &["reason"])?,
            unwatched: IntCounterVec::new(unwatched, &["reason"])?,
            inferred: IntCounter::new(
                "daypass_streams_inferred_total",
                "Watched streams of which no more is known than Envoy's metadata says: another instance let them in.",
            )?,
        })
    }

    fn families(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.live.clone()),
            Box::new(self.ended.clone()),
            Box::new(self.unwatched.clone()),
            Box::new(self.inferred.clone()),
        ]
    }

    fn begin_series(&self) {
        let endings = [DenyReason::GrantRevoked, DenyReason::GrantExpired, DenyReason::Locked];
        for reason in endings.map(DenyReason::code).into_iter().chain(["closed"]) {
            self.ended.with_label_values(&[reason]);
        }
        for why in Unwatched::ALL {
            self.unwatched.with_label_values(&[why.code()]);
        }
    }
}

impl Metrics {
    /// # Errors
    /// Two families with one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounter::with_opts(Opts::new(name, help));
        let counters =
            |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let histogram = |name: &str, help: &str| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(CHECK_BUCKETS.to_vec()))
        };
        let metrics = Self {
            registry: Registry::new(),
            checks: counters(
                "daypass_checks_total",
                "Checks answered, by outcome and reason.",
                &["outcome", "reason"],
            )?,
            check_seconds: histogram(
                "daypass_check_duration_seconds",
                "Time from receipt of a check to its answer.",
            )?,
            evaluation_seconds: histogram(
                "daypass_policy_evaluation_seconds",
                "Time policy took, per check.",
            )?,
            cancelled: counter(
                "daypass_checks_cancelled_total",
                "Checks whose caller went away before the answer.",
            )?,
            refused: counters(
                "daypass_grants_refused_total",
                "Stored values that are no grants, by reason.",
                &["reason"],
            )?,
            locks: LockMetrics::new()?,
            streams: StreamMetrics::new()?,
            policy_loads: counters("daypass_policy_loads_total", "Policy loads, by result.", &["result"])?,
            decision_log_lost: counter(
                "daypass_decision_log_lost_total",
                "Decision-log lines lost to a full queue.",
            )?,
            resyncs: counter("daypass_replica_resyncs_total", "Complete copies of the store's grants.")?,
            sessions_ended: counters(
                "daypass_store_sessions_ended_total",
                "Ends of the connection that keeps the replica, and failures to get one, by cause.",
                &["cause"],
            )?,
            forgotten: counter(
                "daypass_revocations_forgotten_total",
                "Vanished grants that were not remembered for want of room.",
            )?,
            reapplied: counter(
                "daypass_revocations_reapplied_total",
                "Revocations that the store had lost and was asked for again.",
            )?,
            store_replicas: IntGauge::new(
                "daypass_store_replicas",
                "Replicas of the store heard of within max_lag.",
            )?,
            store_concerns: IntGauge::new(
                "daypass_store_concerns",
                "Settings of the store that should be changed; the log names them.",
            )?,
            clock_skew_seconds: Gauge::new(
                "daypass_store_clock_skew_seconds",
                "Between the store's clock and this machine's.",
            )?,
            replica_grants: IntGauge::new("daypass_replica_grants", "Grants in the replica.")?,
            replica_age_seconds: Gauge::new(
                "daypass_replica_age_seconds",
                "Age of the replica; -1 before the first copy.",
            )?,
            replica_fresh: IntGauge::new("daypass_replica_fresh", "1 while the replica may be used.")?,
            bundles: BundleGauges::new()?,
            webhooks: WebhookMetrics::new()?,
        };
        let families: [Box<dyn Collector>; 18] = [
            Box::new(metrics.checks.clone()),
            Box::new(metrics.check_seconds.clone()),
            Box::new(metrics.evaluation_seconds.clone()),
            Box::new(metrics.cancelled.clone()),
            Box::new(metrics.refused.clone()),
            Box::new(metrics.policy_loads.clone()),
            Box::new(metrics.decision_log_lost.clone()),
            Box::new(metrics.resyncs.clone()),
            Box::new(metrics.sessions_ended.clone()),
            Box::new(metrics.forgotten.clone()),
            Box::new(metrics.reapplied.clone()),
            Box::new(metrics.store_replicas.clone()),
            Box::new(metrics.store_concerns.clone()),
            Box::new(metrics.clock_skew_seconds.clone()),
            Box::new(metrics.replica_grants.clone()),
            Box::new(metrics.replica_age_seconds.clone()),
            Box::new(metrics.replica_fresh.clone()),
            Box::new(prometheus::process_collector::ProcessCollector::for_self()),
        ];
        let groups = metrics.bundles.families().into_iter().chain(metrics.locks.families());
        let groups = groups.chain(metrics.streams.families());
        for family in families.into_iter().chain(groups).chain(metrics.webhooks.families()) {
            metrics.registry.register(family)?;
        }
        metrics.begin_series();
        Ok(metrics)
    }

    /// A series that appears only with its first event cannot be alerted on.
    fn begin_series(&self) {
        self.streams.begin_series();
        for refusal in Refusal::ALL {
            self.refused.with_label_values(&[refusal.code()]);
            self.locks.unreadable.with_label_values(&[refusal.code()]);
        }
        for reason in DenyReason::ALL {
            self.checks.with_label_values(&["deny", reason.code()]);
        }
    }

    /// Counts a check as cancelled unless [`CheckObserver::end`] is called.
    #[must_use]
    pub fn observe_check(&self) -> CheckObserver<'_> {
        CheckObserver { metrics: self, started: Instant::now(), has_ended: false }
    }

    pub fn observe_evaluation(&self, took: Duration) {
        self.evaluation_seconds.observe(took.as_secs_f64());
    }

    pub fn count_refused(&self, refusal: Refusal) {
        self.refused.with_label_values(&[refusal.code()]).inc();
    }

    pub fn count_unreadable_lock(&self, refusal: Refusal) {
        self.locks.unreadable.with_label_values(&[refusal.code()]).inc();
    }

    /// One more, or one less.
    pub fn count_live_stream(&self, by: i64) {
        self.streams.live.add(by);
    }

    pub fn count_inferred_stream(&self) {
        self.streams.inferred.inc();
    }

    pub fn count_stream_end(&self, reason: &str) {
        self.streams.ended.with_label_values(&[reason]).inc();
    }

    pub fn count_unwatched(&self, why: Unwatched) {
        self.streams.unwatched.with_label_values(&[why.code()]).inc();
    }

    pub fn count_policy_load(&self, succeeded: bool) {
        self.policy_loads.with_label_values(&[if succeeded { "ok" } else { "failed" }]).inc();
    }

    pub fn set_bundle(&self, name: &str, activated: Option<i64>, failures: u64, is_failing: bool) {
        let labels = [name];
        self.bundles.activated_seconds.with_label_values(&labels).set(activated.unwrap_or(0));
        self.bundles.failures.with_label_values(&labels).set(i64::try_from(failures).unwrap_or(i64::MAX));
        self.bundles.failing.with_label_values(&labels).set(i64::from(is_failing));
    }

    /// `outcome` is one of a few words.
    pub fn count_webhook(&self, webhook: &str, outcome: &str, by: u64) {
        self.webhooks.deliveries.with_label_values(&[webhook, outcome]).inc_by(by);
    }

    pub fn set_webhook_lag(&self, webhook: &str, lag: u64) {
        self.webhooks.lag.with_label_values(&[webhook]).set(i64::try_from(lag).unwrap_or(i64::MAX));
    }

    pub fn count_decision_log_lost(&self) {
        self.decision_log_lost.inc();
    }

    pub fn count_resync(&self) {
        self.resyncs.inc();
    }

    pub fn count_session_end(&self, cause: &str) {
        self.sessions_ended.with_label_values(&[cause]).inc();
    }

    pub fn count_forgotten(&self) {
        self.forgotten.inc();
    }

    pub fn count_reapplied(&self) {
        self.reapplied.inc();
    }

    pub fn set_store_replicas(&self, replicas: usize) {
        self.store_replicas.set(i64::try_from(replicas).unwrap_or(i64::MAX));
    }

    pub fn set_store_concerns(&self, concerns: usize) {
        self.store_concerns.set(i64::try_from(concerns).unwrap_or(i64::MAX));
    }

    /// What it was before.
    #[must_use]
    pub fn set_clock_skew(&self, skew: Duration) -> Duration {
        let before = self.clock_skew_seconds.get();
        self.clock_skew_seconds.set(skew.as_secs_f64());
        Duration::try_from_secs_f64(before).unwrap_or_default()
    }

    pub fn set_replica(&self, grants: usize, age: Option<Duration>, is_fresh: bool) {
        self.replica_grants.set(i64::try_from(grants).unwrap_or(i64::MAX));
        self.replica_age_seconds.set(age.map_or(-1.0, |age| age.as_secs_f64()));
        self.replica_fresh.set(is_fresh.into());
    }

    pub fn set_locks(&self, locks: usize) {
        self.locks.held.set(i64::try_from(locks).unwrap_or(i64::MAX));
    }

    /// Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// A family cannot be written as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[derive(Debug)]
pub struct CheckObserver<'a> {
    metrics: &'a Metrics,
    started: Instant,
    has_ended: bool,
}

impl CheckObserver<'_> {
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn end(mut self, decision: &Decision) {
        self.has_ended = true;
        let outcome = if decision.is_allow() { "allow" } else { "deny" };
        self.metrics.checks.with_label_values(&[outcome, decision.reason_code()]).inc();
        self.metrics.check_seconds.observe(self.started.elapsed().as_secs_f64());
    }
}

impl Drop for CheckObserver<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.metrics.cancelled.inc();
        }
    }
}
