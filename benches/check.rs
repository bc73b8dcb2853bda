//! What a check costs, next to the least it could cost: a bare tonic Authorization server that always answers OK.
//!
//! Both run in one go, in turn, under the same load from an independent client (`h2load`), so that what the machine
//! does meanwhile happens to both. CPU per check comes before wall time: it is what a noisy machine distorts least.
//!
//! The bare server is this same binary, started again with `bare` as its argument.

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::{Redis, Server, cpu, daypass, find, load_grants, mib};
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use prost::Message;
use tonic::{Response, Status};

const SUBJECTS: usize = 10_000;
const GRANTS_PER_SUBJECT: usize = 3;
const ROUNDS: usize = 3;
const CONNECTIONS: &str = "2";
const IN_FLIGHT_PER_CONNECTION: &str = "16";
const DEFAULT_CHECKS_PER_ROUND: usize = 60_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some("bare") {
        return bare();
    }
    // `cargo test --benches` and the like must not start a load test.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let Some(h2load) = find("h2load") else {
        println!("h2load is not installed (Debian and Ubuntu: nghttp2-client); nothing measured");
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "REQUIRE_ALL=1");
        return;
    };
    let checks =
        std::env::var("CHECKS").ok().and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_CHECKS_PER_ROUND);
    let dir = tempfile::tempdir().unwrap();
    let body = dir.path().join("check.bin");
    std::fs::write(&body, framed(&check_request())).unwrap();

    let bare = Server::start(Command::new(&arguments[0]).arg("bare"), "listening check=");
    let redis = Redis::start(dir.path());
    let mut command = daypass(dir.path(), &redis.url);
    let empty = Server::start(&mut command, "listening check=");
    let empty_kib = empty.rss_kib();
    drop(empty);
    load_grants(&redis, SUBJECTS, GRANTS_PER_SUBJECT);
    let daypass = Server::start(&mut command, "in step with the store");

    println!(
        "{checks} checks a round, {ROUNDS} rounds in turn, {CONNECTIONS} connections x {IN_FLIGHT_PER_CONNECTION} in flight,"
    );
    println!(
        "{} bytes a check with 12 headers; {SUBJECTS} subjects with {GRANTS_PER_SUBJECT} grants each\n",
        check_request().encoded_len()
    );
    println!("{:24} {:>14} {:>12} {:>10} {:>10}", "", "CPU us/check", "checks/s", "p50 ms", "p99 ms");
    assert_rests_on_a_grant(&daypass.check);
    let load = |server: &Server| load(server, &h2load, &body, checks, dir.path());
    // Engines, allocators and branch predictors warm up first.
    load(&bare);
    load(&daypass);
    let (mut of_bare, mut of_daypass) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_bare.push(load(&bare));
        of_daypass.push(load(&daypass));
    }
    let (bare_result, daypass_result) = (median(of_bare), median(of_daypass));
    print_row("(a) bare tonic, always OK", &bare_result);
    print_row("(b) daypass, default policy", &daypass_result);
    println!("\nCPU of (b) / (a): {:.2}", daypass_result.cpu_us / bare_result.cpu_us);
    if let Some(took) = daypass.ready.split("took=").nth(1) {
        println!("a copy of all grants took {took}");
    }
    let rss = daypass.rss_kib();
    let per_grant = rss.saturating_sub(empty_kib) * 1024 / (SUBJECTS * GRANTS_PER_SUBJECT);
    println!(
        "RSS of daypass: {:.1} MiB with {} grants after the load; {:.1} MiB when it started without any; {per_grant} bytes a grant",
        mib(rss),
        SUBJECTS * GRANTS_PER_SUBJECT,
        mib(empty_kib),
    );
}

struct Measured {
    cpu_us: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn print_row(name: &str, measured: &Measured) {
    let Measured { cpu_us, per_second, p50_ms, p99_ms } = measured;
    println!("{name:28} {cpu_us:>10.1} {per_second:>12.0} {p50_ms:>10.2} {p99_ms:>10.2}");
}

fn median(mut rounds: Vec<Measured>) -> Measured {
    rounds.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    rounds.swap_remove(rounds.len() / 2)
}

fn load(server: &Server, h2load: &Path, body: &Path, checks: usize, dir: &Path) -> Measured {
    let log = dir.join("latencies");
    let _ = std::fs::remove_file(&log);
    let cpu_before = cpu(&server.process);
    let started = Instant::now();
    let output = Command::new(h2load)
        .args(["-n", &checks.to_string(), "-c", CONNECTIONS, "-m", IN_FLIGHT_PER_CONNECTION, "-t", "1", "-d"])
        .arg(body)
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers", "--log-file"])
        .arg(&log)
        .arg(format!("http://{}/envoy.service.auth.v3.Authorization/Check", server.check))
        .output()
        .unwrap();
    let (cpu, wall) = (cpu(&server.process).saturating_sub(cpu_before), started.elapsed());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("{checks} succeeded, 0 failed, 0 errored")), "{text}");
    let mut micros: Vec<u64> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .filter_map(|line| line.split('\t').nth(2)?.parse().ok())
        .collect();
    micros.sort_unstable();
    let at = |quantile: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a quantile"
        )]
        let index = (micros.len() as f64 * quantile) as usize;
        f64::from(u32::try_from(micros[index.min(micros.len() - 1)]).unwrap()) / 1000.0
    };
    let count = f64::from(u32::try_from(checks).unwrap());
    Measured {
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
        per_second: count / wall.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}

fn check_request() -> CheckRequest {
    let headers = [
        (":authority", "service-1.prod.svc"),
        (":method", "GET"),
        (":path", "/api/v1/orders/4711?expand=lines"),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("user-agent", "orders-client/3.2.1 (linux; x86_64)"),
        ("x-envoy-external-address", "203.0.113.9"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "ead8471b-2b8f-4899-8862-e47e87156851"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let structure = |members: Vec<(&str, Value)>| Struct {
        fields: members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    let claims = structure(vec![
        ("sub", text("user-5000@corp.example")),
        ("iss", text("https://idp.example")),
        ("aud", text("jit")),
        ("exp", Value { kind: Some(Kind::NumberValue(1_795_407_807.0)) }),
        (
            "groups",
            Value { kind: Some(Kind::ListValue(ListValue { values: vec![text("dev"), text("oncall")] })) },
        ),
    ]);
    let payload = structure(vec![("jwt_payload", Value { kind: Some(Kind::StructValue(claims)) })]);
    let peer = |address: &str, port| Peer {
        address: Some(Address {
            address: Some(AddressKind::SocketAddress(SocketAddress {
                address: address.to_owned(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..SocketAddress::default()
            })),
        }),
        ..Peer::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer("10.1.2.3", 53_122)),
            destination: Some(peer("10.1.9.9", 8443)),
            request: Some(Request {
                time: Some(envoy_types::pb::google::protobuf::Timestamp {
                    seconds: 1_795_402_800,
                    nanos: 123_456_789,
                }),
                http: Some(HttpRequest {
                    id: "8306877219458474".to_owned(),
                    method: "GET".to_owned(),
                    headers: headers
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                        .collect(),
                    path: "/api/v1/orders/4711?expand=lines".to_owned(),
                    host: "service-1.prod.svc".to_owned(),
                    scheme: "https".to_owned(),
                    protocol: "HTTP/2".to_owned(),
                    ..HttpRequest::default()
                }),
            }),
            metadata_context: Some(Metadata {
                filter_metadata: [("envoy.filters.http.jwt_authn".to_owned(), payload)].into(),
                ..Metadata::default()
            }),
            ..AttributeContext::default()
        }),
    }
}

/// What is measured is the answer that matters: an allow, under a grant, with its deadline.
fn assert_rests_on_a_grant(address: &str) {
    use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
    use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let response = runtime.block_on(async {
        let mut client = AuthorizationClient::connect(format!("http://{address}")).await.unwrap();
        client.check(check_request()).await.unwrap().into_inner()
    });
    let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!("not allowed") };
    assert!(ok.headers.iter().any(|option| {
        option.header.as_ref().is_some_and(|header| header.key == "x-envoy-upstream-stream-duration-ms")
    }));
}

/// A gRPC message: not compressed, four bytes of length, the protobuf.
fn framed(message: &CheckRequest) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    frame.extend(bytes);
    frame
}

struct AlwaysOk;

#[tonic::async_trait]
impl Authorization for AlwaysOk {
    async fn check(&self, _: tonic::Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let status = RpcStatus { code: 0, message: String::new(), details: Vec::new() };
        Ok(Response::new(CheckResponse { status: Some(status), dynamic_metadata: None, http_response: None }))
    }
}

/// What anybody would write first.
fn bare() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut line = String::new();
        writeln!(line, "listening check={}", listener.local_addr().unwrap()).unwrap();
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = AuthorizationServer::new(AlwaysOk);
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    });
}
