use std::collections::BTreeMap;

use super::*;

const SECRET: &str = "secret";

fn object_of(members: &[(&str, Value)]) -> Value {
    let members = members.iter().map(|(name, value)| (Value::from(*name), value.clone()));
    Value::from(members.collect::<BTreeMap<_, _>>())
}

fn token(header: &str, payload: &str) -> String {
    let signed =
        format!("{}.{}", base64::encode_url(header.as_bytes()), base64::encode_url(payload.as_bytes()));
    let key = Key::Secret(SECRET.as_bytes().to_vec());
    let signature = jws::sign(Hmac(Sha256), &key, signed.as_bytes()).unwrap();
    format!("{signed}.{}", base64::encode_url(&signature))
}

fn checked(token: &str, constraints: &[(&str, Value)]) -> Outcome {
    let mut members = vec![("secret", Value::from(SECRET))];
    members.extend(constraints.iter().cloned());
    decode_verify::decode_verify(&Value::from(token), &object_of(&members))
}

fn is_valid(token: &str, constraints: &[(&str, Value)]) -> bool {
    checked(token, constraints).unwrap().as_array().unwrap()[0] == Value::Bool(true)
}

const HS256: &str = r#"{"alg":"HS256"}"#;

#[test]
fn constraints_hold_claim_by_claim() {
    let text = |text: &str| Value::from(text);
    for (payload, constraints, expected) in [
        ("{}", vec![], true),
        (r#"{"aud":"a"}"#, vec![], false),
        (r#"{"aud":"a"}"#, vec![("aud", text("a"))], true),
        (r#"{"aud":["b","a"]}"#, vec![("aud", text("a"))], true),
        (r#"{"aud":["b",1]}"#, vec![("aud", text("a"))], false),
        (r#"{"aud":{}}"#, vec![("aud", text("a"))], false),
        ("{}", vec![("aud", text("a"))], false),
        ("{}", vec![("iss", text("a"))], false),
        (r#"{"iss":1}"#, vec![("iss", text("a"))], false),
        (r#"{"iss":"a"}"#, vec![("iss", text("a"))], true),
        (r#"{"iss":"a"}"#, vec![], true),
        ("{}", vec![("alg", text("HS512"))], false),
        (r#"{"exp":2}"#, vec![("time", Value::from(2_000_000_000_u64))], false),
        (r#"{"exp":2}"#, vec![("time", Value::from(1_999_999_999_u64))], true),
        (r#"{"nbf":2}"#, vec![("time", Value::from(1_999_999_999_u64))], false),
        (r#"{"nbf":2}"#, vec![("time", Value::from(2_000_000_000_u64))], true),
        (r#"{"exp":99999999999999999999}"#, vec![], true),
        (r#"{"exp":1}"#, vec![], false),
        (r#"{"exp":4102444800}"#, vec![], true),
    ] {
        assert_eq!(is_valid(&token(HS256, payload), &constraints), expected, "{payload} {constraints:?}");
    }
    for (payload, constraints) in [
        (r#"{"exp":"2"}"#, vec![]),
        (r#"{"nbf":null}"#, vec![]),
        ("[]", vec![]),
        ("{}", vec![("audience", text("a"))]),
        ("{}", vec![("aud", Value::from(1_u64))]),
        ("{}", vec![("time", Value::from(-1_i64))]),
        ("{}", vec![("cert", text(r#"{"keys":[]}"#))]),
    ] {
        assert!(checked(&token(HS256, payload), &constraints).is_err(), "{payload} {constraints:?}");
    }
}

#[test]
fn headers_do_not_talk_their_way_past_the_key() {
    for (header, expected) in [
        (HS256, true),
        (r#"{"alg":"HS256","crit":["exp"]}"#, true),
        (r#"{"alg":"HS256","crit":["x"],"x":1}"#, false),
        (r#"{"alg":"none"}"#, false),
        (r#"{"alg":"hs256"}"#, false),
        (r#"{"alg":""}"#, false),
        (r#"{"alg":"HS384"}"#, false),
        (r#"{"alg":"RS256"}"#, false),
        (r#"{"alg":"€"}"#, false),
        ("{}", false),
    ] {
        assert_eq!(is_valid(&token(header, "{}"), &[]), expected, "{header}");
    }
    let unsigned = format!("{}.{}.", base64::encode_url(br#"{"alg":"none"}"#), base64::encode_url(b"{}"));
    assert!(!is_valid(&unsigned, &[]));
    for header in [r#"{"alg":1}"#, r#"{"alg":"HS256","crit":[]}"#, r#"{"alg":"HS256","kid":2}"#, "1", "{"] {
        assert!(checked(&token(header, "{}"), &[]).is_err(), "{header}");
    }
}

#[test]
fn a_token_in_a_token_counts_if_both_are_signed() {
    let nested = r#"{"alg":"HS256","cty":"jwt"}"#;
    let inner = token(HS256, r#"{"a":1}"#);
    assert!(is_valid(&token(nested, &inner), &[]));
    assert!(!is_valid(&token(nested, &inner[..inner.len() - 4]), &[]));
    let mut deep = inner;
    for _ in 0..20 {
        deep = token(nested, &deep);
    }
    assert!(is_valid(&deep, &[]));
    assert!(decode(&Value::from(deep)).is_err(), "`decode` knows the upper-case form alone");
}

#[test]
fn hostile_tokens_only_fail() {
    let deep = token(HS256, &"[".repeat(1 << 20));
    let dots = ".".repeat(1 << 20);
    let long = token(HS256, &format!(r#"{{"a":"{}"}}"#, "a".repeat(1 << 20)));
    assert!(is_valid(&long, &[]));
    for text in [deep.as_str(), &dots, "", ".", "..", "...", "a.b", "é.é.é", "e30.e30.A"] {
        let value = Value::from(text);
        assert!(decode(&value).is_err() || text == "..", "{}", text.len());
        for builtin in BUILTINS.iter().filter(|builtin| builtin.name.contains("verify_")) {
            let _ = builtin.call(&[value.clone(), Value::from(r#"{"keys":[]}"#)]);
        }
        let _ = checked(text, &[]);
    }
}

#[test]
fn what_is_signed_here_verifies_here() {
    let key = r#"{"kty":"oct","k":"c2VjcmV0"}"#;
    let headers = object_of(&[("alg", Value::from("HS256"))]);
    let payload =
        object_of(&[("a", Value::from("<é\u{1}>")), ("n", Value::from(1.5)), ("s", Value::new_set())]);
    let key_value = json::parse(key).unwrap();
    let made = sign::encode_sign(&headers, &payload, &key_value).unwrap();
    let made = made.as_string().unwrap().to_string();
    let compact = Compact::parse(&made).unwrap();
    assert_eq!(payload_text(&compact).unwrap(), r#"{"a":"\u003cé\u0001\u003e","n":1.5,"s":[]}"#);
    assert!(is_valid(&made, &[]));
    let raw = |headers: &str, payload: &str, key: &str| {
        let [headers, payload, key] = [headers, payload, key].map(Value::from);
        sign::encode_sign_raw(&headers, &payload, &key)
    };
    assert!(raw(HS256, "{}", key).is_ok());
    assert!(raw(r#"{"alg":"HS256","typ":"text"}"#, "no json", key).is_ok());
    assert!(raw(HS256, "no json", key).is_err());
    assert!(raw(r#"{"alg":"none"}"#, "{}", key).is_err());
    assert!(raw(r#"{"alg":"RS256"}"#, "{}", key).is_err());
    assert!(raw(HS256, "{}", r#"{"keys":[]}"#).is_err());
}
