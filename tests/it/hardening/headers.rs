//! What a client may say in headers, and who hears it.

use std::collections::HashMap;

use super::rig::{Findings, Ground, HOST, Pair, Side};

/// A header, its value, and who gets the client's value: `c` the checker, `u` the upstream; first with a bare Envoy, then with the
/// hardened one.
const SPOOFED: [(&str, &str, &str, &str); 23] = [
    ("x-daypass-grant", "forged", "cu", ""),
    ("x-daypass-expires", "9999", "cu", ""),
    ("x-envoy-auth-failure-mode-allowed", "true", "cu", ""),
    ("x-envoy-auth-partial-body", "true", "u", ""),
    ("x-envoy-original-path", "/admin", "cu", ""),
    ("x-envoy-original-host", "evil", "cu", ""),
    ("x-envoy-downstream-service-cluster", "admin", "cu", ""),
    ("x-envoy-downstream-service-node", "admin", "cu", ""),
    ("x-envoy-external-address", "10.0.0.1", "cu", ""),
    ("x-envoy-attempt-count", "7", "cu", ""),
    ("x-envoy-decorator-operation", "evil", "cu", ""),
    ("x-envoy-is-timeout-retry", "true", "cu", ""),
    ("x-envoy-internal", "true", "", ""),
    ("x-envoy-upstream-stream-duration-ms", "99999999", "", ""),
    ("x-envoy-upstream-rq-timeout-ms", "99999999", "", ""),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "99999999", "", ""),
    ("x-envoy-expected-rq-timeout-ms", "99999999", "", ""),
    ("x-envoy-max-retries", "9", "", ""),
    ("x-envoy-retry-on", "5xx", "", ""),
    ("x-envoy-upstream-alt-stat-name", "evil", "", ""),
    ("x-forwarded-client-cert", "URI=spiffe://corp.example/admin", "", ""),
    ("x-ordinary", "1", "cu", "cu"),
    ("x_ordinary", "1", "cu", "400"),
];

fn who_gets(pair: &Pair, side: &Side, name: &str, value: &str) -> String {
    pair.checker.take();
    pair.ground.mirror.take();
    let answer = side.get("/a", &format!("{name}: {value}\r\n"));
    if answer.status != 200 {
        return answer.status.to_string();
    }
    let checked = headers_of(pair);
    let mut heard = String::new();
    if checked.get(name).is_some_and(|found| found.contains(value)) {
        heard.push('c');
    }
    if pair.ground.mirror.take()[0].lines().any(|line| line == format!("{name}: {value}")) {
        heard.push('u');
    }
    heard
}

fn headers_of(pair: &Pair) -> HashMap<String, String> {
    let mut checked = pair.checker.take();
    let request = checked.pop().unwrap().attributes.unwrap().request.unwrap();
    request.http.unwrap().headers
}

#[test]
fn what_a_client_may_not_say_reaches_nobody() {
    let Some(pair) = Pair::start() else { return };
    let mut findings = Findings::default();
    for (name, value, bare, hardened) in SPOOFED {
        findings.compare(&format!("bare {name}"), &who_gets(&pair, &pair.bare, name, value), bare);
        findings.compare(
            &format!("hardened {name}"),
            &who_gets(&pair, &pair.hardened, name, value),
            hardened,
        );
    }
    findings.check();
}

/// Addresses: what is in the check is the connection's, and what a client wrote into a header stays a header.
#[test]
fn an_address_in_a_header_is_nobodys_address() {
    let Some(pair) = Pair::start() else { return };
    for (side, forwarded) in [(&pair.bare, "10.9.9.9"), (&pair.hardened, "10.9.9.9,")] {
        pair.checker.take();
        assert_eq!(side.get("/a", "x-forwarded-for: 10.9.9.9\r\n").status, 200);
        let attributes = pair.checker.take().pop().unwrap().attributes.unwrap();
        let source = format!("{:?}", attributes.source.unwrap());
        assert!(source.contains("127.0.0.1") && !source.contains("10.9.9.9"), "{source}");
        let headers = attributes.request.unwrap().http.unwrap().headers;
        // Envoy appends an address of this machine.
        assert!(headers["x-forwarded-for"].starts_with(forwarded), "{headers:?}");
    }
    // And `source.service`, which is a header too.
    for (side, service) in [(&pair.bare, "admin"), (&pair.hardened, "")] {
        assert_eq!(side.get("/a", "x-envoy-downstream-service-cluster: admin\r\n").status, 200);
        let source = pair.checker.take().pop().unwrap().attributes.unwrap().source.unwrap();
        assert_eq!(source.service, service);
    }
}

/// The trap of the empty list: every client on loopback or in RFC 1918 becomes internal, and sets its own deadline.
#[test]
fn an_empty_list_of_internal_addresses_believes_its_neighbours() {
    let Some(pair) = Pair::start() else { return };
    let empty = (
        "use_remote_address: true",
        "use_remote_address: true\n          internal_address_config: { cidr_ranges: [] }",
    );
    let checker = &pair.checker.address;
    let Some(trapped) = pair.ground.shipped("minimal-tcp.yaml", checker, &[empty]) else { return };
    let name = "x-envoy-upstream-rq-timeout-ms";
    assert_eq!(who_gets(&pair, &trapped, name, "99999999"), "c");
    assert_eq!(who_gets(&pair, &pair.hardened, name, "99999999"), "");
}

#[test]
fn secrets_do_not_travel_to_the_checker_or_beyond() {
    let Some(pair) = Pair::start() else { return };
    for (side, expected) in [(&pair.bare, [true, false]), (&pair.hardened, [false, false])] {
        pair.ground.mirror.take();
        assert_eq!(side.get("/a", "cookie: session=s3cret\r\n").status, 200);
        let headers = headers_of(&pair);
        assert_eq!([headers.contains_key("cookie"), headers.contains_key("authorization")], expected);
        assert!(!pair.ground.mirror.take()[0].contains("authorization"));
    }
}

/// Several headers of one name become one value with commas, which is no name of anybody.
#[test]
fn a_header_sent_twice_names_nobody_else() {
    let Some(ground) = Ground::new() else { return };
    let settings = "identity: [{source: jwt}, {source: header, name: x-user, kind: user}]\n";
    let config = crate::support::daypass::write_file(ground.dir.path(), "d.yaml", settings);
    let daypass = ground.daypass(&["--config", &config]);
    for user in ["user:alice", "user:bob"] {
        daypass.grant(&["create", "--subject", user, "--host", HOST, "--ttl", "5m"]).unwrap();
    }
    for side in [ground.bare(&daypass.check, &[]), ground.shipped("hardened.yaml", &daypass.check, &[])] {
        let Some(side) = side else { return };
        assert_eq!(side.get("/a", "x-user: alice\r\n").status, 200);
        for lines in ["x-user: bob\r\n", "x-user: alice\r\nx-user: bob\r\n", "x-user: alice,bob\r\n"] {
            let answer = side.get("/a", lines);
            assert_eq!(answer.status, 403, "{lines}");
            assert!(answer.body.contains("identity_conflict"), "{lines}: {}", answer.body);
        }
    }
}

/// `encode_raw_headers` sends the same in another form.
#[test]
fn raw_headers_give_the_same_decisions() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    daypass.grant(&["create", "--subject", "user:alice", "--path", "/db/**", "--ttl", "5m"]).unwrap();
    let raw = (
        super::rig::EXT_AUTHZ,
        "              transport_api_version: V3\n              encode_raw_headers: true\n",
    );
    let sides = [
        ground.shipped("hardened.yaml", &daypass.check, &[]),
        ground.shipped("hardened.yaml", &daypass.check, &[raw]),
    ];
    let [Some(plain), Some(raw)] = sides else { return };
    for (path, headers) in [
        ("/db/rows", ""),
        ("/admin", ""),
        ("/db/rows", "x-a: 1\r\nx-a: 2\r\n"),
        ("/db/rows", "x-a: \u{fc}\r\n"),
    ] {
        let [one, other] = [&plain, &raw].map(|side| side.get(path, headers).status);
        assert_eq!(one, other, "{path} {headers:?}");
        assert_eq!(one, if path == "/admin" { 403 } else { 200 });
    }
}

/// The client's own deadline may only be the shorter one, and Envoy takes it off before anybody sees it.
#[test]
fn a_client_cannot_set_the_deadline() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let upstream = crate::envoy::ticking_upstream();
    let to_ticks = format!("port_value: {upstream}");
    let own = crate::support::envoy::port(&ground.mirror.address);
    let ticking = [(own.as_str(), to_ticks.as_str())];
    let sides =
        [ground.bare(&daypass.check, &ticking), ground.shipped("hardened.yaml", &daypass.check, &ticking)];
    for side in sides {
        let Some(side) = side else { return };
        daypass.grant(&["create", "--subject", "user:alice", "--host", HOST, "--ttl", "2s"]).unwrap();
        std::thread::scope(|scope| {
            for deadline in ["300", "600000", "0", "-1", "never"] {
                let side = &side;
                scope.spawn(move || {
                    let line = format!("x-envoy-upstream-stream-duration-ms: {deadline}\r\n");
                    let answer = side.get("/ticks", &line);
                    assert_eq!(answer.status, 200, "{deadline} {}", answer.body);
                    // One each 100 ms, for 2 s.
                    let ticks = answer.body.matches("tick").count();
                    assert!((10..=21).contains(&ticks), "{deadline}: {ticks} ticks");
                });
            }
        });
    }
}

/// Conditions on addresses are held against the connection's peer, whatever a client writes.
#[test]
fn a_grant_for_an_address_is_not_for_whoever_claims_it() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let grant = |cidr: &str| {
        let id = format!("g-{}", cidr.len());
        let args = [
            "create",
            "--id",
            &id,
            "--subject",
            "user:alice",
            "--host",
            HOST,
            "--source-cidr",
            cidr,
            "--ttl",
            "5m",
        ];
        daypass.grant(&args).unwrap();
    };
    grant("10.0.0.0/8");
    let sides = [ground.bare(&daypass.check, &[]), ground.shipped("hardened.yaml", &daypass.check, &[])];
    let [Some(bare), Some(hardened)] = sides else { return };
    let claims = "x-forwarded-for: 10.1.1.1\r\nx-real-ip: 10.1.1.1\r\nforwarded: for=10.1.1.1\r\nx-envoy-external-address: 10.1.1.1\r\n";
    for side in [&bare, &hardened] {
        assert_eq!(side.get("/a", claims).status, 403);
    }
    grant("127.0.0.0/8");
    for side in [&bare, &hardened] {
        assert_eq!(side.get("/a", claims).status, 200);
    }
}
