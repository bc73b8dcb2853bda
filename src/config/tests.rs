//! The configuration file and the flags, from text to `Config`.

use std::fs;

use super::*;

fn load(yaml: &str, args: ServeArgs) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.yaml");
    fs::write(&path, yaml).unwrap();
    let env = |name: &str| (name == "PASS").then(|| "from-env".to_owned());
    let args = ServeArgs { config: Some(path), ..args };
    Config::load_with(&args, &env)
        .map_err(|problems| problems.to_string().replace(&dir.path().display().to_string(), ""))
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("", ServeArgs::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:9191");
    assert_eq!(config.api_listen.unwrap().port(), 9292);
    assert_eq!(config.authz.identity, IdentitySource::defaults());
    assert_eq!(config.max_message_bytes, 4 * 1024 * 1024);
    assert!(matches!(config.store, StoreConfig::Embedded));
}

#[test]
fn reads_everything_and_flags_win() {
    let yaml = "
listen: unix:///run/d.sock
api_listen: 127.0.0.1:1
ops_listen: 127.0.0.1:2
data_dir: /d
store: rediss://u:${PASS}@h:1/3
redis:
  password_file: /p
  sentinel_user: s
  sentinel_password_file: /sp
  require_replicas: 1
  max_lag: 3s
  tls: {ca_file: /ca, cert_file: /cc, key_file: /ck, server_name: redis.internal}
uses: {trust_request_id: true}
key_prefix: '{jit-a}'
max_staleness: 500ms
policy: [a.rego, b]
decision: x/y
health_paths: /healthz
dry_run: true
skip_request_body_parse: true
reflection: true
identity:
  - source: jwt
    user_claim: email
  - source: peer
  - source: xfcc
    trusted_hops: 2
  - source: header
    name: X-User
    kind: user
limits: {check_timeout: 1s, evaluation_timeout: 20ms, settle_timeout: 30ms, drain_timeout: 3s,
  max_concurrent_checks: 5, max_message_bytes: 1000, max_grant_ttl: 8h, max_grants: 7,
  max_grants_per_principal: 3}
stream: {lease: 5m, retry_horizon: 10s}
api:
  tokens_file: /t
  tls: {cert_file: /c, key_file: /k, client_ca_file: /a, client_auth: required}
  rate_limit: {per_second: 7, burst: 9}
  authentication:
    jwt:
      - issuer: https://idp
        audiences: [daypass]
        jwks_url: https://idp/keys
        ca_file: /ca
        user_claim: email
        groups_claim: roles
        kind: workload
        algorithms: [ES256, RS256]
        leeway: 10s
      - {issuer: local, audiences: daypass, jwks_file: /keys.json}
log: {format: json, level: 'info,daypass::store=debug'}
decision_log: {to: stdout, queue: 9}
";
    let args = ServeArgs { listen: Some("127.0.0.1:7".parse().unwrap()), ..ServeArgs::default() };
    let config = load(yaml, args).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:7");
    let StoreConfig::Redis(redis) = &config.store else { panic!("{:?}", config.store) };
    assert_eq!(redis.key_prefix, "{jit-a}");
    assert_eq!((redis.require_replicas, redis.max_lag), (1, Duration::from_secs(3)));
    assert_eq!(redis.tls.server_name.as_deref(), Some("redis.internal"));
    assert!(redis.tls.client.is_some() && redis.sentinel.password_file.is_some());
    assert_eq!(redis.url, "rediss://u:from-env@h:1/3".parse().unwrap());
    assert!(!format!("{config:?}").contains("from-env"));
    assert_eq!(config.policy.paths.len(), 2);
    assert_eq!(config.authz.identity.len(), 4);
    assert_eq!(
        config.authz.identity[3],
        IdentitySource::Header { name: "x-user".into(), kind: crate::principal::Kind::User }
    );
    assert_eq!(config.authz.stream.lease, Some(Duration::from_secs(300)));
    assert_eq!(config.authz.enforcement, Enforcement::DryRun);
    assert_eq!(config.decision_log.unwrap().target, LogTarget::Stdout);
    assert_eq!(config.replica_limits, Limits { grants: 7, grants_per_principal: 3 });
    assert_eq!(config.authz.request_ids, RequestIds::Trusted);
    let api = config.api;
    assert_eq!(api.tls.unwrap().client_ca, Some(("/a".into(), ClientAuth::Required)));
    assert_eq!(api.gate.rate_limit, RateLimit { per_second: 7, burst: 9 });
    let [issuer, local] = api.gate.issuers.as_slice() else { panic!("{:?}", api.gate.issuers) };
    assert_eq!(issuer.audiences, ["daypass"]);
    assert_eq!((issuer.user_claim.as_str(), issuer.groups_claim.as_deref()), ("email", Some("roles")));
    assert_eq!((issuer.kind, issuer.algorithms.len()), (crate::principal::Kind::Workload, 2));
    assert_eq!(issuer.leeway, SignedDuration::from_secs(10));
    assert_eq!((local.user_claim.as_str(), local.leeway), ("sub", SignedDuration::from_secs(30)));
    assert!(local.algorithms.iter().all(|algorithm| !matches!(algorithm, crate::jws::Algorithm::Hmac(_))));
}

#[test]
fn mistakes_in_who_may_call() {
    let yaml = "
api:
  token_file: /t
  tls: {cert_file: /c, key_file: /k, client_auth: maybe}
  rate_limit: {burst: 1}
  authentication:
    jwt:
      - {issuer: a, audiences: [], jwks_file: /k}
      - {issuer: b, audiences: x, jwks_file: /k, jwks_url: https://b}
      - {issuer: c, audiences: x, jwks_url: http://idp.example/k}
      - {issuer: d, audiences: x, jwks_file: /k, algorithms: [none]}
      - {issuer: e, audiences: x, jwks_file: /k, algorithms: [HS256, RS256]}
      - {issuer: f, audiences: x, jwks_url: https://f, algorithms: HS256}
      - {issuer: g, audiences: x, jwks_file: /k, leeway: 2m}
      - {issuer: h, audiences: x, jwks_file: /k, kind: group}
      - {issuer: h, audiences: x, jwks_file: /k, audience: x}
      - {audiences: x, jwks_file: /k}
";
    let problems = load(yaml, ServeArgs::default()).unwrap_err();
    for line in [
        ":3: unknown key `api.token_file`; known here: authentication, rate_limit, tls, tokens_file",
        ":4: api.tls.client_auth: \"maybe\" is neither",
        ":5: api.rate_limit: needs per_second",
        ":8: api.authentication.jwt[0]: needs `audiences`",
        ":9: api.authentication.jwt[1]: needs either jwks_file or jwks_url",
        ":10: api.authentication.jwt[2].jwks_url: \"http://idp.example/k\" is in clear",
        ":11: api.authentication.jwt[3].algorithms: \"none\"",
        ":12: api.authentication.jwt[4]: algorithms: one issuer has secrets",
        ":13: api.authentication.jwt[5]: algorithms: a secret is not fetched",
        ":14: api.authentication.jwt[6].leeway: \"2m\" is not between",
        ":15: api.authentication.jwt[7].kind: \"group\" is neither",
        ":16: unknown key `api.authentication.jwt[8].audience`",
        "the issuer \"h\" is there twice",
        ":17: api.authentication.jwt[9]: needs `issuer`",
    ] {
        assert!(problems.contains(line), "{line}\n{problems}");
    }
}

#[test]
fn reports_all_mistakes_with_their_lines() {
    let yaml = "
listen: 9191
stor: x
store: mysql://h
limits:
  check_timeout: 10
  max_grants: 0
identity:
  - source: cookie
data_dir: ${NOPE}
api_listen: 0.0.0.0:9292
max_staleness: 50ms
redis: {tls: {cert_file: /c}}
";
    let problems = load(yaml, ServeArgs::default()).unwrap_err();
    for line in [
        "/d.yaml:2: listen: an address is IP:PORT",
        "/d.yaml:3: unknown key `stor`; known here: api, api_listen,",
        "--store: `mysql://` is not supported",
        "/d.yaml:6: limits.check_timeout: \"10\" is not a duration",
        "/d.yaml:7: limits.max_grants: \"0\" is not a whole number above 0",
        "/d.yaml:9: identity[0]: `source` is jwt, peer, xfcc, tunnel or header",
        "/d.yaml:10: data_dir: the environment has no NOPE",
        "--api-listen: 0.0.0.0:9292 is not on this machine alone",
        "max_staleness: 50ms is not between",
        "/d.yaml:13: redis.tls: cert_file and key_file belong together",
    ] {
        assert!(problems.contains(line), "{line}\n{problems}");
    }
    assert_eq!(problems.lines().count(), 10, "{problems}");
    assert!(load("a: [", ServeArgs::default()).unwrap_err().contains("/d.yaml:"));
    assert!(load("- a", ServeArgs::default()).unwrap_err().contains("must be a mapping"));
}

#[test]
fn a_cluster_needs_its_keys_in_one_slot() {
    let yaml = |store: &str| format!("store: {store}\nkey_prefix: jit-a\n");
    let refusal = load(&yaml("redis+cluster://h"), ServeArgs::default()).unwrap_err();
    assert!(refusal.contains("has no part in braces"), "{refusal}");
    assert!(load(&yaml("redis://h"), ServeArgs::default()).is_ok());
}

#[test]
fn settings_of_tls_without_tls_are_a_mistake() {
    let yaml = |store: &str| format!("store: {store}\nredis: {{tls: {{ca_file: /ca}}}}\n");
    let refusal = load(&yaml("redis://u:secret@h"), ServeArgs::default()).unwrap_err();
    assert!(refusal.contains("redis://***@h is in clear") && !refusal.contains("secret"), "{refusal}");
    assert!(load(&yaml("rediss://h"), ServeArgs::default()).is_ok());
}

#[test]
fn durations() {
    for (text, millis) in
        [("150ms", 150), ("90s", 90_000), ("15m", 900_000), ("1h30m", 5_400_000), ("8h", 28_800_000)]
    {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "0s", "-1s", "15", "soon"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}
