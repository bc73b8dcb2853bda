//! How much one client may send and hold, and how long.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::answers::says;
use super::rig::{EXT_AUTHZ, Findings, Ground, HOST, Pair};
use crate::support::envoy::{Envoy, port};
use crate::support::fake_checker::{Behaviour, FakeChecker};
use crate::support::tool;

#[test]
fn headers_have_a_size_and_a_number() {
    let Some(pair) = Pair::start() else { return };
    let mut findings = Findings::default();
    for (what, headers, expected) in [
        ("50 KiB", format!("x-a: {}\r\n", "a".repeat(50 << 10)), "200"),
        ("61 KiB", format!("x-a: {}\r\n", "a".repeat(61 << 10)), "431"),
        ("80 headers", "x-a: 1\r\n".repeat(80), "200"),
        ("110 headers", "x-a: 1\r\n".repeat(110), "431"),
    ] {
        for (name, side) in [("bare", &pair.bare), ("hardened", &pair.hardened)] {
            findings.compare(
                &format!("{name} {what}"),
                &side.get("/a", &headers).status.to_string(),
                expected,
            );
        }
    }
    findings.check();
}

/// A real daypass reads what Envoy lets through, up to the largest header.
#[test]
fn large_headers_are_checked_as_small_ones_are() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let Some(hardened) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    let large = format!("x-a: {}\r\n", "a".repeat(50 << 10));
    assert_eq!(hardened.get("/a", &large).status, 403);
    daypass.grant(&["create", "--subject", "user:alice", "--host", HOST, "--ttl", "5m"]).unwrap();
    assert_eq!(hardened.get("/a", &large).status, 200);
    let target = format!("/{}", "a/".repeat(20 << 10));
    assert_eq!(hardened.get(&target, "").status, 200);
}

/// Whether Envoy ended the connection within the time.
fn is_ended(stream: &mut impl Read, within: Duration) -> bool {
    let started = Instant::now();
    let mut buffer = [0; 1024];
    while started.elapsed() < within {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return true,
        }
    }
    false
}

/// Headers that never end. The hardened time limit is made short here; a bare Envoy has none.
#[test]
fn headers_that_never_end_are_given_up() {
    let Some(pair) = Pair::start() else { return };
    let short = ("request_headers_timeout: 10s", "request_headers_timeout: 1s");
    let Some(limited) = pair.ground.shipped("hardened.yaml", &pair.checker.address, &[short]) else { return };
    let begun = "GET / HTTP/1.1\r\nx-a: ";
    assert_eq!(limited.wire.send(begun).status, 408);
    let mut stream = TcpStream::connect(&pair.bare.envoy.ingress).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.write_all(begun.as_bytes()).unwrap();
    assert!(!is_ended(&mut stream, Duration::from_secs(4)));
}

/// A body of which nothing more comes. Made short here; Envoy's own default is as long as the hardened one.
#[test]
fn streams_on_which_nothing_moves_end() {
    let Some(pair) = Pair::start() else { return };
    let short = ("stream_idle_timeout: 300s", "stream_idle_timeout: 1s");
    let Some(limited) = pair.ground.shipped("hardened.yaml", &pair.checker.address, &[short]) else { return };
    let head = format!("POST /a HTTP/1.1\r\nhost: {HOST}\r\n{}", limited.credentials());
    let answer = limited.wire.send(format!("{head}transfer-encoding: chunked\r\n\r\n1\r\nx\r\n"));
    assert!(answer.status == 408 || answer.status == 504, "{}", answer.status);
}

/// The overload manager refuses connections beyond its limit; made small here.
#[test]
fn connections_have_a_number() {
    let Some(pair) = Pair::start() else { return };
    let checker = &pair.checker.address;
    let two = ("max_active_downstream_connections: 20000", "max_active_downstream_connections: 2");
    let Some(full) = pair.ground.shipped("hardened.yaml", checker, &[two]) else { return };
    let connect = |address: &str| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        stream
    };
    for (address, third_ends) in [(&full.envoy.ingress, true), (&pair.bare.envoy.ingress, false)] {
        let mut held: Vec<_> = (0..2).map(|_| connect(address)).collect();
        // Accepted by Envoy, not only by the kernel.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(is_ended(&mut connect(address), Duration::from_secs(2)), third_ends);
        assert!(!is_ended(&mut held[0], Duration::from_millis(200)));
    }
}

/// No answer of the checker lifts the listener's limit; made short here.
#[test]
fn no_answer_outlasts_the_cap_of_the_listener() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    daypass.grant(&["create", "--subject", "user:alice", "--host", HOST, "--ttl", "1h"]).unwrap();
    let ticks = port(&format!("127.0.0.1:{}", crate::envoy::ticking_upstream()));
    let own = port(&ground.mirror.address);
    let to_ticks = (own.as_str(), ticks.as_str());
    let cap = ("max_stream_duration: 86400s", "max_stream_duration: 1s");
    let Some(capped) = ground.shipped("hardened.yaml", &daypass.check, &[to_ticks, cap]) else { return };
    let Some(bare) = ground.bare(&daypass.check, &[to_ticks]) else { return };
    let count = |side: &super::rig::Side| side.get("/ticks", "").body.matches("tick").count();
    let found = count(&capped);
    assert!((5..=11).contains(&found), "{found} ticks in a second");
    // The bare one has no cap: all of the upstream's hundred ticks, if the client waits; here it has enough of it.
    let found = count(&bare);
    assert!(found > 30, "{found} ticks");
}

/// Two ways to lose the deadline: rules that do not list its header drop it without a word, and 0 is no limit at all. daypass
/// never says 0, and hardened.yaml lists the header.
#[test]
fn a_deadline_is_lost_by_rules_without_it_and_by_zero() {
    let Some(ground) = Ground::new() else { return };
    let (daypass, checker) = (ground.daypass(&[]), FakeChecker::start());
    let ticks = port(&format!("127.0.0.1:{}", crate::envoy::ticking_upstream()));
    let own = port(&ground.mirror.address);
    let to_ticks = (own.as_str(), ticks.as_str());
    let empty = format!("{EXT_AUTHZ}              decoder_header_mutation_rules: {{}}\n");
    let sides = [
        ground.bare(&daypass.check, &[to_ticks, (EXT_AUTHZ, &empty)]),
        ground.bare(&checker.address, &[to_ticks]),
        ground.shipped("hardened.yaml", &daypass.check, &[to_ticks]),
    ];
    let [Some(dropped), Some(zero), Some(kept)] = sides else { return };
    checker.answer(says("x-envoy-upstream-stream-duration-ms", "0"));
    daypass.grant(&["create", "--subject", "user:alice", "--host", HOST, "--ttl", "2s"]).unwrap();
    let found = std::thread::scope(|scope| {
        [&dropped, &zero, &kept]
            .map(|side| scope.spawn(|| side.get("/ticks", "").body.matches("tick").count()))
            .map(|count| count.join().unwrap())
    });
    println!("ticks of 100 ms: {found:?}");
    assert!(found[0] > 30 && found[1] > 30 && (5..=21).contains(&found[2]), "{found:?}");
}

/// A body that never ends does not keep the check from being made, unless Envoy is told to send bodies.
#[test]
fn an_unfinished_body_is_checked_unless_envoy_waits_for_it() {
    let Some(pair) = Pair::start() else { return };
    let checker = &pair.checker.address;
    let option = "with_request_body: { max_request_bytes: 10, allow_partial_message: false }";
    let body = format!("{EXT_AUTHZ}              {option}\n");
    let Some(waits) = pair.ground.bare(checker, &[(EXT_AUTHZ, &body)]) else { return };
    pair.checker.set(Behaviour::Error("13"));
    for (name, side, expected) in
        [("bare", &pair.bare, 403), ("hardened", &pair.hardened, 503), ("waits", &waits, 0)]
    {
        let request = format!(
            "POST /a HTTP/1.1\r\nhost: {HOST}\r\n{}transfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
            side.credentials()
        );
        assert_eq!(side.wire.send(request).status, expected, "{name}");
    }
}

/// TCP: the network filter asks only when the client has sent something, and a server that speaks first is heard before.
#[test]
fn tcp_is_checked_only_once_the_client_speaks_unless_envoy_waits() {
    let Some(ground) = Ground::new() else { return };
    if tool("envoy").is_none() {
        return;
    }
    let daypass = ground.daypass(&[]);
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in upstream.incoming().flatten() {
            let _ = stream.write_all(b"secret");
            std::thread::spawn(move || stream.read(&mut [0; 64]));
        }
    });
    let (check, upstream) = (port(&daypass.check), port(&address));
    let own = [("port_value: 9191", check.as_str()), ("port_value: 8080", upstream.as_str())];
    let waits = (
        "cluster: upstream }",
        "cluster: upstream, upstream_connect_mode: ON_DOWNSTREAM_DATA, max_early_data_bytes: 8192 }",
    );
    let heard = |changes: &[(&str, &str)], says: &[u8]| {
        let envoy = Envoy::start_text(include_str!("bare_tcp.yaml"), ground.dir.path(), changes).unwrap();
        let mut stream = TcpStream::connect(&envoy.ingress).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        stream.write_all(says).unwrap();
        let mut buffer = [0; 64];
        let count = stream.read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(heard(&own, b""), "secret", "never checked, since the client says nothing");
    let waiting = [&own[..], &[waits]].concat();
    assert_eq!(heard(&waiting, b""), "");
    assert_eq!(heard(&waiting, b"hello"), "", "checked, and denied");
}
