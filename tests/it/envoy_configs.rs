//! Every configuration of `envoy/` on a real Envoy, before a real daypass: right answers for those who may and those who may not.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::hardening::rig::{Ground, HOST, Side};
use crate::support::daypass::Daypass;
use crate::support::envoy::Authority;
use crate::support::people::{run_as, write_tokens};
use crate::support::wire::Wire;
use crate::support::{tool, wait_for};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Those with an HTTP listener.
const CONFIGURATIONS: [&str; 6] =
    ["minimal-tcp.yaml", "minimal-uds.yaml", "jwt.yaml", "mtls.yaml", "hardened.yaml", "guarded.yaml"];

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Who may, who may not, and who may no longer, where tokens say who calls.
fn exercise(ground: &Ground, daypass: &Daypass, side: &Side) {
    ground.mirror.take();
    assert_eq!(side.wire.request("GET", "/db/rows", HOST, "").status, 401, "no token");
    let mangled = format!("authorization: Bearer {}x\r\n", side.token);
    assert_eq!(side.wire.request("GET", "/db/rows", HOST, &mangled).status, 401, "a bad token");
    let denied = side.get("/db/rows", "");
    assert_eq!(denied.status, 403, "no grant");
    assert!(denied.body.contains("\"reason\":\"no_grant\""), "{}", denied.body);
    let grant = [
        "create",
        "--id",
        "g1",
        "--subject",
        "user:alice",
        "--host",
        HOST,
        "--path",
        "/db/**",
        "--ttl",
        "5m",
    ];
    daypass.grant(&grant).unwrap();
    assert_eq!(ground.mirror.take(), [""; 0], "nothing reached the upstream so far");
    let allowed = side.get("/db/rows", "");
    assert_eq!(allowed.status, 200, "{}", allowed.body);
    // What the upstream was told, and what Envoy kept for itself.
    assert!(allowed.body.contains("x-daypass-grant: g1"), "{}", allowed.body);
    assert!(!allowed.body.contains("stream-duration"), "{}", allowed.body);
    let other = side.get("/admin", "");
    assert!(other.status == 403 && other.body.contains("not_covered"), "{} {}", other.status, other.body);
    daypass.grant(&["revoke", "g1"]).unwrap();
    assert_eq!(side.get("/db/rows", "").status, 403, "revoked");
}

#[test]
fn configurations_with_tokens_answer_as_they_should() {
    let Some(ground) = Ground::new() else { return };
    for name in ["minimal-tcp.yaml", "jwt.yaml", "hardened.yaml", "guarded.yaml"] {
        println!("{name}");
        let daypass = Daypass::start(&[]);
        let Some(side) = ground.shipped(name, &daypass.check, &[]) else { return };
        exercise(&ground, &daypass, &side);
        let other = side.method("GET", "/db/rows", "other.example", "").status;
        // No route, so that daypass is not asked; the guard says so before the router can.
        assert_eq!(other, if name == "hardened.yaml" { 404 } else { 403 }, "{name}");
        drop(daypass);
        let answer = side.get("/db/rows", "");
        assert_eq!(answer.status, 503, "daypass is gone: {}", answer.body);
    }
}

#[test]
fn the_unix_socket_answers_whoever_may_open_it() {
    let Some(ground) = Ground::new() else { return };
    let socket = ground.dir.path().join("authz.sock");
    let daypass = ground.daypass(&["--listen", &format!("unix://{}", socket.display())]);
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    let own = socket.display().to_string();
    // The rig's own change is for configurations over TCP.
    let file = text("envoy/minimal-uds.yaml").replace("/run/daypass/authz.sock", &own);
    let file = format!("{file}# port_value: 9191\n");
    let Some(side) = ground.text(&file, "127.0.0.1:9191") else { return };
    exercise(&ground, &daypass, &side);
    drop(daypass);
    assert_eq!(side.get("/db/rows", "").status, 503);
}

/// Wire clients with certificates of the names.
fn clients<'a>(ground: &Ground, side: &Side, names: &[&'a str]) -> Vec<(&'a str, Wire)> {
    let client = |name| Wire::tls(&side.envoy.ingress, &ground.keys(), Some(name));
    names.iter().map(|name| (*name, client(name))).collect()
}

#[test]
fn workloads_are_known_by_their_certificates() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    ground.authority.issue("web", &["spiffe://corp.example/ns/prod/sa/web"]);
    ground.authority.issue("batch", &["spiffe://corp.example/ns/prod/sa/batch"]);
    ground.authority.issue("foreign", &["spiffe://other.example/ns/prod/sa/web"]);
    ground.authority.issue("longer", &["spiffe://corp.example.evil/ns/prod/sa/web"]);
    ground.authority.issue("unnamed", &["web.example"]);
    let Some(side) = ground.shipped("mtls.yaml", &daypass.check, &[]) else { return };
    let web = "workload:spiffe://corp.example/ns/prod/sa/web";
    let strangers = clients(&ground, &side, &["foreign", "longer", "unnamed"]);
    for (name, wire) in strangers {
        assert_eq!(wire.request("GET", "/db/rows", HOST, "").status, 0, "{name}");
    }
    assert_eq!(side.wire.request("GET", "/db/rows", HOST, "").status, 0, "no certificate");
    let known = clients(&ground, &side, &["web", "batch"]);
    for (name, wire) in &known {
        let denied = wire.request("GET", "/db/rows", HOST, "");
        assert!(denied.status == 403 && denied.body.contains("no_grant"), "{name}: {}", denied.body);
    }
    let principal = known[0].1.request("GET", "/db/rows", HOST, "").body;
    assert!(principal.contains(web), "{principal}");
    let grant = ["create", "--id", "g1", "--subject", web, "--host", HOST, "--path", "/db/**", "--ttl", "5m"];
    daypass.grant(&grant).unwrap();
    let forged = "x-forwarded-client-cert: URI=spiffe://corp.example/admin\r\nx-daypass-team: forged\r\n";
    let allowed = known[0].1.request("GET", "/db/rows", HOST, forged);
    assert_eq!(allowed.status, 200, "{}", allowed.body);
    assert!(allowed.body.contains("URI=spiffe://corp.example/ns/prod/sa/web"), "{}", allowed.body);
    assert!(!allowed.body.contains("/admin") && !allowed.body.contains("forged"), "{}", allowed.body);
    assert_eq!(known[1].1.request("GET", "/db/rows", HOST, "").status, 403, "somebody else's grant");
    daypass.grant(&["revoke", "g1"]).unwrap();
    assert_eq!(known[0].1.request("GET", "/db/rows", HOST, "").status, 403, "revoked");
    drop(daypass);
    assert_eq!(known[0].1.request("GET", "/db/rows", HOST, "").status, 503, "daypass is gone");
    // A certificate of another authority, for the right name.
    another_authority(&ground, "spiffe://corp.example/ns/prod/sa/web");
    let (_, wire) = clients(&ground, &side, &["forged"]).remove(0);
    assert_eq!(wire.request("GET", "/db/rows", HOST, "").status, 0, "another authority");
}

/// A certificate for the name, of an authority that nobody trusts; the name of its files.
fn another_authority(ground: &Ground, san: &str) -> &'static str {
    let elsewhere = tempfile::tempdir().unwrap();
    Authority::new(elsewhere.path()).issue("forged", &[san]);
    for name in ["forged.crt", "forged.key"] {
        std::fs::copy(elsewhere.path().join("envoy/keys").join(name), ground.keys().join(name)).unwrap();
    }
    "forged"
}

/// A certificate beside the token: both names count, and one that does not verify is not taken for none.
#[test]
fn the_hardened_configuration_takes_a_certificate_beside_the_token() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    ground.authority.issue("gateway", &["spiffe://corp.example/gateway"]);
    ground.authority.issue("foreign", &["spiffe://other.example/gateway"]);
    let Some(side) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    let mut both = clients(&ground, &side, &["gateway", "foreign"]);
    let (_, foreign) = both.remove(1);
    let (_, gateway) = both.remove(0);
    // Of a domain that the same authority signs for: it verifies, and is somebody else.
    let denied = foreign.request("GET", "/a", HOST, &side.credentials());
    assert!(
        denied.status == 403 && denied.body.contains("workload:spiffe://other.example/gateway"),
        "{}",
        denied.body
    );
    assert_eq!(gateway.request("GET", "/a", HOST, "").status, 401, "a certificate is no token");
    daypass
        .grant(&[
            "create",
            "--subject",
            "workload:spiffe://corp.example/gateway",
            "--host",
            HOST,
            "--ttl",
            "5m",
        ])
        .unwrap();
    assert_eq!(gateway.request("GET", "/a", HOST, &side.credentials()).status, 200);
    assert_eq!(foreign.request("GET", "/a", HOST, &side.credentials()).status, 403, "another's grant");
    assert_eq!(side.get("/a", "").status, 403, "without the certificate");
    let liar = another_authority(&ground, "spiffe://corp.example/gateway");
    let liar = Wire::tls(&side.envoy.ingress, &ground.keys(), Some(liar));
    assert_eq!(liar.request("GET", "/a", HOST, &side.credentials()).status, 0, "it does not verify");
    // With a list of names Envoy demands a certificate of everybody.
    let ca = "trusted_ca: { filename: envoy/keys/ca.crt }\n";
    let names = "              match_typed_subject_alt_names: [{ san_type: URI, matcher: { prefix: \"spiffe://corp.example/\" } }]\n";
    let listed = format!("{ca}{names}");
    let Some(demanding) = ground.shipped("hardened.yaml", &daypass.check, &[(ca, &listed)]) else { return };
    assert_eq!(demanding.get("/a", "").status, 0);
    let gateway = Wire::tls(&demanding.envoy.ingress, &ground.keys(), Some("gateway"));
    assert_eq!(gateway.request("GET", "/a", HOST, &side.credentials()).status, 200);
    // Envoy answers for itself, without a token and without daypass.
    assert_eq!(side.wire.request("GET", "/healthz", HOST, "").body, "ok\n");
}

#[test]
fn the_script_makes_certificates_that_work() {
    let (Some(_), Some(ground)) = (tool("openssl"), Ground::new()) else { return };
    let script = Path::new(ROOT).join("envoy/demo/demo_certs.sh");
    let make = |id: &str| {
        let output = Command::new("bash").arg(&script).arg(id).arg(ground.keys()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    for name in ["ca.crt", "server.crt", "server.key"] {
        std::fs::remove_file(ground.keys().join(name)).unwrap();
    }
    make("spiffe://corp.example/ns/prod/sa/orders-web");
    let daypass = ground.daypass(&[]);
    let Some(side) = ground.shipped("mtls.yaml", &daypass.check, &[]) else { return };
    let ask =
        || Wire::tls(&side.envoy.ingress, &ground.keys(), Some("client")).request("GET", "/a", HOST, "");
    assert!(ask().body.contains("workload:spiffe://corp.example/ns/prod/sa/orders-web"), "{}", ask().body);
    // For another workload, of the same authority.
    make("spiffe://corp.example/ns/prod/sa/batch");
    assert!(ask().body.contains("workload:spiffe://corp.example/ns/prod/sa/batch"), "{}", ask().body);
    make("spiffe://other.example/x");
    assert_eq!(ask().status, 0);
}

/// The block from `access_log` to the line after it that is no longer part of it.
fn access_log(name: &str) -> String {
    let text = text(&format!("envoy/{name}"));
    let from = text.find("          access_log:\n").unwrap_or_else(|| panic!("{name} has no access log"));
    text[from..from + text[from..].find("          route_config:").unwrap()].to_owned()
}

#[test]
fn all_configurations_log_the_same_and_the_document_has_every_field() {
    let document = text("docs/access-logs.md");
    let log = access_log("jwt.yaml");
    for name in CONFIGURATIONS {
        assert_eq!(access_log(name), log, "{name}");
    }
    let fields = log.lines().skip_while(|line| !line.contains("json_format:")).skip(1);
    for line in fields.filter(|line| !line.trim_start().starts_with('#')) {
        let (field, value) = line.trim().split_once(": ").unwrap();
        let row = format!("| `{field}` | `{}` |", value.trim_matches('"'));
        assert!(document.contains(&row), "docs/access-logs.md has no {row}");
    }
}

/// Bob agrees to what Alice asked for with a ticket, and Envoy's log alone says so.
#[test]
fn the_access_log_says_under_whose_approval_a_request_ran() {
    let Some(ground) = Ground::new() else { return };
    let entitlements = format!("{ROOT}/policies/entitlements.yaml");
    let people: [(&str, &[&str]); 2] = [("alice", &["engineering"]), ("bob", &["orders-team"])];
    write_tokens(&ground.dir.path().join("data/tokens.yaml"), &people);
    let daypass = ground.daypass(&["--policy", &entitlements]);
    let by = |name: &str, args: &[&str]| {
        let output = run_as(name, &daypass.api, args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
    };
    let ask = [
        "request",
        "create",
        "orders-db-read",
        "--for",
        "15m",
        "--reason",
        "customer 4711 misses an order",
        "--ticket",
        "OPS-42",
        "--no-wait",
        "--json",
    ];
    let request = by("alice", &ask)["id"].as_str().unwrap().to_owned();
    by("bob", &["request", "approve", &request, "--for", "10m", "--reason", "go ahead"]);
    let grant = by("alice", &["request", "show", &request, "--json"])["grant"].as_str().unwrap().to_owned();

    let Some(side) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    wait_for("the grant", || (side.get("/db/rows?secret=1", "").status == 200).then_some(()));
    assert_eq!(side.get("/admin", "").status, 403);
    assert_eq!(side.wire.request("GET", "/db", HOST, "").status, 401);
    let lines = |log: &str| -> Vec<Value> {
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let log = wait_for("the log", || {
        let found = lines(&side.envoy.log());
        found.iter().any(|line| line["status"] == 401).then_some(found)
    });
    let of = |status: u16| log.iter().find(|line| line["status"] == status).unwrap();
    let allowed = of(200);
    for (field, expected) in [
        ("method", "GET"),
        ("host", HOST),
        ("path", "/db/rows"),
        ("reason", "grant"),
        ("grant", &grant),
        ("request", &request),
        ("approved_by", "user:bob"),
        ("ticket", "OPS-42"),
    ] {
        assert_eq!(allowed[field], expected, "{field}: {allowed}");
    }
    let left = allowed["seconds_left"].as_f64().unwrap();
    assert!(left > 500.0 && left <= 600.0, "{allowed}");
    let cost =
        allowed["authz_us"].as_str().and_then(|text| text.parse().ok()).or(allowed["authz_us"].as_u64());
    assert!(cost.is_some_and(|cost| cost > 0), "{allowed}");
    assert_eq!(allowed["decision_id"].as_str().unwrap().len(), 36, "{allowed}");
    assert_eq!(allowed["request_id"].as_str().unwrap().len(), 36, "{allowed}");
    assert_eq!(allowed["details"], "via_upstream", "{allowed}");
    let denied = of(403);
    assert_eq!((&denied["reason"], &denied["flags"]), (&"not_covered".into(), &"UAEX".into()), "{denied}");
    assert_eq!(denied["details"], "ext_authz_denied", "{denied}");
    assert!(denied["grant"].is_null() && denied["decision_id"].is_string(), "{denied}");
    let unknown = of(401);
    assert!(unknown["reason"].is_null() && unknown["authz_us"].is_null(), "{unknown}");
}

#[test]
fn the_text_format_of_the_document_works() {
    let Some(ground) = Ground::new() else { return };
    let document = text("docs/access-logs.md");
    let block = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let log = access_log("jwt.yaml");
    let json = &log[log.find("              log_format:").unwrap()..];
    let indented: String = block.lines().flat_map(|line| ["              ", line, "\n"]).collect();
    let file = text("envoy/jwt.yaml").replace(json, &indented);
    let daypass = ground.daypass(&[]);
    daypass
        .grant(&[
            "create",
            "--id",
            "g1",
            "--subject",
            "user:alice",
            "--host",
            HOST,
            "--ttl",
            "5m",
            "--ticket",
            "OPS-42",
        ])
        .unwrap();
    let Some(side) = ground.text(&file, &daypass.check) else { return };
    assert_eq!(side.get("/db", "").status, 200);
    let line =
        wait_for("a line", || side.envoy.log().lines().find(|line| line.contains("200")).map(str::to_owned));
    for part in [HOST, "/db", "reason=grant", "grant=g1", "ticket=OPS-42", "approved_by=-", "authz_us="] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// The decision log and the access log name each other.
#[test]
fn a_line_of_the_access_log_leads_to_the_decision() {
    let Some(ground) = Ground::new() else { return };
    let path = ground.dir.path().join("decisions");
    let daypass = ground.daypass(&["--decision-log", &path.display().to_string()]);
    let Some(side) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    assert_eq!(side.get("/db", "").status, 403);
    let read = |text: String| text.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let access = wait_for("the access log", || read(side.envoy.log()));
    let decision = wait_for("the decision log", || read(std::fs::read_to_string(&path).ok()?));
    for field in ["decision_id", "request_id", "reason"] {
        assert!(
            access[field].is_string() && access[field] == decision[field],
            "{field}: {access} {decision}"
        );
    }
}
