//! What a policy is shown of a request that is cut off or strange, through a real Envoy and a real daypass.

use std::path::Path;

use super::rig::{EXT_AUTHZ, Ground, HOST, Side};
use crate::support::daypass::write_file;

fn post(side: &Side, body: &str, headers: &str) -> u16 {
    let request = format!(
        "POST /pay HTTP/1.1\r\nhost: {HOST}\r\n{}content-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        side.credentials(),
        body.len()
    );
    side.wire.send(request).status
}

/// Envoy sends the first bytes and says so; the rest reaches the upstream. The recipe for bodies decides nothing by a part.
#[test]
fn half_a_body_decides_nothing() {
    let Some(ground) = Ground::new() else { return };
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/recipes/body.rego");
    let limit = write_file(ground.dir.path(), "data.json", r#"{"limit": 100}"#);
    let daypass = ground.daypass(&["--policy", recipe.to_str().unwrap(), "--policy", &limit]);
    let body = format!(
        "{EXT_AUTHZ}              with_request_body: {{ max_request_bytes: 64, allow_partial_message: true }}\n"
    );
    let raw = format!("{body}              encode_raw_headers: true\n");
    for side in [
        ground.bare(&daypass.check, &[(EXT_AUTHZ, &body)]),
        ground.bare(&daypass.check, &[(EXT_AUTHZ, &raw)]),
        ground.shipped("hardened.yaml", &daypass.check, &[(EXT_AUTHZ, &body)]),
    ] {
        let Some(side) = side else { return };
        assert_eq!(post(&side, r#"{"amount": 50}"#, ""), 200);
        assert_eq!(post(&side, r#"{"amount": 500}"#, ""), 403);
        // The first 64 bytes are a whole document; what follows changes the amount for readers that take the last.
        let hidden = format!(r#"{{"amount": 50}}{} {{"amount": 5000}}"#, " ".repeat(60));
        assert_eq!(post(&side, &hidden, ""), 403);
        // Whatever the client says about it.
        for claim in ["false", "true"] {
            assert_eq!(post(&side, &hidden, &format!("x-envoy-auth-partial-body: {claim}\r\n")), 403);
        }
    }
}

/// Without `with_request_body` there is nothing to decide by, and the recipe denies.
#[test]
fn without_bodies_a_policy_over_bodies_denies() {
    let Some(ground) = Ground::new() else { return };
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/recipes/body.rego");
    let limit = write_file(ground.dir.path(), "data.json", r#"{"limit": 100}"#);
    let daypass = ground.daypass(&["--policy", recipe.to_str().unwrap(), "--policy", &limit]);
    let Some(hardened) = ground.shipped("hardened.yaml", &daypass.check, &[]) else { return };
    assert_eq!(post(&hardened, r#"{"amount": 50}"#, ""), 403);
}

/// A policy that fails denies with 500, whether Envoy fails open or not: it is an answer and not an error.
#[test]
fn a_policy_that_fails_denies_even_where_envoy_fails_open() {
    let Some(ground) = Ground::new() else { return };
    let text = "package envoy.authz\nallow := numbers.range(1, 1e9)[0] == 1 if input.attributes.request.http.path == \"/fail\"\nallow := \"yes\" if input.attributes.request.http.path == \"/type\"\nallow := {\"allowed\": true, \"headers\": {\"x-daypass-a\": \"a\\r\\nb: c\"}} if input.attributes.request.http.path == \"/split\"";
    let policy = write_file(ground.dir.path(), "p.rego", text);
    let daypass = ground.daypass(&["--policy", &policy]);
    let open = format!("{EXT_AUTHZ}              failure_mode_allow: true\n");
    let Some(side) = ground.bare(&daypass.check, &[(EXT_AUTHZ, &open)]) else { return };
    for path in ["/fail", "/type", "/split", "/undefined"] {
        let answer = side.get(path, "");
        assert_eq!(answer.status, 500, "{path}: {}", answer.body);
        assert!(answer.body.contains("policy_error"), "{path}: {}", answer.body);
    }
    assert_eq!(ground.mirror.take(), [""; 0]);
}

/// Grants that cannot be known are a denial with 503, not an error that could be let through.
#[test]
fn a_daypass_that_cannot_know_denies_even_where_envoy_fails_open() {
    let Some(ground) = Ground::new() else { return };
    let nowhere = format!("redis://127.0.0.1:{}", crate::support::free_port());
    let daypass = ground.daypass(&["--store", &nowhere]);
    let open = format!("{EXT_AUTHZ}              failure_mode_allow: true\n");
    let Some(side) = ground.bare(&daypass.check, &[(EXT_AUTHZ, &open)]) else { return };
    let answer = side.get("/a", "");
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains("stale"), "{}", answer.body);
}
