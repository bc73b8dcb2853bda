//! `daypass serve` as a process: listeners, health, logs, limits, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::support::daypass::{Daypass, channel, run, write_file};
use crate::support::request::{alice, denied_body, denied_status, is_allow, metadata, reason, request};
use crate::support::{Process, wait_for};

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}", dir.path().join("d.sock").display());
    let first = Daypass::start(&["--listen", &socket]);
    assert_eq!(reason(&first.client().await.check(alice()).await), "no_grant");
    let log =
        Daypass::try_start(&Arc::new(tempfile::tempdir().unwrap()), &["--listen", &socket]).err().unwrap();
    assert!(log.contains("another process answers there"), "{log}");
    first.process.signal("-KILL");
    drop(first);
    assert!(dir.path().join("d.sock").exists());
    let second = Daypass::start(&["--listen", &socket]);
    assert_eq!(reason(&second.client().await.check(alice()).await), "no_grant");
    write_file(dir.path(), "file", "precious");
    let file = format!("unix://{}", dir.path().join("file").display());
    assert!(Daypass::try_start(&Arc::new(tempfile::tempdir().unwrap()), &["--listen", &file]).is_err());
    assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_turns_health_off_and_lets_checks_finish() {
    // Each check of this policy takes its whole time limit.
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let slow = "package envoy.authz\nallow if count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b < 0]) == 1";
    let policy = write_file(dir.path(), "slow.rego", slow);
    let mut daypass = Daypass::start_in(&dir, &["--policy", &policy]);
    let mut health = HealthClient::new(channel(&daypass.check).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut client = daypass.client().await;
    client.check(alice()).await;
    let checks: Vec<_> = (0..8)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { reason(&client.check(alice()).await) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(60)).await;
    daypass.process.signal("-TERM");
    for check in checks {
        assert_eq!(check.await.unwrap(), "policy_error");
    }
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    drop((watch, health, client));
    let status = wait_for("daypass to end", || daypass.process.0.try_wait().unwrap());
    assert!(status.success(), "{status} {}", daypass.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let mut daypass = Daypass::start(&[]);
    let mut client = daypass.client().await;
    client.check(alice()).await;
    daypass.process.signal("-TERM");
    let status = wait_for("daypass to end", || daypass.process.0.try_wait().unwrap());
    assert!(status.success(), "{}", daypass.log());
    assert!(!daypass.log().contains("gave up"), "{}", daypass.log());
}

#[tokio::test]
async fn a_looping_policy_is_cut_off_and_denied() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let slow = "package envoy.authz\nallow if count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b < 0]) == 1";
    let policy = write_file(dir.path(), "slow.rego", slow);
    let daypass = Daypass::start_in(&dir, &["--policy", &policy]);
    let response = daypass.client().await.check(alice()).await;
    assert_eq!((reason(&response).as_str(), denied_status(&response)), ("policy_error", 500));
    wait_for("the reason in the log", || daypass.log().contains("longer than its limit").then_some(()));
    assert!(!denied_body(&response).contains("limit"));
}

#[tokio::test]
async fn health_answers_for_the_service_that_envoy_asks_for() {
    let daypass = Daypass::start(&["--reflection"]);
    let mut health = HealthClient::new(channel(&daypass.check).await);
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        let answer =
            health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(daypass.ops("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(daypass.ops("/readyz").0, 200);
    assert_eq!(daypass.ops("/nothing").0, 404);
}

#[tokio::test]
async fn metrics_count_by_outcome_and_reason() {
    let daypass = Daypass::start(&[]);
    daypass.client().await.check(alice()).await;
    for series in [
        "daypass_checks_total{outcome=\"deny\",reason=\"no_grant\"}",
        "daypass_check_duration_seconds_count",
        "daypass_policy_evaluation_seconds_count",
        "daypass_policy_loads_total{result=\"ok\"}",
        "daypass_replica_fresh",
    ] {
        assert_eq!(daypass.metric(series), 1, "{series}");
    }
}

#[tokio::test]
async fn the_decision_log_has_one_masked_line_per_check() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let path = dir.path().join("decisions");
    let daypass = Daypass::start_in(&dir, &["--decision-log", &path.display().to_string()]);
    daypass
        .grant(&["create", "--id", "g1", "--subject", "user:alice", "--host", "orders.svc", "--ttl", "1m"])
        .unwrap();
    let mut client = daypass.client().await;
    let allowed = client.check(alice()).await;
    client.check(request("bob", "GET", "orders.svc", "/x?token=s3cret")).await;
    client.check(request("bob", "GET", "orders.svc", "/%zz")).await;
    let text = wait_for("three lines", || {
        std::fs::read_to_string(&path).ok().filter(|text| text.lines().count() == 3)
    });
    assert!(!text.contains("s3cret"), "{text}");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["allowed"], true);
    assert_eq!(lines[0]["grants"][0], "g1");
    assert_eq!(lines[0]["decision_id"], metadata(&allowed, "decision_id"));
    assert_eq!(lines[0]["request_id"], "r-1");
    assert_eq!(lines[0]["headers"]["authorization"], "***");
    assert_eq!(lines[1]["reason"], "no_grant");
    assert_eq!(lines[1]["principals"][0], "user:bob");
    assert_eq!(lines[1]["path"], "/x");
    assert_eq!(lines[2]["reason"], "bad_request");
}

#[tokio::test]
async fn both_ways_of_sending_headers_give_one_decision() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let policy = write_file(
        dir.path(),
        "p.rego",
        "package envoy.authz\nallow if { input.attributes.request.http.headers[\"x-a\"] == \"1,2\"; input.parsed_body.k == 1 }\n\
         default allow := false",
    );
    let daypass = Daypass::start_in(&dir, &["--policy", &policy]);
    let pairs = [("x-a", "1"), ("x-a", "2"), ("content-type", "application/json")];
    let with = |http: HttpRequest| CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(envoy_types::pb::envoy::service::auth::v3::attribute_context::Request {
                http: Some(HttpRequest { body: r#"{"k": 1}"#.into(), path: "/".into(), ..http }),
                ..Default::default()
            }),
            ..AttributeContext::default()
        }),
    };
    let mapped = HttpRequest {
        headers: [
            ("x-a".to_owned(), "1,2".to_owned()),
            ("content-type".to_owned(), "application/json".to_owned()),
        ]
        .into(),
        ..HttpRequest::default()
    };
    let listed = HttpRequest {
        header_map: Some(HeaderMap {
            headers: pairs
                .iter()
                .map(|(key, value)| HeaderValue {
                    key: (*key).into(),
                    raw_value: value.as_bytes().to_vec(),
                    ..HeaderValue::default()
                })
                .collect(),
        }),
        ..HttpRequest::default()
    };
    let mut client = daypass.client().await;
    assert!(is_allow(&client.check(with(mapped)).await));
    assert!(is_allow(&client.check(with(listed)).await));
    assert!(!is_allow(&client.check(with(HttpRequest::default())).await));
}

/// What Envoy would take for an error, it could be told to let through.
#[tokio::test]
async fn what_never_becomes_a_check_is_denied_too() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = write_file(dir.path(), "d.yaml", "limits: {max_message_bytes: 2000}\n");
    let daypass = Daypass::start_in(&dir, &["--config", &config]);
    let mut client = daypass.client().await;
    let large = request("alice", "GET", "orders.svc", &format!("/{}", "x".repeat(3000)));
    let deep = CheckRequest {
        attributes: Some(AttributeContext {
            metadata_context: Some(Metadata {
                filter_metadata: [("f".to_owned(), nested(40))].into(),
                ..Metadata::default()
            }),
            ..AttributeContext::default()
        }),
    };
    for unreadable in [large, deep] {
        let response = client.check(unreadable).await;
        assert_eq!((reason(&response).as_str(), denied_status(&response)), ("bad_request", 400));
    }
    assert_eq!(reason(&client.check(alice()).await), "no_grant");
    assert_eq!(daypass.metric("daypass_checks_total{outcome=\"deny\",reason=\"bad_request\"}"), 2);
}

fn nested(depth: usize) -> Struct {
    let innermost = Struct::default();
    (0..depth).fold(innermost, |inner, _| {
        let value = Value { kind: Some(Kind::StructValue(inner)) };
        Struct { fields: [("k".to_owned(), value)].into() }
    })
}

#[test]
fn mistakes_at_start_say_what_where_and_what_to_do() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let broken =
        write_file(dir.path(), "broken.rego", "package envoy.authz\n\nallow if {\n  nope(input)\n}\n");
    let good = write_file(dir.path(), "good.rego", "package envoy.authz\n\nallow := true\n");
    let bad_config = write_file(dir.path(), "bad.yaml", "listen: 127.0.0.1:0\nlimit: {}\n");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    for (args, code, message) in [
        (&["serve", "--validate", "--policy", &broken][..], 2, "broken.rego:4:3: unknown function `nope`"),
        (
            &["serve", "--policy", &broken, "--data-dir", "/tmp/unused", "--store", "embedded:memory"],
            1,
            "broken.rego:4:3",
        ),
        (&["serve", "--validate", "--config", &bad_config], 2, "bad.yaml:2: unknown key `limit`"),
        (&["serve", "--validate", "--config", "/nowhere.yaml"], 2, "/nowhere.yaml: cannot be read"),
        (&["serve", "--validate", "--policy", "/nowhere"], 2, "/nowhere: cannot be read"),
        (&["serve", "--store", "mysql://a"], 2, "`mysql://` is not supported"),
        (&["serve", "--store", "redis+sentinel://a"], 2, "name the master"),
        (&["serve", "--api-listen", "0.0.0.0:0"], 2, "not on this machine alone"),
        (&["serve", "--listne", "x"], 2, "unexpected argument"),
        (&["serve", "--listen", "nowhere"], 2, "an address is IP:PORT"),
    ] {
        let output = run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?} {stderr}");
        assert!(stderr.contains(message), "{args:?}\n{stderr}");
    }
    let good_run = run(&["serve", "--validate", "--policy", &good]);
    assert!(good_run.status.success());
    let log = Daypass::try_start(&dir, &["--listen", &taken]).err().unwrap();
    assert!(log.contains("Address already in use") && log.contains("change it with --listen"), "{log}");
    let unwritable = std::process::Command::new(env!("CARGO_BIN_EXE_daypass"))
        .args([
            "serve",
            "--data-dir",
            "/proc/nowhere",
            "--listen",
            "127.0.0.1:0",
            "--api-listen",
            "127.0.0.1:0",
            "--ops-listen",
            "127.0.0.1:0",
        ])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&unwritable.stderr)
            .contains("the data directory /proc/nowhere cannot be used")
    );
}

#[tokio::test]
async fn dry_run_lets_denials_pass_and_says_so() {
    let daypass = Daypass::start(&["--dry-run"]);
    let mut client = daypass.client().await;
    let response = client.check(alice()).await;
    assert!(is_allow(&response));
    assert_eq!(
        (reason(&response).as_str(), metadata(&response, "would_deny").as_str()),
        ("dry_run", "no_grant")
    );
    assert!(
        !is_allow(&client.check(request("a", "GET", "h", "/%zz")).await),
        "what cannot be read stays denied"
    );
}

#[test]
fn a_process_of_a_test_ends_with_it() {
    let mut command = std::process::Command::new("sleep");
    let process = Process::spawn(command.arg("60"));
    let id = process.0.id();
    drop(process);
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
}
