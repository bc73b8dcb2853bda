//! Spans of checks continue what Envoy traces, in a collector that takes OTLP.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Request, Response, Status};

use crate::support::daypass::{Daypass, write_file};
use crate::support::envoy::{self, Envoy, port};
use crate::support::sidecar::until;
use crate::support::ticker::short_answers;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The paragraph of docs/operations.md.
const PROVIDER: &str = r#"          tracing:
            random_sampling: { value: 0 }
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: envoy
                grpc_service: { envoy_grpc: { cluster_name: collector }, timeout: 1s }
"#;

/// Spans by the service that sent them.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = attributes.iter().find(|a| a.key == "service.name").map(|a| text(a.value.as_ref()));
            let found = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(found.map(|span| (service.clone().unwrap_or_default(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = TraceServiceServer::new(self.clone());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        port
    }

    fn of(&self, service: &str) -> Vec<Span> {
        let spans = self.0.lock().unwrap();
        spans.iter().filter(|(from, _)| from == service).map(|(_, span)| span.clone()).collect()
    }
}

fn text(value: Option<&opentelemetry_proto::tonic::common::v1::AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn attribute(span: &Span, name: &str) -> String {
    text(span.attributes.iter().find(|attribute| attribute.key == name).and_then(|a| a.value.as_ref()))
}

async fn get(envoy: &Envoy, token: &str, more: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(&envoy.ingress).await.unwrap();
    let request = format!(
        "GET /db HTTP/1.1\r\nhost: orders.svc\r\nauthorization: Bearer {token}\r\nconnection: close\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_is_a_span_of_the_trace_that_envoy_continues() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let Some(token) = envoy::token(dir.path(), "alice") else { return };
    let collector = Collector::default();
    let sink = collector.start().await;
    let config = format!("tracing: {{otlp_endpoint: \"http://127.0.0.1:{sink}\", sample: 0}}\n");
    let config = write_file(dir.path(), "daypass.yaml", &config);
    let log = dir.path().join("decisions.jsonl");
    let daypass = Daypass::start_in(&dir, &["--config", &config, "--decision-log", log.to_str().unwrap()]);
    let cluster = format!(
        "  clusters:\n  - name: collector\n    type: STATIC\n    connect_timeout: 1s\n    typed_extension_protocol_options:\n      \
         envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
         explicit_http_config: {{ http2_protocol_options: {{}} }}\n    load_assignment:\n      cluster_name: collector\n      endpoints:\n      \
         - lb_endpoints:\n        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {sink} }} }} }}\n"
    );
    let provider = format!("          stat_prefix: ingress\n{PROVIDER}");
    let upstream = port(&short_answers().await.to_string());
    let check = port(&daypass.check);
    let changes = [
        ("port_value: 9191", check.as_str()),
        ("port_value: 8080", upstream.as_str()),
        ("          stat_prefix: ingress\n", provider.as_str()),
        ("  clusters:\n", cluster.as_str()),
    ];
    let Some(envoy) = Envoy::start("jwt.yaml", dir.path(), &changes) else { return };
    daypass
        .grant(&["create", "--id", "g", "--subject", "user:alice", "--host", "orders.svc", "--ttl", "1m"])
        .unwrap();

    // Nobody wants this one traced.
    assert!(get(&envoy, &token, "").await.starts_with("HTTP/1.1 200"));
    // Which Envoy follows only if it wants to trace a request itself, as one that has this header.
    let traced = format!("x-client-trace-id: t\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
    assert!(get(&envoy, &token, &traced).await.starts_with("HTTP/1.1 200"));
    let is_there = || collector.of("daypass").len() >= 2 && collector.of("envoy").len() >= 2;
    until("the spans", is_there).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;

    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let spans = collector.of("daypass");
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    assert_eq!(spans.len(), 2, "the check and its evaluation, and nothing of the other request: {spans:?}");
    let (check, policy) = (named("check"), named("policy"));
    assert_eq!((hex(&check.trace_id), hex(&policy.trace_id)), (TRACE.to_owned(), TRACE.to_owned()));
    let of_envoy = collector.of("envoy");
    assert!(of_envoy.iter().any(|span| span.span_id == check.parent_span_id), "{of_envoy:?}");
    assert_eq!(policy.parent_span_id, check.span_id);
    assert!(check.start_time_unix_nano <= policy.start_time_unix_nano);
    assert!(policy.end_time_unix_nano <= check.end_time_unix_nano);
    assert_eq!(attribute(check, "daypass.reason"), "grant");
    assert_eq!(attribute(check, "daypass.grants"), "g");
    assert_eq!(attribute(check, "server.address"), "orders.svc");

    let line = |trace: bool| {
        let text = std::fs::read_to_string(&log).unwrap();
        let found = text.lines().find(|line| line.contains(TRACE) == trace).map(str::to_owned);
        serde_json::from_str::<serde_json::Value>(&found.unwrap()).unwrap()
    };
    assert_eq!(line(true)["trace_id"], TRACE);
    assert!(
        line(true)["stream_id"].as_str().is_some_and(|id| id.parse::<u64>().is_ok()),
        "Envoy's own number"
    );
    assert_eq!(line(true)["request_id"], attribute(check, "daypass.request_id"));
}

#[test]
fn a_collector_that_is_gone_changes_nothing() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config =
        write_file(dir.path(), "d.yaml", "tracing: {otlp_endpoint: \"http://127.0.0.1:9\", sample: 1}\n");
    let daypass = Daypass::start_in(&dir, &["--config", &config]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = daypass.client().await;
        for _ in 0..1_000 {
            let answer = client.check(crate::support::request::alice()).await;
            assert_eq!(crate::support::request::reason(&answer), "no_grant");
        }
    });
    let began = std::time::Instant::now();
    daypass.process.signal("-TERM");
    crate::support::wait_for("daypass to be gone", || {
        std::net::TcpStream::connect(&daypass.ops).is_err().then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
