//! Spans of checks, for a collector that speaks OTLP over gRPC. Hides opentelemetry.
//!
//! Off unless configured. Never changes a decision and never makes one wait: spans queue for a thread of their own, and what
//! does not fit is dropped. What a span says of a caller is no more than the decision log does.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, TraceContextExt, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use thiserror::Error;

/// Spans that wait for the collector. At a few hundred bytes each it is memory that nobody misses.
const MAX_QUEUED: usize = 4096;
/// Of one attribute.
const MAX_ATTRIBUTE_CHARS: usize = 256;
const EXPORT_PERIOD: Duration = Duration::from_secs(1);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq)]
pub struct TraceConfig {
    /// Of the collector: `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Share of the checks that are traced, 0 to 1, where whoever asked has not decided already.
    pub sample: f64,
}

#[derive(Debug, Error)]
#[error("spans cannot be sent to {endpoint}: {message}")]
pub struct TraceError {
    endpoint: String,
    message: String,
}

/// The span of whoever asked, as the W3C's Trace Context hands it on.
#[derive(Debug, Clone)]
pub struct Parent(SpanContext);

impl Parent {
    /// From `traceparent` and `tracestate`. None if they name no span.
    #[must_use]
    pub fn of(traceparent: Option<&str>, tracestate: Option<&str>) -> Option<Self> {
        let headers = Headers { traceparent: traceparent?, tracestate };
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
        let span = context.span().span_context().clone();
        span.is_valid().then_some(Self(span))
    }

    /// 32 digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.0.trace_id().to_string()
    }
}

struct Headers<'a> {
    traceparent: &'a str,
    tracestate: Option<&'a str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.traceparent),
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// A part of a check that took time.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub name: &'static str,
    pub began: Instant,
    pub took: Duration,
}

/// A check that has been answered.
#[derive(Debug)]
pub struct Answered<'a> {
    pub began: Instant,
    pub decision_id: &'a str,
    pub allowed: bool,
    pub reason: &'static str,
    pub grants: &'a [String],
    pub revision: &'a str,
    pub request_id: Option<&'a str>,
    pub method: &'a str,
    pub host: &'a str,
    pub steps: &'a [Step],
}

pub struct Tracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Tracer {
    /// Connects when there is something to send. Belongs into a runtime, which the connection lives on.
    ///
    /// # Errors
    /// The endpoint is none.
    pub fn new(config: &TraceConfig) -> Result<Self, TraceError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&config.endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| TraceError { endpoint: config.endpoint.clone(), message: error.to_string() })?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_QUEUED)
            .with_scheduled_delay(EXPORT_PERIOD)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let resource = Resource::builder()
            .with_service_name("daypass")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample))))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("daypass");
        Ok(Self { provider, tracer })
    }

    /// Whoever asked decides whether it is traced, if they said so.
    pub fn record(&self, parent: Option<&Parent>, check: &Answered<'_>) {
        let context = parent
            .map_or_else(Context::new, |Parent(span)| Context::new().with_remote_span_context(span.clone()));
        // Spans have dates, and what took time was measured on another clock.
        let (now, here) = (SystemTime::now(), Instant::now());
        let date = |moment: Instant| now - here.saturating_duration_since(moment);
        let span =
            self.tracer.span_builder("check").with_kind(SpanKind::Server).with_start_time(date(check.began));
        let mut span = self.tracer.build_with_context(span, &context);
        if !span.is_recording() {
            return;
        }
        span.set_attributes(attributes(check));
        let inside = context.with_remote_span_context(span.span_context().clone());
        for step in check.steps {
            let began = date(step.began);
            let part = self.tracer.span_builder(step.name).with_start_time(began);
            self.tracer.build_with_context(part, &inside).end_with_timestamp(began + step.took);
        }
        span.end_with_timestamp(now);
    }

    /// Sends what waits. Blocks, at most for `patience`.
    pub fn finish(&self, patience: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(patience) {
            tracing::warn!("the last spans were not sent: {error}");
        }
    }
}

fn attributes(check: &Answered<'_>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("daypass.decision_id", check.decision_id.to_owned()),
        KeyValue::new("daypass.allowed", check.allowed),
        KeyValue::new("daypass.reason", check.reason),
        KeyValue::new("daypass.policy_revision", short(check.revision)),
        KeyValue::new("http.request.method", short(check.method)),
        KeyValue::new("server.address", short(check.host)),
    ];
    if !check.grants.is_empty() {
        attributes.push(KeyValue::new("daypass.grants", short(&check.grants.join(","))));
    }
    if let Some(id) = check.request_id {
        attributes.push(KeyValue::new("daypass.request_id", short(id)));
    }
    attributes
}

/// Strangers write most of it, and spans wait in memory.
fn short(text: &str) -> String {
    text.chars().take(MAX_ATTRIBUTE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_a_span_or_nothing() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::of(Some(good), Some("vendor=x")).unwrap();
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.0.is_sampled());
        for bad in ["", "00-0-0-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "nonsense"] {
            assert!(Parent::of(Some(bad), None).is_none(), "{bad}");
        }
        assert!(Parent::of(None, Some("vendor=x")).is_none());
    }
}
