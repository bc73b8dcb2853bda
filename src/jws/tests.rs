use super::*;

fn jwk(text: &str) -> Jwk {
    jwk::parse_set(text).unwrap().remove(0)
}

/// A key of RFC 8037, and those of RFC 7517 and 7515 for the curves.
const ED25519: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;
const P521: &str = r#"{"kty":"EC","crv":"P-521",
    "x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
    "y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    "d":"AY5pb7A0UFiB3RELSD64fTLOSV_jazdF7fLYyuTw8lOfRhWg6Y6rUrPAxerEzgdRhajnu0ferB0d53vM9mE15j2C"}"#;

#[test]
fn a_signature_verifies_with_its_key_and_its_algorithm_alone() {
    let (ed, p256, p521) = (jwk(ED25519), jwk(P256), jwk(P521));
    let secret = Jwk::unnamed(Key::Secret(b"secret".to_vec()));
    let all = [
        (Algorithm::EdDsa, &ed),
        (Algorithm::Ecdsa(Hash::Sha256), &p256),
        (Algorithm::Ecdsa(Hash::Sha512), &p521),
        (Algorithm::Hmac(Hash::Sha384), &secret),
    ];
    for (algorithm, signer) in all {
        let signature = sign(algorithm, &signer.key, b"input").unwrap();
        for (other, key) in all {
            let is_same = other == algorithm;
            assert_eq!(verify(other, &key.key, b"input", &signature), is_same, "{algorithm:?} {other:?}");
            assert_eq!(verify(algorithm, &key.key, b"input", &signature), is_same, "{algorithm:?} {other:?}");
        }
        assert!(!verify(algorithm, &signer.key, b"other", &signature));
        let (short, long) = (&signature[1..], [signature.as_slice(), &[0]].concat());
        assert!(!verify(algorithm, &signer.key, b"input", short));
        assert!(!verify(algorithm, &signer.key, b"input", &long));
        assert!(!verify(algorithm, &signer.key, b"input", &[]));
    }
}

#[test]
fn an_ecdsa_signature_has_fixed_length() {
    let key = jwk(P256).key;
    let signature = sign(Algorithm::Ecdsa(Hash::Sha256), &key, b"input").unwrap();
    let (r, s) = signature.split_at(32);
    let integer = |bytes: &[u8]| {
        let bytes = der::without_leading_zeros(bytes);
        let sign = if bytes[0] >= 0x80 { vec![0] } else { vec![] };
        let length = u8::try_from(bytes.len() + sign.len()).unwrap();
        [&[2, length], sign.as_slice(), bytes].concat()
    };
    let both = [integer(r), integer(s)].concat();
    let der = [&[0x30, u8::try_from(both.len()).unwrap()], both.as_slice()].concat();
    assert!(!verify(Algorithm::Ecdsa(Hash::Sha256), &key, b"input", &der));
}

#[test]
fn a_public_key_is_no_secret() {
    let pem = rcgen::KeyPair::generate().unwrap().public_key_pem();
    let forged =
        sign(Algorithm::Hmac(Hash::Sha256), &Key::Secret(pem.clone().into_bytes()), b"input").unwrap();
    let keys = keys_of(&pem).unwrap();
    assert_eq!(keys.len(), 1);
    assert!(!verify(Algorithm::Hmac(Hash::Sha256), &keys[0].key, b"input", &forged));
    let empty = Key::Secret(Vec::new());
    assert!(sign(Algorithm::Hmac(Hash::Sha256), &empty, b"input").is_err());
    assert!(!verify(Algorithm::Hmac(Hash::Sha256), &empty, b"input", &forged));
}

#[test]
fn numbers_that_are_no_key_only_fail() {
    let long = base64::encode_url(&[0xff; key::MAX_RSA_BYTES]);
    let beyond = base64::encode_url(&[0xff; key::MAX_RSA_BYTES + 1]);
    for (n, e) in
        [(long.as_str(), long.as_str()), ("AA", "AQAB"), ("", ""), (long.as_str(), "AA"), ("AQ", "AQ")]
    {
        let key = jwk(&format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"}}"#));
        assert!(!verify(Algorithm::RsaPkcs1(Hash::Sha256), &key.key, b"input", &[1; 256]));
        assert!(!verify(Algorithm::RsaPss(Hash::Sha512), &key.key, b"input", &[]));
    }
    assert!(jwk::parse_set(&format!(r#"{{"kty":"RSA","n":"{beyond}","e":"AQAB"}}"#)).is_err());
    for primes in [r#""p":"","q":"""#, r#""p":"AQ","q":"AQ""#, r#""p":"Ag","q":"Ag""#] {
        let key = jwk(&format!(r#"{{"kty":"RSA","n":"{long}","e":"AQAB","d":"AQ",{primes}}}"#));
        assert!(sign(Algorithm::RsaPkcs1(Hash::Sha256), &key.key, b"input").is_err());
    }
    let off_curve = jwk(r#"{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}"#);
    assert!(!verify(Algorithm::Ecdsa(Hash::Sha256), &off_curve.key, b"input", &[1; 64]));
    for broken in [
        "{}",
        "[]",
        r#"{"kty":"EC","crv":"P-256","x":"AQ"}"#,
        r#"{"kty":"EC","crv":"secp256k1","x":"AQ","y":"AQ"}"#,
        r#"{"kty":"RSA","n":"AQ"}"#,
        r#"{"kty":"OKP","crv":"Ed25519","d":"AQ","x":"AQ"}"#,
        r#"{"kty":"unknown"}"#,
        r#"{"keys":[1]}"#,
    ] {
        assert!(keys_of(broken).is_err(), "{broken}");
    }
}

#[test]
fn a_set_leaves_out_what_is_not_for_signatures() {
    let set = r#"{"keys":[{"kty":"new"},{"kty":"oct","k":"AQ","alg":"A128KW","kid":"a"},{"kty":"oct","k":"AQ","kid":"b"}]}"#;
    let keys = keys_of(set).unwrap();
    assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(keys_of(r#"{"keys":[]}"#).unwrap().len(), 0);
    // Kept keys are the right ones however many other texts came by.
    for number in 0..3 * MAX_CACHED_SETS {
        let text = format!(r#"{{"kty":"oct","k":"AQ","kid":"{number}"}}"#);
        assert_eq!(keys_of(&text).unwrap()[0].id, number.to_string());
        assert_eq!(keys_of(set).unwrap()[0].id, "b");
    }
    PARSED.with_borrow(|sets| assert_eq!(sets.len(), MAX_CACHED_SETS));
}
