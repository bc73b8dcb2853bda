//! Checkers that are down, slow, dying or talking nonsense, and answers that want too much.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::google::protobuf::BoolValue;

use super::rig::{EXT_AUTHZ, Findings, Ground, HOST, Pair};
use crate::support::daypass::write_file;
use crate::support::fake_checker::{Behaviour, allow};
use crate::support::wait_for;

const FAIL_OPEN: (&str, &str) =
    (EXT_AUTHZ, "              transport_api_version: V3\n              failure_mode_allow: true\n");

/// What goes wrong, and the status that a bare Envoy, one that fails open and the hardened one answer with.
fn troubles() -> Vec<(Behaviour, [u16; 3])> {
    vec![
        (Behaviour::Silent, [403, 200, 503]),
        (Behaviour::Late(Duration::from_millis(600)), [403, 200, 503]),
        (Behaviour::Reset, [403, 200, 503]),
        (Behaviour::Close, [403, 200, 503]),
        (Behaviour::Error("13"), [403, 200, 503]),
        // Not a denial: an error like any other.
        (Behaviour::Error("7"), [403, 200, 503]),
        (Behaviour::NoMessage, [403, 200, 503]),
        (Behaviour::Message(vec![0xff; 20]), [403, 200, 503]),
        (Behaviour::Frame(vec![0, 0, 0, 1, 0, 8, 0]), [403, 200, 503]),
        (Behaviour::Frame(b"HTTP/1.1 200 OK".to_vec()), [403, 200, 503]),
        (Behaviour::Http(500, "application/grpc"), [403, 200, 503]),
        (Behaviour::Http(200, "text/html"), [200, 200, 200]),
        // An empty message has no status, and that is an allow to Envoy, whatever it is told.
        (Behaviour::Message(Vec::new()), [200, 200, 200]),
    ]
}

#[test]
fn a_checker_in_trouble_denies() {
    let Some(pair) = Pair::start() else { return };
    let Some(open) = pair.ground.bare(&pair.checker.address, &[FAIL_OPEN]) else { return };
    let mut findings = Findings::default();
    for (behaviour, expected) in troubles() {
        for (name, side, expected) in [
            ("bare", &pair.bare, expected[0]),
            ("open", &open, expected[1]),
            ("hardened", &pair.hardened, expected[2]),
        ] {
            pair.checker.set(Behaviour::Answer(Box::new(allow())));
            wait_for("a connection", || (side.get("/a", "").status == 200).then_some(()));
            pair.checker.set(behaviour.clone());
            let found = side.get("/a", "").status;
            findings.compare(&format!("{name} {behaviour:?}"), &found.to_string(), &expected.to_string());
        }
    }
    findings.check();
}

#[test]
fn a_checker_that_is_down_denies_at_once() {
    let Some(pair) = Pair::start() else { return };
    let Pair { checker, bare, hardened, ground } = pair;
    let Some(open) = ground.bare(&checker.address, &[FAIL_OPEN]) else { return };
    drop(checker);
    assert_eq!((bare.get("/a", "").status, open.get("/a", "").status), (403, 200));
    // Health checks notice by themselves, and then nobody waits for a connection.
    let name = "cluster.daypass.membership_healthy";
    wait_for("Envoy to notice", || (hardened.envoy.stat(name) == 0).then_some(()));
    let answer = hardened.get("/a", "");
    assert_eq!(answer.status, 503);
    assert!(hardened.envoy.stat("cluster.daypass.upstream_cx_none_healthy") >= 1);
    // Not because Envoy takes all for ill and asks them all the same.
    assert_eq!(hardened.envoy.stat("cluster.daypass.lb_healthy_panic"), 0);
}

#[test]
fn a_daypass_that_is_full_or_killed_denies() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    daypass.grant(&["create", "--subject", "user:alice", "--host", HOST, "--ttl", "5m"]).unwrap();
    let Some(hardened) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    assert_eq!(hardened.get("/a", "").status, 200);
    // Stopped, not ended: connections stay, and nothing answers.
    daypass.process.signal("-STOP");
    let answer = hardened.get("/a", "");
    daypass.process.signal("-CONT");
    assert_eq!(answer.status, 503);
    wait_for("daypass to answer again", || (hardened.get("/a", "").status == 200).then_some(()));
    daypass.process.signal("-KILL");
    assert_eq!(hardened.get("/a", "").status, 503);
}

/// With one request allowed to wait for daypass, the others of four at once are denied.
#[test]
fn a_breaker_that_is_too_small_denies() {
    let Some(pair) = Pair::start() else { return };
    let check = &pair.checker.address;
    // Envoy waits long enough on a busy machine too; what is late here is meant to pass.
    let (ours, patient) = ("timeout: 0.25s", "timeout: 5s");
    let grpc = "                envoy_grpc: { cluster_name: daypass }\n";
    let waits = format!("{grpc}                timeout: 5s\n");
    let cluster = "  - name: daypass\n    type: STATIC\n";
    let narrow = format!("{cluster}    circuit_breakers: {{ thresholds: [{{ max_requests: 1 }}] }}\n");
    let sides = [
        pair.ground.bare(check, &[(grpc, &waits), (cluster, &narrow)]),
        pair.ground.shipped(
            "hardened.yaml",
            check,
            &[(ours, patient), ("max_requests: 4096", "max_requests: 1")],
        ),
        pair.ground.shipped("hardened.yaml", check, &[(ours, patient)]),
    ];
    let [Some(bare), Some(narrow), Some(wide)] = sides else { return };
    pair.checker.set(Behaviour::Late(Duration::from_millis(700)));
    for (side, expected) in [(&bare, [1, 0, 3]), (&narrow, [1, 3, 0]), (&wide, [4, 0, 0])] {
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let requests: Vec<_> = (0..4).map(|_| scope.spawn(|| side.get("/a", "").status)).collect();
            requests.into_iter().map(|request| request.join().unwrap()).collect()
        });
        let count = |status| statuses.iter().filter(|found| **found == status).count();
        assert_eq!([count(200), count(503), count(403)], expected, "{statuses:?}");
    }
}

/// An allow that sets a header of the request.
pub fn says(name: &str, value: &str) -> CheckResponse {
    #[expect(deprecated, reason = "Envoy 1.40 reads nothing else for request headers")]
    let header = HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value: value.into(), raw_value: Vec::new() }),
        append: Some(BoolValue { value: false }),
        ..HeaderValueOption::default()
    };
    let ok = OkHttpResponse { headers: vec![header], ..OkHttpResponse::default() };
    CheckResponse { http_response: Some(HttpResponse::OkResponse(ok)), ..allow() }
}

/// What an answer wants to change, and what comes of it: the status and what the upstream then sees of it.
#[test]
fn an_answer_may_change_only_what_is_listed() {
    let Some(pair) = Pair::start() else { return };
    let mut findings = Findings::default();
    for (name, value, bare, hardened) in [
        ("x-daypass-grant", "g1", "200 x-daypass-grant: g1", "200 x-daypass-grant: g1"),
        ("grpc-timeout", "900m", "200 grpc-timeout: 900m", "200 grpc-timeout: 900m"),
        // Envoy takes these, and the upstream does not see them.
        ("x-envoy-upstream-stream-duration-ms", "9000", "200", "200"),
        ("x-envoy-max-retries", "0", "200", "200"),
        ("x-team", "orders", "200 x-team: orders", "500"),
        ("x-not-x-daypass-grant", "g1", "200 x-not-x-daypass-grant: g1", "500"),
        ("x-envoy-upstream-rq-timeout-ms", "9000", "200", "500"),
        (":path", "/other", "200 GET /other HTTP/1.1", "500"),
        (":method", "DELETE", "200 DELETE /a HTTP/1.1", "500"),
        ("host", "evil.example", "200 host: evil.example", "500"),
        ("x-daypass-split", "a\r\nx-evil: 1", "503", "500"),
    ] {
        pair.checker.answer(says(name, value));
        for (which, side, expected) in [("bare", &pair.bare, bare), ("hardened", &pair.hardened, hardened)] {
            pair.ground.mirror.take();
            let status = side.get("/a", "").status;
            let head = pair.ground.mirror.take().pop().unwrap_or_default();
            let is_told = |line: &&str| match name {
                ":path" | ":method" => line.ends_with(" HTTP/1.1"),
                _ => **line == format!("{name}: {value}"),
            };
            let told = head.lines().find(is_told);
            let found = told.map_or(status.to_string(), |line| format!("{status} {line}"));
            findings.compare(&format!("{which} {name}"), &found, expected);
        }
    }
    findings.check();
}

/// A path that an answer sets is served by the route that was decided about, unless the route cache is cleared: then by another.
#[test]
fn an_answer_chooses_no_other_route() {
    let Some(pair) = Pair::start() else { return };
    let first = "              routes:\n";
    let other = "              - { match: { path: /internal }, direct_response: { status: 207 } }\n";
    let routes = format!("{first}{other}");
    let clear = format!("{EXT_AUTHZ}              clear_route_cache: true\n");
    let check = &pair.checker.address;
    let sides = [
        pair.ground.bare(check, &[(first, &routes)]),
        pair.ground.bare(check, &[(first, &routes), (EXT_AUTHZ, &clear)]),
        pair.ground.shipped("hardened.yaml", check, &[(first, &routes)]),
    ];
    pair.checker.answer(says(":path", "/internal"));
    for (side, expected) in sides.into_iter().zip([200, 207, 500]) {
        let Some(side) = side else { return };
        assert_eq!(side.get("/a", "").status, expected);
    }
}

/// Envoy does not encode what an answer adds to the query, and a space there is the end of the target to some readers.
#[test]
fn an_answer_may_not_break_the_request_line() {
    use envoy_types::pb::envoy::config::core::v3::QueryParameter;
    let Some(pair) = Pair::start() else { return };
    let parameter = QueryParameter { key: "q".into(), value: "x HTTP/1.1".into() };
    let ok = OkHttpResponse { query_parameters_to_set: vec![parameter], ..OkHttpResponse::default() };
    pair.checker.answer(CheckResponse { http_response: Some(HttpResponse::OkResponse(ok)), ..allow() });
    assert_eq!(pair.bare.get("/a", "").status, 200);
    assert!(pair.ground.mirror.take()[0].starts_with("GET /a?q=x HTTP/1.1 HTTP/1.1\r\n"));
    assert_eq!(pair.hardened.get("/a", "").status, 500);
    assert_eq!(pair.ground.mirror.take(), [""; 0]);
}

/// A denial whose HTTP status was forgotten is 403; one with status 200 is what it says.
#[test]
fn a_denial_denies_whatever_else_it_says() {
    use envoy_types::pb::envoy::r#type::v3::HttpStatus;
    use envoy_types::pb::google::rpc::Status;
    let Some(pair) = Pair::start() else { return };
    let denial = |code: i32, http: Option<i32>| CheckResponse {
        status: Some(Status { code, ..Status::default() }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: http.map(|code| HttpStatus { code }),
            body: "no".into(),
            ..DeniedHttpResponse::default()
        })),
        ..CheckResponse::default()
    };
    for (response, expected, reaches) in [
        (denial(7, None), 403, 0),
        (denial(7, Some(418)), 418, 0),
        // Under status 0 even a denial is an allow: this is why daypass' answers are built in one place.
        (denial(0, Some(403)), 200, 1),
    ] {
        pair.checker.answer(response);
        for side in [&pair.bare, &pair.hardened] {
            pair.ground.mirror.take();
            assert_eq!(side.get("/a", "").status, expected);
            assert_eq!(pair.ground.mirror.take().len(), reaches);
        }
    }
}

#[test]
fn the_body_of_a_denial_has_a_size() {
    use envoy_types::pb::google::rpc::Status;
    let Some(pair) = Pair::start() else { return };
    let denied = DeniedHttpResponse { body: "x".repeat(20_000), ..DeniedHttpResponse::default() };
    pair.checker.answer(CheckResponse {
        status: Some(Status { code: 7, ..Status::default() }),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        ..CheckResponse::default()
    });
    let sizes = [&pair.bare, &pair.hardened].map(|side| side.get("/a", "").body.len());
    assert_eq!(sizes, [20_000, 16_384]);
}

/// The same from a policy, with a real daypass: nothing of the request is changed that the list does not name.
#[test]
fn a_policy_that_wants_more_than_is_listed_is_answered_500() {
    let Some(ground) = Ground::new() else { return };
    let policy = |headers: &str| {
        let text = format!(
            "package envoy.authz\nallow := {{\"allowed\": true, \"grants\": [], \"headers\": {headers}}}"
        );
        write_file(ground.dir.path(), "p.rego", &text)
    };
    let file = policy(r#"{"x-team": "orders"}"#);
    let daypass = ground.daypass(&["--policy", &file]);
    let Some(hardened) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    let Some(bare) = ground.bare(&daypass.check, &[]) else { return };
    assert_eq!((bare.get("/a", "").status, hardened.get("/a", "").status), (200, 500));
    wait_for("the access log", || hardened.envoy.log().contains("ext_authz_invalid").then_some(()));
    policy(r#"{":path": "/other"}"#);
    wait_for("the other policy", || {
        ground.mirror.take();
        let _ = bare.get("/a", "");
        ground.mirror.take().iter().any(|head| head.starts_with("GET /other")).then_some(())
    });
    assert_eq!(hardened.get("/a", "").status, 500);
    policy(r#"{"x-daypass-team": "orders"}"#);
    wait_for("the third", || (hardened.get("/a", "").status == 200).then_some(()));
}
