//! Requests that two readers could cut in two places, and old or odd forms of HTTP.

use super::rig::{Findings, HOST, Pair, Side};

/// What Envoy answered, and how many requests reached the upstream.
fn sent(pair: &Pair, side: &Side, request: &str) -> String {
    pair.ground.mirror.take();
    pair.checker.take();
    let request = request.replace("AUTH\r\n", &side.credentials()).replace("HOST", HOST);
    let answers = side.wire.send_and_drain(request);
    let statuses: Vec<&str> = answers
        .split("HTTP/1.")
        .skip(1)
        .filter_map(|answer| answer.split(' ').nth(1).map(|status| &status[..3]))
        // The mirror's answer has the head of the request in it.
        .filter(|status| status.parse::<u16>().is_ok())
        .collect();
    let (checked, reached) = (pair.checker.take().len(), pair.ground.mirror.take().len());
    assert!(reached <= checked, "{reached} requests reached the upstream, {checked} were checked: {answers}");
    format!("{} {reached}", statuses.join(","))
}

#[test]
fn nothing_passes_unchecked_behind_another_request() {
    let Some(pair) = Pair::start() else { return };
    let hidden = "GET /hidden HTTP/1.1\r\nhost: HOST\r\n\r\n";
    let mut findings = Findings::default();
    for (what, request, expected) in [
        (
            "both lengths",
            format!(
                "POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
            "400 0",
        ),
        (
            "two lengths",
            format!(
                "POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ncontent-length: 0\r\ncontent-length: 44\r\n\r\n{hidden}"
            ),
            "400 0",
        ),
        (
            "a list of lengths",
            format!("POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ncontent-length: 0, 44\r\n\r\n{hidden}"),
            "400 0",
        ),
        (
            "a negative length",
            format!("POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ncontent-length: -1\r\n\r\n{hidden}"),
            "400 0",
        ),
        (
            "a signed length",
            format!("POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ncontent-length: +0\r\n\r\n{hidden}"),
            "400 0",
        ),
        (
            "an unknown coding",
            format!(
                "POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
            "501 0",
        ),
        (
            "chunked, not last",
            format!(
                "POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"
            ),
            "501 0",
        ),
        (
            "a space before the colon",
            format!(
                "POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
            "400 0",
        ),
        (
            "a folded line",
            "GET /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\nx-a: 1\r\n x-b: 2\r\n\r\n".to_owned(),
            "400 0",
        ),
        (
            "a bare carriage return",
            "GET /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\nx-a: 1\rx-b: 2\r\n\r\n".to_owned(),
            "400 0",
        ),
        ("a NUL", "GET /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\nx-a: 1\u{0}2\r\n\r\n".to_owned(), "400 0"),
        (
            "two hosts",
            "GET /a HTTP/1.1\r\nhost: HOST\r\nhost: evil.example\r\nAUTH\r\n\r\n".to_owned(),
            "400 0",
        ),
        ("no host", "GET /a HTTP/1.1\r\nAUTH\r\n\r\n".to_owned(), "400 0"),
        ("HTTP/1.0", "GET /a HTTP/1.0\r\nhost: HOST\r\nAUTH\r\n\r\n".to_owned(), "426 0"),
        ("HTTP/0.9", "GET /a\r\n".to_owned(), "400 0"),
        ("HTTP/1.2", "GET /a HTTP/1.2\r\nhost: HOST\r\nAUTH\r\n\r\n".to_owned(), "400 0"),
        ("a tab in the line", "GET\t/a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\n\r\n".to_owned(), "400 0"),
        (
            "a bad chunk",
            "POST /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n"
                .to_owned(),
            "400 0",
        ),
        // Two in one go are two requests, each with a check of its own; the second has no token.
        ("two requests", format!("GET /a HTTP/1.1\r\nhost: HOST\r\nAUTH\r\n\r\n{hidden}"), "200,401 1"),
    ] {
        for (name, side) in [("bare", &pair.bare), ("hardened", &pair.hardened)] {
            findings.compare(&format!("{name}: {what}"), &sent(&pair, side, &request), expected);
        }
    }
    // Both Envoys are still there.
    pair.bare.envoy.process.signal("-0");
    pair.hardened.envoy.process.signal("-0");
    findings.check();
}
