use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    NameConstraints, SanType,
};

use super::*;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn arcs<const N: usize>(numbers: [u64; N]) -> Value {
    Value::from(numbers.map(Value::from).to_vec())
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.subject_alt_names.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn root(params: CertificateParams) -> Authority {
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

fn below(parent: &Authority, params: CertificateParams) -> Authority {
    let key = KeyPair::generate().unwrap();
    let pem = params.signed_by(&key, &parent.issuer).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

fn verifies(certificates: &[&Authority], options: &str) -> bool {
    let text: String = certificates.iter().map(|authority| authority.pem.as_str()).collect();
    let options = crate::policy::json::parse(options).unwrap();
    let answer = parse_and_verify_with_options(&Value::from(text), &options).unwrap();
    answer.as_array().unwrap()[0] == Value::Bool(true)
}

#[test]
fn a_chain_is_checked_at_every_link() {
    let root = root(authority_params("root"));
    let middle = below(&root, authority_params("middle"));
    let leaf = below(&middle, params("leaf.example"));
    assert!(verifies(&[&root, &middle, &leaf], "{}"));
    assert!(!verifies(&[&root, &leaf], "{}"), "a link is missing");
    assert!(!verifies(&[&middle, &root, &leaf], "{}") || verifies(&[&middle, &leaf], "{}"));
    assert!(!verifies(&[&leaf], "{}"), "a chain has two");
    let stranger = self::root(authority_params("root"));
    assert!(!verifies(&[&stranger, &middle, &leaf], "{}"), "another root of the same name");
    let no_authority = below(&root, params("middle"));
    let child = below(&no_authority, params("leaf.example"));
    assert!(!verifies(&[&root, &no_authority, &child], "{}"), "a leaf signs nothing");
    let mut short = authority_params("root");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let short = self::root(short);
    let middle = below(&short, authority_params("middle"));
    assert!(verifies(&[&short, &middle], "{}"));
    assert!(!verifies(&[&short, &middle, &below(&middle, params("leaf.example"))], "{}"), "too long a path");
}

#[test]
fn options_narrow_what_verifies() {
    let root = root(authority_params("root"));
    let mut client = params("leaf.example");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    client.subject_alt_names.push(SanType::IpAddress("10.1.2.3".parse().unwrap()));
    let leaf = below(&root, client);
    let check = |options: &str| verifies(&[&root, &leaf], options);
    assert!(!check("{}"), "for servers, unless told otherwise");
    assert!(check(r#"{"KeyUsages":["KeyUsageClientAuth"]}"#));
    assert!(check(r#"{"KeyUsages":["KeyUsageAny"],"MaxConstraintComparisons":5}"#));
    for (name, expected) in [
        ("leaf.example", true),
        ("LEAF.example.", true),
        ("other.example", false),
        ("10.1.2.3", true),
        ("[10.1.2.4]", false),
        ("-", false),
    ] {
        let options = format!(r#"{{"KeyUsages":["KeyUsageAny"],"DNSName":"{name}"}}"#);
        assert_eq!(check(&options), expected, "{name}");
    }
    assert!(!check(r#"{"KeyUsages":["KeyUsageAny"],"CurrentTime":0}"#), "not yet");
    let text = Value::from(format!("{}{}", root.pem, leaf.pem));
    for wrong in [r#"{"KeyUsages":["x"]}"#, r#"{"CurrentTime":1.5}"#, r#"{"Other":1}"#, r#"{"DNSName":1}"#] {
        let wrong = crate::policy::json::parse(wrong).unwrap();
        assert!(parse_and_verify_with_options(&text, &wrong).is_err());
    }
}

#[test]
fn constraints_on_names_bind_those_below() {
    let mut constrained = authority_params("root");
    constrained.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example".to_owned())],
        excluded_subtrees: vec![GeneralSubtree::DnsName("secret.example".to_owned())],
    });
    let root = root(constrained);
    for (name, expected) in
        [("leaf.example", true), ("Example", true), ("leafexample", false), ("a.secret.example", false)]
    {
        let leaf = below(&root, params(name));
        assert_eq!(verifies(&[&root, &leaf], "{}"), expected, "{name}");
        assert!(!verifies(&[&root, &leaf], r#"{"MaxConstraintComparisons":1}"#), "there are two");
    }
}

#[test]
fn an_exclusion_holds_for_every_form_of_a_name() {
    let mut constrained = authority_params("root");
    constrained.name_constraints = Some(NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![GeneralSubtree::DnsName("secret.example.com".to_owned())],
    });
    let root = root(constrained);
    for name in ["secret.example.com.", "a.secret.example.com.", "*.example.com.", "*.example.com"] {
        let leaf = below(&root, params(name));
        assert!(!verifies(&[&root, &leaf], "{}"), "{name}");
        assert!(!verifies(&[&root, &leaf], r#"{"DNSName":"secret.example.com"}"#), "{name}");
    }
    assert!(verifies(&[&root, &below(&root, params("*.a.example.com"))], "{}"));
}

#[test]
fn certificates_that_sign_each_other_end() {
    let root = root(authority_params("root"));
    let loops: Vec<_> = (0..40).map(|_| below(&root, authority_params("root"))).collect();
    let leaf = below(&loops[0], params("leaf.example"));
    let stranger = self::root(authority_params("stranger"));
    let mut all = vec![&stranger];
    all.extend(&loops);
    all.push(&leaf);
    assert!(!verifies(&all, "{}"));
}

#[test]
fn members_are_named_and_typed_as_in_go() {
    let mut leaf = params("leaf.example");
    leaf.subject_alt_names.push(SanType::URI("spiffe://example/a?b#c".try_into().unwrap()));
    let leaf = root(leaf);
    let parsed = parse_certificates(&Value::from(leaf.pem.as_str())).unwrap();
    let certificate = &parsed[0];
    assert_eq!(certificate["Version"], Value::from(3_u64));
    assert_eq!(certificate["SignatureAlgorithm"], Value::from(10_u64));
    assert_eq!(certificate["PublicKeyAlgorithm"], Value::from(3_u64));
    assert_eq!(certificate["NotBefore"], Value::from("1975-01-01T00:00:00Z"));
    assert_eq!(certificate["DNSNames"], Value::from(vec![Value::from("leaf.example")]));
    assert_eq!(certificate["EmailAddresses"], Value::Null);
    assert_eq!(certificate["URIStrings"], Value::from(vec![Value::from("spiffe://example/a?b#c")]));
    let uri = &certificate["URIs"][0];
    let parts = ["Scheme", "Host", "Path", "RawQuery", "Fragment"].map(|part| uri[part].clone());
    assert_eq!(parts, ["spiffe", "example", "/a", "b", "c"].map(Value::from));
    assert_eq!(certificate["Subject"]["Names"][0]["Type"], arcs([2, 5, 4, 3]));
    assert_eq!(certificate["PublicKey"]["Curve"], shape::object([]));
}

#[test]
fn a_request_and_a_key_keep_their_parts() {
    let key = KeyPair::generate().unwrap();
    let request = params("leaf.example").serialize_request(&key).unwrap().pem().unwrap();
    let parsed = request::parse(&Value::from(request)).unwrap();
    assert_eq!(parsed["DNSNames"], Value::from(vec![Value::from("leaf.example")]));
    assert_eq!(parsed["Version"], Value::from(0_u64));
    assert_eq!(parsed["Attributes"][0]["Type"], arcs([1, 2, 840, 113_549, 1, 9, 14]));
    let pem = Value::from(key.serialize_pem());
    let keys = keys::parse_private_keys(&pem).unwrap();
    assert_eq!(keys[0]["X"], parsed["PublicKey"]["X"]);
    assert_eq!(keys::parse_rsa_private_key(&pem).unwrap()["kty"], Value::from("EC"));
    let certificate = Value::from(params("leaf.example").self_signed(&key).unwrap().pem());
    assert!(keys::parse_keypair(&certificate, &pem).is_ok());
    let other = Value::from(KeyPair::generate().unwrap().serialize_pem());
    assert!(keys::parse_keypair(&certificate, &other).is_err());
}

#[test]
fn broken_certificates_only_fail() {
    let leaf = root(params("leaf.example"));
    let der = crate::jws::pem::Block::first(&leaf.pem).unwrap().0.bytes;
    for at in 0..der.len() {
        for change in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut broken = der.clone();
            broken[at] ^= change;
            let text = Value::from(crate::jws::base64::encode(&broken));
            let _ = parse_certificates(&text);
        }
        let cut = Value::from(crate::jws::base64::encode(&der[..at]));
        assert!(at == 0 || parse_certificates(&cut).is_err(), "{at}");
    }
}
