use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;

fn config() -> IssuerConfig {
    IssuerConfig {
        issuer: "https://idp".to_owned(),
        audiences: vec!["daypass".to_owned(), "other".to_owned()],
        keys: Source::File("/nonexistent".into()),
        user_claim: "sub".to_owned(),
        groups_claim: Some("groups".to_owned()),
        groups: None,
        kind: Kind::User,
        algorithms: super::super::default_algorithms(),
        leeway: SignedDuration::from_secs(30),
    }
}

/// Claims that are good, with changes: null takes one away.
#[expect(clippy::needless_pass_by_value, reason = "it reads better at the call")]
fn with(changes: Value) -> Result<Identity, Reason> {
    let mut claims = json!({"sub": "alice", "aud": "daypass", "exp": NOW + 60});
    let claims = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        claims.remove(name);
        if !value.is_null() {
            claims.insert(name.clone(), value.clone());
        }
    }
    identity(&config(), claims, Timestamp::from_second(NOW).unwrap())
}

#[test]
fn an_issuer_names_what_it_may() {
    let named = |config: &IssuerConfig, claims: Value| {
        let mut all = json!({"sub": "alice", "aud": "daypass", "exp": NOW + 60, "groups": ["a", "b"]});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let found = identity(config, all.as_object().unwrap(), Timestamp::from_second(NOW).unwrap());
        found.map(|found| found.caller.principals().iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let none = IssuerConfig { groups_claim: None, ..config() };
    assert_eq!(named(&none, json!({"none": ["c"], "": "d"})).unwrap(), ["user:alice"]);
    let some = IssuerConfig { groups: Some(vec!["b".to_owned(), "c".to_owned()]), ..config() };
    assert_eq!(named(&some, json!({})).unwrap(), ["user:alice", "group:b"]);

    let by_email = IssuerConfig { user_claim: "email".to_owned(), groups_claim: None, ..config() };
    let verified = json!({"email": "a@x", "email_verified": true});
    assert_eq!(named(&by_email, verified).unwrap(), ["user:a@x"]);
    for unverified in [json!(null), json!(false), json!("true"), json!(1), json!([true])] {
        let claims = json!({"email": "a@x", "email_verified": unverified});
        assert_eq!(named(&by_email, claims), Err(Reason::Unverified));
    }
    assert_eq!(named(&by_email, json!({"email": "a@x"})), Err(Reason::Unverified));
}

#[tokio::test(start_paused = true)]
async fn who_was_refused_too_often_waits_in_a_line() {
    let set = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, set.as_bytes()).unwrap();
    let config = IssuerConfig { keys: Source::File(file.path().to_owned()), ..config() };
    let issuers = Issuers::new(vec![config], Clock::System);
    for keys in issuers.keys() {
        tokio::spawn(keys.follow());
    }
    let encode = |value: Value| base64::encode_url(value.to_string().as_bytes());
    let token = format!(
        "{}.{}.{}",
        encode(json!({"alg": "EdDSA", "kid": "a"})),
        encode(json!({"iss": "https://idp"})),
        base64::encode_url(&[0; 64])
    );
    let ask = async |may_ask| issuers.identify(&token, None, Clock::System.now(), may_ask).await.unwrap_err();
    while ask(true).await == Refusal::NoKeys {
        // The keys are read by a thread, which this clock does not move.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(ask(false).await, Refusal::Nobody(Reason::Signature));
    let turn = issuers.turns.acquire().await.unwrap();
    assert!(matches!(ask(false).await, Refusal::TooMany(_)));
    assert_eq!(ask(true).await, Refusal::Nobody(Reason::Signature));
    drop(turn);
    assert_eq!(ask(false).await, Refusal::Nobody(Reason::Signature));
}

fn names(changes: Value) -> Result<Vec<String>, Reason> {
    with(changes).map(|found| found.caller.principals().iter().map(ToString::to_string).collect())
}

#[test]
fn who_is_named() {
    assert_eq!(names(json!({})).unwrap(), ["user:alice"]);
    let groups = json!({"groups": ["a", "b", "a", "", 1, null, ["c"]]});
    assert_eq!(names(groups).unwrap(), ["user:alice", "group:a", "group:b"]);
    assert_eq!(names(json!({"groups": "a"})).unwrap(), ["user:alice", "group:a"]);
    // A group called like a user is a group.
    assert_eq!(names(json!({"groups": ["user:root"]})).unwrap(), ["user:alice", "group:user:root"]);
    for sub in [json!(null), json!(1), json!(["alice"]), json!({"a": 1})] {
        assert_eq!(names(json!({"sub": sub})), Err(Reason::NoSubject));
    }
    for sub in ["", " alice", "a\u{0}b", "a\nb"] {
        assert_eq!(names(json!({"sub": sub})), Err(Reason::BadPrincipal), "{sub:?}");
    }
    let many = |count: usize| json!({"groups": (0..count).map(|n| n.to_string()).collect::<Vec<_>>()});
    assert_eq!(names(many(MAX_PRINCIPALS - 1)).unwrap().len(), MAX_PRINCIPALS);
    assert_eq!(names(many(MAX_PRINCIPALS)), Err(Reason::TooManyNames));
}

#[test]
fn who_acts() {
    let delegate = |act: Value| with(json!({"act": act})).map(|found| found.delegate.unwrap().to_string());
    assert_eq!(delegate(json!({"sub": "bot"})).unwrap(), "user:bot");
    assert_eq!(delegate(json!({"sub": "bot", "iss": "https://idp"})).unwrap(), "user:bot");
    assert_eq!(delegate(json!({"sub": "spiffe://td/bot"})).unwrap(), "workload:spiffe://td/bot");
    for bad in [json!("bot"), json!({}), json!({"sub": 1}), json!({"sub": ""}), json!([]), json!(null)] {
        let claims = json!({"sub": "alice", "aud": "daypass", "exp": NOW + 60, "act": bad});
        let found = identity(&config(), claims.as_object().unwrap(), Timestamp::from_second(NOW).unwrap());
        assert_eq!(found, Err(Reason::BadDelegate));
    }
    for act in [json!({"sub": "before"}), json!({}), json!(null)] {
        assert_eq!(delegate(json!({"sub": "bot", "act": act})), Err(Reason::SeveralDelegates));
    }
    for issuer in [json!("https://other"), json!(1), json!(null)] {
        assert_eq!(delegate(json!({"sub": "bot", "iss": issuer})), Err(Reason::StrangeDelegate));
    }
}

#[test]
fn who_acts_is_named_as_who_calls() {
    let config = IssuerConfig { user_claim: "email".to_owned(), kind: Kind::Workload, ..config() };
    let named = |claims: Value| {
        let now = Timestamp::from_second(NOW).unwrap();
        identity(&config, claims.as_object().unwrap(), now)
    };
    let claims = |name: &str, act: Value| json!({"email": name, "email_verified": true, "sub": "7", "aud": "daypass", "exp": NOW + 60, "act": act});
    let mut own = claims("a@corp", json!(null));
    own.as_object_mut().unwrap().remove("act");
    let acting = named(claims("bob@corp", json!({"sub": "7", "email": "a@corp"}))).unwrap();
    assert_eq!(acting.delegate.unwrap(), named(own).unwrap().subject);
    assert_eq!(named(claims("bob@corp", json!({"sub": "7"}))), Err(Reason::OtherwiseNamed));
    for bad in [json!({}), json!({"email": 1, "sub": "7"}), json!({"email": "", "sub": "7"})] {
        assert_eq!(named(claims("bob@corp", bad)), Err(Reason::BadDelegate));
    }
}

#[test]
fn when() {
    let found = with(json!({"exp": NOW + 60})).unwrap();
    assert_eq!(found.expires_at, Timestamp::from_second(NOW + 60).ok());
    assert!(with(json!({"exp": NOW - 29})).is_ok());
    assert!(with(json!({"exp": 1_800_000_000.5})).is_ok());
    for past in [json!(NOW - 30), json!(0), json!(-1), json!(-1e300)] {
        let found = with(json!({"exp": past}));
        assert!(matches!(found, Err(Reason::Expired | Reason::Malformed)), "{past} {found:?}");
    }
    assert_eq!(with(json!({"exp": null})), Err(Reason::Endless));
    for odd in [json!("1900000000"), json!(true), json!(1e300), json!([NOW])] {
        assert_eq!(with(json!({"exp": odd})), Err(Reason::Malformed), "{odd}");
    }
    for name in ["nbf", "iat"] {
        assert!(with(json!({name: NOW + 30})).is_ok());
        assert_eq!(with(json!({name: NOW + 31})), Err(Reason::NotYet));
        assert_eq!(with(json!({name: "soon"})), Err(Reason::Malformed));
    }
}

#[test]
fn for_whom() {
    for good in [json!("daypass"), json!(["x", "other"]), json!(["daypass"])] {
        assert!(with(json!({"aud": good})).is_ok());
    }
    for bad in [json!(null), json!("x"), json!(""), json!([]), json!(["daypass", 1]), json!({"daypass": 1})] {
        assert_eq!(with(json!({"aud": bad})), Err(Reason::Audience));
    }
}

fn read(header: &Value, payload: &str) -> Result<(), Reason> {
    let encode = |text: &str| base64::encode_url(text.as_bytes());
    let token = format!("{}.{}.{}", encode(&header.to_string()), encode(payload), encode("signature"));
    Token::read(&token).map(|_| ())
}

#[test]
fn headers_are_read_strictly() {
    for kind in ["JWT", "jwt", "at+jwt", "application/at+jwt", "JOSE"] {
        assert_eq!(read(&json!({"alg": "ES256", "typ": kind}), "{}"), Ok(()), "{kind}");
    }
    for (header, reason) in [
        (json!({}), Reason::Algorithm),
        (json!({"alg": "none"}), Reason::Algorithm),
        (json!({"alg": "None"}), Reason::Algorithm),
        (json!({"alg": ""}), Reason::Algorithm),
        (json!({"alg": "es256"}), Reason::Algorithm),
        (json!({"alg": 1}), Reason::Malformed),
        (json!({"alg": "ES256", "kid": 1}), Reason::Malformed),
        (json!({"alg": "ES256", "typ": "dpop+jwt"}), Reason::Type),
        (json!({"alg": "ES256", "typ": "logout+jwt"}), Reason::Type),
        (json!({"alg": "ES256", "cty": "JWT"}), Reason::Type),
        (json!({"alg": "ES256", "crit": ["b64"], "b64": false}), Reason::Critical),
        (json!({"alg": "ES256", "crit": []}), Reason::Critical),
        (json!("ES256"), Reason::Malformed),
    ] {
        assert_eq!(read(&header, "{}"), Err(reason), "{header}");
    }
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for payload in ["", "[]", "null", "{", "{}x", deep.as_str(), &format!("{{\"a\":{deep}}}")] {
        assert_eq!(read(&json!({"alg": "ES256"}), payload), Err(Reason::Malformed));
    }
    for token in ["..", "a.b", "a.b.c.d", "e30.e30.e30=", "e30=.e30.e30", "e30.e31.e30"] {
        assert!(matches!(Token::read(token), Err(Reason::Malformed | Reason::Algorithm)), "{token}");
    }
}

#[test]
fn a_bound_token_needs_its_key() {
    let certificate = Presented::read(b"whatever");
    let thumbprint = base64::encode_url(certificate.sha256());
    let check = |claims: Value, certificate: Option<&Presented>| {
        check_binding(claims.as_object().unwrap(), certificate)
    };
    let bound = json!({"cnf": {"x5t#S256": thumbprint}});
    assert_eq!(check(json!({}), None), Ok(()));
    assert_eq!(check(bound.clone(), Some(&certificate)), Ok(()));
    assert_eq!(check(bound.clone(), None), Err(Reason::Bound));
    assert_eq!(check(bound, Some(&Presented::read(b"other"))), Err(Reason::Bound));
    for other in [json!({"jkt": "x"}), json!({}), json!(1), json!({"x5t#S256": thumbprint, "jkt": "x"})] {
        assert_eq!(check(json!({"cnf": other}), Some(&certificate)), Err(Reason::Bound));
    }
}
