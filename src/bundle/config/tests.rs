use serde_json::json;

use super::*;

fn parse(document: &Json) -> Result<Config, Vec<String>> {
    Config::parse(document.as_object().unwrap(), Path::new("/data")).map_err(|problems| {
        problems.iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect()
    })
}

fn url(source: &Source) -> (&Service, &str) {
    match &source.origin {
        Origin::Service { service, url } => (service, url.as_str()),
        Origin::File(path) => panic!("{path:?}"),
    }
}

#[test]
fn what_opa_documents() {
    let config = parse(&json!({
        "services": [
            {"name": "acmecorp", "url": "https://example.com/service/v1/", "credentials": {"bearer": {"token": "t0p"}}},
            {"name": "other", "url": "http://user:pw@10.0.0.1:8080", "headers": {"X-Key": "s3cret"},
             "response_header_timeout_seconds": 3, "tls": {"ca_cert": "/ca.pem"},
             "credentials": {"client_tls": {"cert": "/c.pem", "private_key": "/k.pem"}}},
        ],
        "keys": {"global": {"algorithm": "HS256", "key": "hunter2", "scope": "read"}},
        "bundles": {
            "authz": {"service": "acmecorp", "resource": "somedir/bundle.tar.gz", "persist": true,
                      "polling": {"min_delay_seconds": 10, "max_delay_seconds": 20, "long_polling_timeout_seconds": 30},
                      "signing": {"keyid": "global", "scope": "read", "exclude_files": ["*.txt"]},
                      "size_limit_bytes": 1000},
            "team/data": {"service": "other"},
            "local": {"resource": "file:///etc/a%20b.tar.gz", "trigger": "periodic"},
        },
        "labels": {"not": "looked at"},
    }))
    .unwrap();
    let [authz, local, team] = config.sources.as_slice() else { panic!("{config:?}") };
    let (service, address) = url(authz);
    assert_eq!(address, "https://example.com/service/v1/somedir/bundle.tar.gz");
    assert!(matches!(&service.credentials, Credentials::Bearer { scheme, token: Token::Text(token) }
        if scheme == "Bearer" && token.reveal() == "t0p"));
    assert_eq!(service.header_timeout, Duration::from_secs(10));
    assert!(authz.persist && authz.limits.size_bytes == 1000);
    assert_eq!(authz.polling.long_poll, Some(Duration::from_secs(30)));
    assert_eq!((authz.polling.min_delay.as_secs(), authz.polling.max_delay.as_secs()), (10, 20));
    let verification = authz.verification.as_ref().unwrap();
    assert!(verification.is_required && verification.key_id.as_deref() == Some("global"));
    let (service, address) = url(team);
    assert_eq!(address, "http://10.0.0.1:8080/bundles/team/data");
    assert!(matches!(&service.credentials, Credentials::Basic(_)) && service.tls.client.is_some());
    assert!(!team.verification.as_ref().unwrap().is_required, "keys alone demand no signature");
    assert!(matches!(&local.origin, Origin::File(path) if path == Path::new("/etc/a b.tar.gz")));
    assert_eq!(config.persistence_directory, Path::new("/data"));
    let shown = format!("{config:?}");
    for secret in ["t0p", "s3cret", "hunter2", "pw", "dXNlcjpwdw"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}

#[test]
fn defaults_and_the_other_form_of_services() {
    let config = parse(&json!({
        "services": {"acme": {"url": "https://example.com"}},
        "bundles": {"authz": {}},
        "persistence_directory": "/var/opa",
    }))
    .unwrap();
    let [authz] = config.sources.as_slice() else { panic!("{config:?}") };
    assert_eq!(url(authz).1, "https://example.com/bundles/authz");
    assert_eq!(authz.polling, Polling::default());
    assert!(!authz.persist && authz.verification.is_none());
    assert_eq!(authz.limits.size_bytes, DEFAULT_SIZE_BYTES);
    assert_eq!(config.persistence_directory, Path::new("/var/opa"));
    assert!(parse(&json!({})).unwrap().sources.is_empty());
    assert!(parse(&json!({"bundles": null, "services": null})).unwrap().sources.is_empty());
}

#[test]
fn every_mistake_at_once_and_no_secret_among_them() {
    let problems = parse(&json!({
        "services": {
            "a": {"url": "ftp://x", "credentials": {"oauth2": {"client_secret": "s3cret"}}, "type": "oci"},
            "b": {"name": "c", "url": "https://x"},
            "d": {"url": "https://x?token=s3cret", "headers": {"a b": "s3cret", "X": "s3cret\n"}, "typo": 1},
            "e": {"credentials": {"bearer": {"token": "s3cret", "token_path": "/x"}, "client_tls": {"cert": "x"}}},
        },
        "keys": {
            "k": {"algorithm": "HS1", "key": "s3cret"},
            "l": {"key": "s3cret"},
            "m": {"algorithm": "HS256"},
            "n": "s3cret",
        },
        "bundles": {
            "one": {"service": "nowhere"},
            "two": {"service": "a", "polling": {"min_delay_seconds": 5, "max_delay_seconds": 1}},
            "three": {"service": "a", "polling": {"min_delay_seconds": 0}, "trigger": "manual", "persist": "yes"},
            "four": {"resource": "file://relative", "signing": {"keyid": "z", "exclude_files": ["["]}},
            "five": {"service": "a", "signing": {}, "polling": {"long_polling_timeout_seconds": 1.5}, "size": 1},
        },
        "persistence_directory": 7,
    }))
    .unwrap_err();
    let text = problems.join("\n");
    assert!(!text.contains("s3cret"), "{text}");
    for expected in [
        "services.a.url: must begin with",
        "services.a.type: only plain HTTP",
        "services.a.credentials.oauth2: is not supported",
        "services.b.name: is not \"b\"",
        "services.d.url: may have a path, but no query",
        "services.d.headers: \"a b\" is no header's name",
        "services.d.headers: X: its value",
        "services.d.typo: is not known; known here: allow_insecure_tls, credentials",
        "services.e.url: is missing",
        "services.e.credentials.bearer: has both",
        "services.e.credentials.client_tls: needs cert and private_key",
        "services.e.credentials: at most one",
        "keys.k.algorithm: \"HS1\" is not supported",
        "keys.l.key: not PEM",
        "keys.m.key: is missing",
        "keys.n: must be a mapping",
        "bundles.one.service: there is no service \"nowhere\"",
        "bundles.two.polling: max_delay_seconds is below",
        "bundles.three.polling.min_delay_seconds: must be from 1",
        "bundles.three.polling: min_delay_seconds and max_delay_seconds belong together",
        "bundles.three.trigger: only periodic",
        "bundles.four.resource: a file is named by its whole path",
        "bundles.four.signing.keyid: there is no key \"z\"",
        "bundles.four.signing.exclude_files: \"[\": ",
        "bundles.five.signing: there are no keys",
        "bundles.five.polling.long_polling_timeout_seconds: must be a whole number",
        "bundles.five.size: is not known",
        "persistence_directory: must be a path",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{expected}\n{text}");
    }
}
