//! HTTP/2 that a proxy must not turn into two requests of HTTP/1.1, frame by frame: no library would send it.

use std::time::{Duration, Instant};

use super::rig::{Findings, HOST, Pair, Side};
use crate::support::wire::Stream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM_AND_HEADERS: u8 = 0x5;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A literal of HPACK that is not indexed and not compressed.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        let mut rest = text.len();
        if rest < 0x7f {
            out.push(u8::try_from(rest).unwrap());
        } else {
            out.push(0x7f);
            rest -= 0x7f;
            while rest >= 0x80 {
                out.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
                rest /= 0x80;
            }
            out.push(u8::try_from(rest).unwrap());
        }
        out.extend(text.as_bytes());
    }
    out
}

/// Sends one request of these fields and waits until Envoy has answered or given it up.
fn exchange(stream: &mut dyn Stream, fields: &[(&str, &str)]) {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let request =
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_STREAM_AND_HEADERS, 1, &block)].concat();
    stream.write_all(&request).unwrap();
    let (started, mut input, mut buffer) = (Instant::now(), Vec::new(), [0; 8192]);
    while started.elapsed() < Duration::from_secs(5) {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
        while let Some(length) =
            input.get(..3).map(|n| usize::from(n[0]) << 16 | usize::from(n[1]) << 8 | usize::from(n[2]))
        {
            if input.len() < 9 + length {
                break;
            }
            if [HEADERS, RST_STREAM, GOAWAY].contains(&input[3]) {
                return;
            }
            input.drain(..9 + length);
        }
    }
    panic!("no answer to {fields:?}");
}

/// `host path` as the checker and the upstream saw it, `-` for whoever did not.
fn seen(pair: &Pair, side: &Side, change: &[(&str, &str)]) -> String {
    pair.checker.take();
    pair.ground.mirror.take();
    let token = format!("Bearer {}", side.token);
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/a")];
    // A change replaces the field of the name, or comes last; without a value it takes the field out.
    let fields = usual.iter().map(|(name, value)| {
        (*name, change.iter().find(|(changed, _)| changed == name).map_or(*value, |(_, value)| *value))
    });
    let fields = fields.filter(|(_, value)| !value.is_empty());
    let more = change.iter().filter(|(name, _)| !usual.iter().any(|(usual, _)| usual == name)).copied();
    let fields: Vec<_> = fields.chain([("authorization", token.as_str())]).chain(more).collect();
    side.wire.with_http2(|stream| exchange(stream, &fields));
    let checked = pair.checker.take().pop().map(|check| {
        let http = check.attributes.unwrap().request.unwrap().http.unwrap();
        format!("{} {}", http.host, http.path)
    });
    let heads = pair.ground.mirror.take();
    assert!(heads.len() <= 1, "{heads:?}");
    let served = heads.first().map(|head| {
        assert!(
            head.split("\r\n").all(|line| !line.contains(['\r', '\n']) && !line.starts_with("x-evil")),
            "{head:?}"
        );
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("?");
        format!("{host} {}", head.split(' ').nth(1).unwrap())
    });
    if served.is_some() {
        assert_eq!(served, checked, "decided about another request than served");
    }
    served.unwrap_or_else(|| "-".to_owned())
}

#[test]
fn no_http2_request_becomes_another_one_upstream() {
    let Some(pair) = Pair::start() else { return };
    let mut findings = Findings::default();
    for (change, bare, hardened) in [
        (&[][..], "orders.example /a", "orders.example /a"),
        (&[(":path", "a/b")], "-", "-"),
        (&[(":path", "/a b")], "-", "-"),
        (&[(":path", "/a#b")], "-", "-"),
        (&[(":path", "/a\r\nx-evil: 1")], "-", "-"),
        (&[(":path", "")], "-", "-"),
        (&[(":path", "//a/../b")], "orders.example //a/../b", "orders.example /b"),
        (&[(":path", "http://evil.example/a")], "-", "-"),
        (&[(":authority", "orders.example\r\nx-evil: 1")], "-", "-"),
        (&[(":authority", "alice@orders.example")], "-", "-"),
        (&[(":method", "GET /admin HTTP/1.1\r\nx-evil: 1\r\n")], "-", "-"),
        (&[("host", "evil.example")], "orders.example /a", "orders.example /a"),
        (&[(":authority", ""), ("host", "evil.example")], "evil.example /a", "-"),
        (&[("x-a", "1\r\nx-evil: 1")], "-", "-"),
        (&[("x-a", "1\nx-evil: 1")], "-", "-"),
        (&[("x-a\r\nx-evil", "1")], "-", "-"),
        (&[("X-A", "1")], "-", "-"),
        (&[("x-a:x-evil", "1")], "-", "-"),
        (&[("transfer-encoding", "chunked")], "-", "-"),
        (&[("connection", "keep-alive")], "-", "-"),
        (&[("te", "gzip")], "-", "-"),
        (&[("content-length", "5")], "-", "-"),
        (&[(":evil", "1")], "-", "-"),
    ] {
        findings.compare(&format!("bare {change:?}"), &seen(&pair, &pair.bare, change), bare);
        findings.compare(&format!("hardened {change:?}"), &seen(&pair, &pair.hardened, change), hardened);
    }
    pair.hardened.envoy.process.signal("-0");
    findings.check();
}
