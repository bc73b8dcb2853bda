//! One reading of path, host and method for Envoy, daypass and the upstream.

use super::rig::{Findings, Ground, HOST, Pair};
use crate::support::wire::Answer;

/// What is sent, what a bare Envoy makes of it, and what the hardened one does.
const TARGETS: [(&str, &str, &str); 18] = [
    ("/db/rows?x=/../y", "200 /db/rows?x=/../y", "200 /db/rows?x=/../y"),
    ("/a//b", "200 /a//b", "200 /a/b"),
    ("//a/b", "200 //a/b", "200 /a/b"),
    ("/a/../b", "200 /a/../b", "200 /b"),
    ("/a/./b", "200 /a/./b", "200 /a/b"),
    ("/a/%2e%2e/b", "200 /a/%2e%2e/b", "200 /b"),
    ("/a/%2E./b", "200 /a/%2E./b", "200 /b"),
    ("/%61dmin", "200 /%61dmin", "200 /admin"),
    ("/a\\b", "200 /a\\b", "200 /a/b"),
    ("/a%2fb", "200 /a%2fb", "400"),
    ("/a%5Cb", "200 /a%5Cb", "400"),
    ("/a%00b", "200 /a%00b", "400"),
    ("/a/..;/b", "200 /a/..;/b", "200 /b"),
    ("/a;x=1/b", "200 /a;x=1/b", "200 /a;x=1/b"),
    ("/a%252fb", "200 /a%252fb", "200 /a%252fb"),
    ("/a#/../b", "400", "400"),
    ("a/b", "400", "400"),
    ("/../../etc", "200 /../../etc", "200 /etc"),
];

#[test]
fn paths_have_one_reading() {
    let Some(pair) = Pair::start() else { return };
    let mut findings = Findings::default();
    for (target, bare, hardened) in TARGETS {
        let found = pair.outcome(|| pair.bare.get(target, ""));
        findings.compare(&format!("bare {target}"), &found, bare);
        let found = pair.outcome(|| pair.hardened.get(target, ""));
        findings.compare(&format!("hardened {target}"), &found, hardened);
    }
    findings.check();
}

/// Whatever Envoy lets through, daypass' own grants cover no path that could be read in two ways.
#[test]
fn no_grant_covers_a_path_with_two_readings() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    daypass.grant(&["create", "--subject", "user:alice", "--path", "/a/**", "--ttl", "5m"]).unwrap();
    let Some(bare) = ground.bare(&daypass.check, &[]) else { return };
    assert_eq!(bare.get("/a/b", "").status, 200);
    let ambiguous = [
        "/a//b",
        "//a/b",
        "/a/../b",
        "/a/./b",
        "/a/%2e%2e/b",
        "/a\\b",
        "/a/%2fb",
        "/a/%5Cb",
        "/a/%00b",
        "/a/..;/b",
        "/a/%252fb",
        "/a/%2",
        "/a/%25%32%65",
    ]; // fmt: skip
    ground.mirror.take();
    for target in ambiguous {
        let answer = bare.get(target, "");
        assert!(answer.status == 403 || answer.status == 400, "{target}: {} {}", answer.status, answer.body);
        assert_eq!(ground.mirror.take(), [""; 0], "{target}");
    }
}

fn host_of(pair: &Pair, send: impl Fn() -> Answer) -> String {
    pair.checker.take();
    pair.ground.mirror.take();
    let answer = send();
    let checked = pair.checker.take();
    let upstream = pair.ground.mirror.take();
    let seen = checked.first().map_or("-", |check| {
        let request = check.attributes.as_ref().and_then(|a| a.request.as_ref()).unwrap();
        request.http.as_ref().unwrap().host.as_str()
    });
    let host = upstream
        .first()
        .map_or("-", |head| head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("?"));
    format!("{} {seen} {host}", answer.status)
}

#[test]
fn hosts_have_one_reading_and_strange_ones_no_route() {
    let Some(pair) = Pair::start() else { return };
    let mut findings = Findings::default();
    for (host, bare, hardened) in [
        ("orders.example", "200 orders.example orders.example", "200 orders.example orders.example"),
        (
            "orders.example:10000",
            "200 orders.example:10000 orders.example:10000",
            "200 orders.example orders.example",
        ),
        ("ORDERS.example", "200 ORDERS.example ORDERS.example", "200 ORDERS.example ORDERS.example"),
        ("orders.example.", "200 orders.example. orders.example.", "200 orders.example orders.example"),
        ("other.example", "200 other.example other.example", "404 - -"),
        ("orders.example.evil", "200 orders.example.evil orders.example.evil", "404 - -"),
        ("", "200  ", "404 - -"),
        ("orders.example/x", "400 - -", "400 - -"),
        ("a, orders.example", "400 - -", "400 - -"),
    ] {
        let found = host_of(&pair, || pair.bare.method("GET", "/a", host, ""));
        findings.compare(&format!("bare {host:?}"), &found, bare);
        let found = host_of(&pair, || pair.hardened.method("GET", "/a", host, ""));
        findings.compare(&format!("hardened {host:?}"), &found, hardened);
    }
    findings.check();
}

/// The target names the host, and the header is not looked at.
#[test]
fn a_target_in_absolute_form_names_the_host_for_everybody() {
    let Some(pair) = Pair::start() else { return };
    let mut findings = Findings::default();
    for (target, host, bare, hardened) in [
        (
            "http://orders.example/a",
            "other.example",
            "200 orders.example orders.example",
            "200 orders.example orders.example",
        ),
        ("http://other.example/a", "orders.example", "200 other.example other.example", "404 - -"),
    ] {
        let found = host_of(&pair, || pair.bare.method("GET", target, host, ""));
        findings.compare(&format!("bare {target}"), &found, bare);
        let found = host_of(&pair, || pair.hardened.method("GET", target, host, ""));
        findings.compare(&format!("hardened {target}"), &found, hardened);
    }
    findings.check();
}

#[test]
fn methods_are_checked_as_they_are_sent() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let grant = ["create", "--subject", "user:alice", "--host", HOST, "--method", "GET", "--ttl", "5m"];
    daypass.grant(&grant).unwrap();
    let Some(hardened) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    let Some(bare) = ground.bare(&daypass.check, &[]) else { return };
    let mut findings = Findings::default();
    for (method, on_bare, on_hardened) in [
        ("GET", "200", "200"),
        ("get", "400", "400"),
        ("POST", "403", "403"),
        ("TRACE", "403", "403"),
        ("BREW", "400", "400"),
        ("G\u{0}T", "400", "400"),
    ] {
        let found = bare.method(method, "/a", HOST, "content-length: 0\r\n").status.to_string();
        findings.compare(&format!("bare {method}"), &found, on_bare);
        let found = hardened.method(method, "/a", HOST, "content-length: 0\r\n").status.to_string();
        findings.compare(&format!("hardened {method}"), &found, on_hardened);
    }
    // No route takes CONNECT, so that nobody is asked.
    for (side, expected) in [(&bare, 404), (&hardened, 404)] {
        let connect =
            format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n{}\r\n", side.credentials());
        findings.compare("CONNECT", &side.wire.send(connect).status.to_string(), &expected.to_string());
    }
    findings.check();
}

#[test]
fn a_websocket_is_checked_as_any_request_is() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let Some(hardened) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    let Some(bare) = ground.bare(&daypass.check, &[]) else { return };
    let upgrade = |side: &super::rig::Side| {
        let lines = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: x\r\n";
        let request = format!("GET /a HTTP/1.1\r\nhost: {HOST}\r\n{}{lines}\r\n", side.credentials());
        side.wire.send(request).status
    };
    assert_eq!(upgrade(&hardened), 403);
    daypass.grant(&["create", "--subject", "user:alice", "--host", HOST, "--ttl", "5m"]).unwrap();
    assert_eq!(upgrade(&hardened), 101);
    // It has no `upgrade_configs`.
    assert_eq!(upgrade(&bare), 403);
}
