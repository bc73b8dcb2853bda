//! Mistakes in a configuration that switch the check off, and what a guard behind it makes of them.

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use super::rig::{Changes, EXT_AUTHZ, Ground, HOST, ROUTER};
use crate::support::daypass::write_file;
use crate::support::fake_checker::{Behaviour, FakeChecker, allow};
use crate::support::wait_for;

const GUARD: &str = "          # Last before the router: nothing passes that daypass has not allowed";
/// The route that everything takes.
const APP: &str = "                route: { cluster: upstream, timeout: 0s }\n";
const BARE_APP: &str = "                route: { cluster: upstream }\n";
const DISABLED: &str = r#"                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    disabled: true
"#;

/// Statuses of alice's request, who holds no grant: bare, hardened and guarded, each with a mistake.
fn with_mistake(ground: &Ground, check: &str, mistake: [Changes<'_>; 3]) -> Option<[u16; 3]> {
    let [bare, hardened, guarded] = mistake;
    let sides = [
        ground.bare(check, bare)?,
        ground.shipped("hardened.yaml", check, hardened)?,
        ground.shipped("guarded.yaml", check, guarded)?,
    ];
    Some(sides.map(|side| side.get("/open", "").status))
}

#[test]
fn a_route_without_a_check_is_caught() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let [bare, ours] = [BARE_APP, APP].map(|route| format!("{route}{DISABLED}"));
    let mistake: [Changes<'_>; 3] = [&[(BARE_APP, &bare)], &[(APP, &ours)], &[(APP, &ours)]];
    let Some(found) = with_mistake(&ground, &daypass.check, mistake) else { return };
    assert_eq!(found, [200, 200, 403]);
    assert_eq!(ground.mirror.take().len(), 2);
}

/// A filter behind the check sends the request elsewhere: decided was about an open path, served is another one.
#[test]
fn a_route_that_is_chosen_anew_after_the_check_is_caught() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let lua = r#"          - name: envoy.filters.http.lua
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
              default_source_code:
                inline_string: |
                  function envoy_on_request(handle)
                    handle:headers():replace(":path", "/internal")
                    handle:clearRouteCache()
                  end
"#;
    // An open route, beside those that are checked.
    let route = |app: &str| {
        format!("{app}{DISABLED}").replace("cluster: upstream", "cluster: upstream, prefix_rewrite: /open")
    };
    let (bare_open, open) = (route(BARE_APP), route(APP));
    let first = "              routes:\n";
    let before = |open: &str| format!("{first}              - match: {{ path: /open }}\n{open}");
    let (bare_open, open) = (before(&bare_open), before(&open));
    let (at_router, at_guard) = (format!("{lua}{ROUTER}"), format!("{lua}{GUARD}"));
    let mistake: [Changes<'_>; 3] = [
        &[(first, &bare_open), (ROUTER, &at_router)],
        &[(first, &open), (ROUTER, &at_router)],
        &[(first, &open), (GUARD, &at_guard)],
    ];
    let Some(found) = with_mistake(&ground, &daypass.check, mistake) else { return };
    assert_eq!(found, [200, 200, 403]);
    let served = ground.mirror.take();
    assert!(served.len() == 2 && served.iter().all(|head| head.starts_with("GET /internal")), "{served:?}");
}

/// `filter_enabled` at 0 %: the bare Envoy passes everything, `deny_at_disable` denies it.
#[test]
fn a_check_that_is_switched_off_at_runtime_denies() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let off = format!(
        "{EXT_AUTHZ}              filter_enabled: {{ default_value: {{ numerator: 0 }}, runtime_key: daypass.enabled }}\n"
    );
    let change: Changes<'_> = &[(EXT_AUTHZ, &off)];
    let Some(found) = with_mistake(&ground, &daypass.check, [change; 3]) else { return };
    assert_eq!(found, [200, 503, 503]);
}

/// A mode for trying out that was left on: nothing is denied, and the guard does.
#[test]
fn a_shadow_mode_that_was_left_on_is_caught() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    let shadow = format!("{EXT_AUTHZ}              shadow_mode: true\n");
    let change: Changes<'_> = &[(EXT_AUTHZ, &shadow)];
    let Some(found) = with_mistake(&ground, &daypass.check, [change; 3]) else { return };
    assert_eq!(found, [200, 200, 403]);
}

/// An empty message, an allow without metadata and one with the reason of a denial are not what daypass sends.
#[test]
fn an_allow_that_daypass_cannot_have_sent_is_caught() {
    let Some(ground) = Ground::new() else { return };
    let checker = FakeChecker::start();
    let Some(guarded) = ground.shipped("guarded.yaml", &checker.address, &[]) else { return };
    let Some(hardened) = ground.shipped("hardened.yaml", &checker.address, &[]) else { return };
    let saying = |reason: &str| {
        let reason = Value { kind: Some(Kind::StringValue(reason.into())) };
        let metadata = Struct { fields: [("reason".to_owned(), reason)].into() };
        Behaviour::Answer(Box::new(CheckResponse { dynamic_metadata: Some(metadata), ..allow() }))
    };
    for (behaviour, on_hardened, on_guarded) in [
        (Behaviour::Message(Vec::new()), 200, 403),
        (Behaviour::Http(200, "text/html"), 200, 403),
        (Behaviour::Answer(Box::new(allow())), 200, 403),
        (saying("no_grant"), 200, 403),
        (saying("dry_run"), 200, 403),
        (saying("grant"), 200, 200),
        (saying("policy"), 200, 200),
    ] {
        checker.set(behaviour.clone());
        assert_eq!(hardened.get("/a", "").status, on_hardened, "{behaviour:?}");
        assert_eq!(guarded.get("/a", "").status, on_guarded, "{behaviour:?}");
    }
    // Who denied is in the access log.
    wait_for("the access log", || guarded.envoy.log().contains("rbac_access_denied").then_some(()));
}

/// What daypass allows passes the guard, with a grant and by policy; so does a policy for OPA-Envoy with the requirement that the
/// configuration's comment names.
#[test]
fn what_daypass_allows_passes_the_guard() {
    let Some(ground) = Ground::new() else { return };
    let settings = write_file(ground.dir.path(), "d.yaml", "health_paths: [/ready]\n");
    let daypass = ground.daypass(&["--config", &settings]);
    let Some(guarded) = ground.shipped("guarded.yaml", &daypass.check, &[]) else { return };
    assert_eq!(guarded.get("/a", "").status, 403);
    assert_eq!(guarded.get("/ready", "").status, 200);
    daypass.grant(&["create", "--subject", "user:alice", "--host", HOST, "--ttl", "5m"]).unwrap();
    assert_eq!(guarded.get("/a", "").status, 200);
    // Of the route without a check, Envoy's own answer.
    assert_eq!(guarded.wire.request("GET", "/healthz", HOST, "").status, 200);
}

#[test]
fn a_policy_for_opa_envoy_passes_the_guard_that_its_comment_describes() {
    let Some(ground) = Ground::new() else { return };
    let policy = write_file(
        ground.dir.path(),
        "p.rego",
        "package envoy.authz\ndefault allow := false\nallow if input.attributes.request.http.path == \"/a\"",
    );
    let daypass = ground.daypass(&["--policy", &policy]);
    let instead = (
        "path: [{ key: reason }]\n                          value: { string_match: { exact: policy } }",
        "path: [{ key: decision_id }]\n                          value: { present_match: true }",
    );
    let Some(guarded) = ground.shipped("guarded.yaml", &daypass.check, &[instead]) else { return };
    let Some(strict) = ground.shipped("guarded.yaml", &daypass.check, &[]) else { return };
    wait_for("the policy", || (guarded.get("/a", "").status == 200).then_some(()));
    assert_eq!(strict.get("/a", "").status, 403);
    assert_eq!(guarded.get("/b", "").status, 403);
}

/// guarded.yaml is hardened.yaml, and the guard.
#[test]
fn the_guard_is_all_that_the_guarded_configuration_adds() {
    let read = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy").join(name);
        let text = std::fs::read_to_string(path).unwrap();
        text[text.find("\nadmin:").unwrap()..].to_owned()
    };
    let (hardened, mut rest) = (read("hardened.yaml"), read("guarded.yaml"));
    for (start, end) in [
        (GUARD, ROUTER),
        ("                  # Empty rules: the guard", "              - name: orders\n                match"),
    ] {
        let from = rest.find(start).unwrap();
        let to = from + rest[from..].find(end).unwrap();
        assert!(rest[from..to].contains("rbac"));
        rest.replace_range(from..to, "");
    }
    assert_eq!(rest, hardened);
}
