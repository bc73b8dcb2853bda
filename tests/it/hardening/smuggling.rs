//! Requests that two readers could cut in two places, and old or odd forms of HTTP.

use super::rig::{Findings, HOST, Pair, Side};

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: HOST\r\n\r\n";
const CHUNKED: &str = "0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: HOST\r\n\r\n";

/// Header lines that leave open where the body ends, what comes after them, and Envoy's answer. Nothing reaches the upstream.
const FRAMINGS: [(&str, &str, &str); 9] = [
    ("content-length: 4\r\ntransfer-encoding: chunked", CHUNKED, "400 0"),
    ("content-length: 0\r\ncontent-length: 44", HIDDEN, "400 0"),
    ("content-length: 0, 44", HIDDEN, "400 0"),
    ("content-length: -1", HIDDEN, "400 0"),
    ("content-length: +0", HIDDEN, "400 0"),
    ("transfer-encoding: xchunked", CHUNKED, "501 0"),
    ("transfer-encoding: chunked, identity", CHUNKED, "501 0"),
    ("transfer-encoding : chunked", CHUNKED, "400 0"),
    ("transfer-encoding: chunked", "zz\r\n\r\n", "400 0"),
];

/// Whole requests, and what a bare and the hardened Envoy answer.
const FORMS: [(&str, &str, &str); 14] = [
    ("GET /a HTTP/1.0\r\nhost: HOST\r\nAUTH\r\n", "426 0", "426 0"),
    ("GET /a HTTP/1.2\r\nhost: HOST\r\nAUTH\r\n", "426 0", "426 0"),
    ("GET /a\r\n", "426 0", "426 0"),
    ("GET /a HTTP/1.1\r\nAUTH\r\n", "400 0", "400 0"),
    ("GET /a\tb HTTP/1.1\r\nhost: HOST\r\nAUTH\r\n", "400 0", "400 0"),
    ("GET /a HTTP/1.1\r\nhost: HOST\r\nx-a: 1\u{0}2\r\nAUTH\r\n", "400 0", "400 0"),
    ("GET /a HTTP/1.1\r\nhost: HOST\r\n x-b: 2\r\nAUTH\r\n", "400 0", "400 0"),
    ("GET /a HTTP/1.1\r\nhost: HOST\r\n\rx-b: 2\r\nAUTH\r\n", "400 0", "400 0"),
    // Two hosts become one that is none.
    ("GET /a HTTP/1.1\r\nhost: HOST\r\nhost: evil.example\r\nAUTH\r\n", "200 1", "404 0"),
    // Mended before anybody reads them: one value, without the break.
    ("GET /a HTTP/1.1\r\nhost: HOST\r\nx-a: 1\r\n x-b: 2\r\nAUTH\r\n", "200 1", "200 1"),
    ("GET /a HTTP/1.1\r\nhost: HOST\r\nx-a: 1\rx-b: 2\r\nAUTH\r\n", "200 1", "200 1"),
    ("GET\t/a  HTTP/1.1\r\nhost: HOST\r\nAUTH\r\n", "200 1", "200 1"),
    ("GET /a HTTP/1.1\nhost: HOST\nAUTH\n", "200 1", "200 1"),
    // Two in one go are two requests, each with a check of its own; the second has no token.
    (
        "GET /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\nGET /hidden HTTP/1.1\r\nhost: HOST\r\n\r\n",
        "200,401 1",
        "200,401 1",
    ),
];

/// What Envoy answered, and how many requests reached the upstream.
fn sent(pair: &Pair, side: &Side, request: &str) -> String {
    pair.ground.mirror.take();
    pair.checker.take();
    let credentials = side.credentials();
    let request = request.replace("HOST", HOST);
    let request = request.replace("AUTH\r\n", &format!("{credentials}\r\n"));
    let request = request.replace("AUTH\n", &format!("{}\n\n", credentials.trim_end()));
    let answers = side.wire.send_and_drain(request);
    let statuses: Vec<&str> = answers
        .split("HTTP/1.")
        .skip(1)
        .filter_map(|answer| answer.split(' ').nth(1).and_then(|status| status.get(..3)))
        // The mirror's answer has the head of the request in it.
        .filter(|status| status.parse::<u16>().is_ok())
        .collect();
    let (checked, heads) = (pair.checker.take().len(), pair.ground.mirror.take());
    assert!(heads.len() <= checked, "{heads:?} reached the upstream, {checked} were checked: {answers}");
    for head in &heads {
        assert!(head.starts_with("GET /a HTTP/1.1\r\n"), "{head:?}");
        assert!(
            head.split("\r\n").all(|line| !line.contains(['\r', '\n']) && !line.starts_with("x-b")),
            "{head:?}"
        );
    }
    format!("{} {}", statuses.join(","), heads.len())
}

#[test]
fn nothing_passes_unchecked_behind_another_request() {
    let Some(pair) = Pair::start() else { return };
    let mut findings = Findings::default();
    let framings = FRAMINGS.map(|(lines, body, expected)| {
        (format!("POST /a HTTP/1.1\r\nhost: HOST\r\n{lines}\r\nAUTH\r\n{body}"), expected, expected)
    });
    let forms = FORMS.map(|(request, bare, hardened)| (request.to_owned(), bare, hardened));
    for (request, bare, hardened) in framings.iter().chain(&forms) {
        findings.compare(&format!("bare {request:?}"), &sent(&pair, &pair.bare, request), bare);
        findings.compare(&format!("hardened {request:?}"), &sent(&pair, &pair.hardened, request), hardened);
    }
    // Both Envoys are still there.
    pair.bare.envoy.process.signal("-0");
    pair.hardened.envoy.process.signal("-0");
    findings.check();
}

/// Where Envoy lets two hosts through as one, daypass' grants for a host cover neither.
#[test]
fn two_hosts_are_no_host_that_a_grant_covers() {
    let Some(ground) = super::rig::Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    daypass.grant(&["create", "--subject", "user:alice", "--host", "*.example", "--ttl", "5m"]).unwrap();
    let Some(bare) = ground.bare(&daypass.check, &[]) else { return };
    let with =
        |hosts: &str| bare.wire.send(format!("GET /a HTTP/1.1\r\n{hosts}{}\r\n", bare.credentials())).status;
    assert_eq!(with("host: orders.example\r\n"), 200);
    assert_eq!(with("host: orders.example\r\nhost: evil.example\r\n"), 403);
    assert_eq!(with("host: \r\n"), 403);
    // One, however it is written, is the one that the grant names.
    for host in ["ORDERS.example", "orders.example.", "orders.EXAMPLE:10000", "orders.example.:443"] {
        assert_eq!(with(&format!("host: {host}\r\n")), 200, "{host}");
    }
    assert_eq!(with("host: orders.example.evil\r\n"), 403);
}
