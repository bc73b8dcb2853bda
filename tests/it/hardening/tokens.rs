//! Tokens that are none, or not for us.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::rig::{BARE, Findings, Ground, HOST, Pair};

/// A token with this header and these claims, signed with the key of the test or another.
fn token(header: &Value, claims: &Value, key: &[u8]) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    let signature = BASE64URL_NOPAD.encode(ring::hmac::sign(&key, signed.as_bytes()).as_ref());
    format!("{signed}.{signature}")
}

fn key(pair: &Pair) -> Vec<u8> {
    let text = std::fs::read_to_string(pair.ground.keys().join("jwks.json")).unwrap();
    let keys: Value = serde_json::from_str(&text).unwrap();
    BASE64URL_NOPAD.decode(keys["keys"][0]["k"].as_str().unwrap().as_bytes()).unwrap()
}

#[test]
fn only_a_token_for_us_that_ends_names_somebody() {
    let Some(pair) = Pair::start() else { return };
    let key = key(&pair);
    let now = jiff::Timestamp::now().as_second();
    let hs256 = json!({"alg": "HS256", "kid": "demo"});
    let good = json!({"iss": "https://idp.example", "aud": "daypass-demo", "sub": "alice", "exp": now + 600});
    let but = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token(&hs256, &claims, &key)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        token(&hs256, &claims, &key)
    };
    let unsigned = {
        let whole = token(&json!({"alg": "none"}), &good, &key);
        format!("{}.", whole.rsplit_once('.').unwrap().0)
    };
    let whole = token(&hs256, &good, &key);
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let mut findings = Findings::default();
    for (what, headers, bare, hardened) in [
        ("good", bearer(&whole), 200, 200),
        ("none", String::new(), 401, 401),
        ("empty", bearer(""), 401, 401),
        ("nonsense", bearer("a.b.c"), 401, 401),
        ("alg none", bearer(&unsigned), 401, 401),
        ("without its signature", bearer(&format!("{}.", whole.rsplit_once('.').unwrap().0)), 401, 401),
        ("another key", bearer(&token(&hs256, &good, b"another key of thirty-two bytes.")), 401, 401),
        ("another algorithm", bearer(&token(&json!({"alg": "RS256", "kid": "demo"}), &good, &key)), 401, 401),
        ("expired", bearer(&but("exp", json!(now - 120))), 401, 401),
        ("not yet", bearer(&but("nbf", json!(now + 600))), 401, 401),
        ("another issuer", bearer(&but("iss", json!("https://evil.example"))), 401, 401),
        ("no issuer", bearer(&without("iss")), 401, 401),
        ("another audience", bearer(&but("aud", json!("another-service"))), 200, 403),
        ("no audience", bearer(&without("aud")), 200, 403),
        ("no end", bearer(&without("exp")), 200, 401),
        ("within the skew", bearer(&but("exp", json!(now - 30))), 200, 401),
        ("two", format!("{}{}", bearer(&whole), bearer(&whole)), 401, 401),
        ("two, the second bad", format!("{}{}", bearer(&whole), bearer("a.b.c")), 401, 401),
        ("basic", "authorization: Basic YTpi\r\n".to_owned(), 401, 401),
    ] {
        for (name, side, expected) in [("bare", &pair.bare, bare), ("hardened", &pair.hardened, hardened)] {
            let found = side.wire.request("GET", "/a", HOST, &headers).status;
            findings.compare(&format!("{name}: {what}"), &found.to_string(), &expected.to_string());
        }
    }
    // In a URL, where every log has it.
    for (name, side, expected) in [("bare", &pair.bare, "200"), ("hardened", &pair.hardened, "401")] {
        let found = side.wire.request("GET", &format!("/a?access_token={whole}"), HOST, "").status;
        findings.compare(&format!("{name}: in the query"), &found.to_string(), expected);
    }
    findings.check();
}

/// The claims that a check carries are the verified ones, under the name that daypass looks for, and nobody else's.
#[test]
fn claims_come_from_the_token_alone() {
    let Some(pair) = Pair::start() else { return };
    for side in [&pair.bare, &pair.hardened] {
        pair.checker.take();
        let forged = "x-jwt-payload: eyJzdWIiOiJib2IifQ\r\nx-user: bob\r\n";
        assert_eq!(side.get("/a", forged).status, 200);
        let context = pair.checker.take().pop().unwrap().attributes.unwrap().metadata_context.unwrap();
        let text = format!("{:?}", context.filter_metadata);
        assert!(text.contains("alice") && !text.contains("bob"), "{text}");
    }
}

/// Without the namespace, or with the check before the token is verified, there are no claims, and nobody is anybody.
#[test]
fn without_verified_claims_nobody_is_anybody() {
    let Some(ground) = Ground::new() else { return };
    let daypass = ground.daypass(&[]);
    daypass.grant(&["create", "--subject", "user:alice", "--host", HOST, "--ttl", "5m"]).unwrap();
    let authz = section(
        BARE,
        "          - name: envoy.filters.http.ext_authz",
        "          - name: envoy.filters.http.router",
    );
    let jwt = section(
        BARE,
        "          - name: envoy.filters.http.jwt_authn",
        "          - name: envoy.filters.http.ext_authz",
    );
    let swapped = BARE.replace(&format!("{jwt}{authz}"), &format!("{authz}{jwt}"));
    let namespace = "              metadata_context_namespaces: [envoy.filters.http.jwt_authn]\n";
    let unnamed = BARE.replace(namespace, "");
    assert!(swapped != BARE && unnamed != BARE);
    for (text, expected) in [(BARE, 200), (swapped.as_str(), 403), (unnamed.as_str(), 403)] {
        let Some(side) = ground.text(text, &daypass.check) else { return };
        let answer = side.get("/a", "");
        assert_eq!(answer.status, expected, "{}", answer.body);
        assert!(expected == 200 || answer.body.contains("\"principals\":[]"), "{}", answer.body);
    }
}

/// From the one line up to the other.
fn section<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap();
    &text[start..start + text[start..].find(to).unwrap()]
}
