//! OPA bundles from servers that behave, and from those that do not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use daypass::bundle::config::{Config, Polling};
use daypass::bundle::{Bundles, Candidates, Status};
use daypass::config::ServeArgs;
use daypass::policy::{DecisionPath, Policy};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ring::hmac;
use rustls::pki_types::CertificateDer;
use serde_json::{Value as Json, json};

use crate::support::bundle_server::{BundleServer, Reply, conditional, pack, response, write};
use crate::support::wait_for;

const FAST: Polling =
    Polling { min_delay: Duration::from_millis(10), max_delay: Duration::from_millis(20), long_poll: None };

/// The part that a running server plays: it compiles what it is offered, and says whether that went well.
struct Consumer {
    runtime: tokio::runtime::Runtime,
    bundles: Bundles,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Debug, Clone)]
struct Seen {
    revisions: BTreeMap<String, Option<String>>,
    missing: Vec<String>,
    data: Json,
    accepted: bool,
}

impl Consumer {
    fn start(document: &Json, dir: &Path) -> Self {
        let mut config = Config::parse(document.as_object().unwrap(), dir).unwrap();
        for source in &mut config.sources {
            source.polling = Polling { long_poll: source.polling.long_poll, ..FAST };
        }
        Self::start_with(config)
    }

    fn start_with(config: Config) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (bundles, candidates) = {
            let _guard = runtime.enter();
            Bundles::start(config)
        };
        runtime.spawn(consume(candidates, Arc::clone(&seen)));
        Self { runtime, bundles, seen }
    }

    fn status(&self, name: &str) -> Status {
        self.bundles.statuses().into_iter().find(|status| status.name == name).unwrap()
    }

    fn error(&self, name: &str) -> Option<(&'static str, String)> {
        self.status(name).error.map(|error| (error.code, error.message))
    }

    fn wait_for_revision(&self, name: &str, revision: &str) {
        wait_for(&format!("{name} at {revision}: {:?}", self.status(name)), || {
            (self.status(name).active_revision.as_deref() == Some(revision)).then_some(())
        });
    }

    fn wait_for_error(&self, name: &str, code: &str) -> String {
        wait_for(&format!("the error {code} of {name}"), || {
            self.error(name).filter(|(found, _)| *found == code).map(|(_, message)| message)
        })
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn stop(self) {
        drop(self.bundles);
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

async fn consume(mut candidates: Candidates, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Some(candidate) = candidates.next().await {
        let path = DecisionPath::new("app/allow");
        let compiled = Policy::compile(&candidate.sources, &path, Duration::from_secs(1));
        seen.lock().unwrap().push(Seen {
            revisions: candidate.revisions,
            missing: candidate.missing,
            data: serde_json::from_str(&candidate.sources.data.to_json().unwrap()).unwrap(),
            accepted: compiled.is_ok(),
        });
        match compiled {
            Ok(_) => candidate.verdict.accept(),
            Err(error) => candidate.verdict.reject(error.to_string()),
        }
    }
}

fn manifest(revision: &str, roots: &[&str]) -> String {
    json!({"revision": revision, "roots": roots}).to_string()
}

/// A bundle of this revision that compiles.
fn good(revision: &str) -> Vec<u8> {
    pack(&[
        (".manifest", &manifest(revision, &["app", "roles"])),
        ("app/authz.rego", "package app\nallow := data.roles.admin == \"alice\"\n"),
        ("roles/data.json", "{\"admin\": \"alice\"}"),
    ])
}

fn one(server: &BundleServer) -> Json {
    json!({"services": {"acme": {"url": server.url()}}, "bundles": {"authz": {"resource": "b.tar.gz"}}})
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[test]
fn a_bundle_is_fetched_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    let archive = good("r1");
    let server = BundleServer::start(conditional("\"1\"", &archive));
    let consumer = Consumer::start(&one(&server), dir.path());
    consumer.wait_for_revision("authz", "r1");
    wait_for("answers without news", || (server.requests().len() > 3).then_some(()));
    let requests = server.requests();
    assert!(requests[0].starts_with("GET /b.tar.gz HTTP/1.1\r\n"), "{}", requests[0]);
    assert_eq!(header(&requests[0], "prefer"), Some("modes=snapshot"));
    assert_eq!(header(&requests[0], "if-none-match"), None);
    assert_eq!(header(&requests[2], "if-none-match"), Some("\"1\""));
    let status = consumer.status("authz");
    assert_eq!((status.active_etag.as_deref(), status.downloads, status.activations), (Some("\"1\""), 1, 1));
    assert_eq!(status.size, archive.len());
    assert!(status.requests > 2 && status.failures == 0 && status.is_active());
    assert!(status.last_successful_request > status.last_successful_download);
    server.set(conditional("\"2\"", &good("r2")));
    consumer.wait_for_revision("authz", "r2");
    let seen = consumer.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].data["roles"], json!({"admin": "alice"}));
    assert_eq!(seen[1].data["system"]["bundles"]["authz"]["manifest"]["revision"], json!("r2"));
    consumer.stop();
}

#[test]
fn the_same_archive_without_an_etag_is_not_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let archive = good("r1");
    let server = BundleServer::start(move |_| Reply::Bytes(response("200 OK", &[], &archive)));
    let consumer = Consumer::start(&one(&server), dir.path());
    wait_for("several polls", || (server.requests().len() > 4).then_some(()));
    assert_eq!(consumer.seen().len(), 1);
    assert!(server.requests().iter().all(|request| header(request, "if-none-match").is_none()));
}

#[test]
fn a_bundle_that_does_not_compile_is_told_and_its_etag_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = BundleServer::start(conditional("\"1\"", &good("r1")));
    let consumer = Consumer::start(&one(&server), dir.path());
    consumer.wait_for_revision("authz", "r1");
    let bad =
        pack(&[(".manifest", &manifest("r2", &["app"])), ("x.rego", "package app\nallow := unknown(1)\n")]);
    server.set(conditional("\"2\"", &bad));
    let message = consumer.wait_for_error("authz", "activation");
    assert!(message.contains("authz/x.rego") && message.contains("unknown"), "{message}");
    let before = server.requests().len();
    wait_for("another try", || (server.requests().len() > before + 1).then_some(()));
    let last = server.requests().pop().unwrap();
    assert_eq!(header(&last, "if-none-match"), Some("\"1\""));
    let status = consumer.status("authz");
    assert_eq!(
        (status.active_revision.as_deref(), status.active_etag.as_deref()),
        (Some("r1"), Some("\"1\""))
    );
    // Back to what is in use: the server says that nothing changed, and all is well.
    server.set(conditional("\"1\"", &good("r1")));
    wait_for("the end of the error", || consumer.error("authz").is_none().then_some(()));
    assert_eq!(consumer.status("authz").activations, 1);
    server.set(conditional("\"3\"", &good("r3")));
    consumer.wait_for_revision("authz", "r3");
    assert_eq!(consumer.error("authz"), None);
}

#[test]
fn servers_that_misbehave_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = BundleServer::start(conditional("\"1\"", &good("r1")));
    let mut document = one(&server);
    document["bundles"]["authz"]["size_limit_bytes"] = json!(1_000_000);
    document["services"]["acme"]["response_header_timeout_seconds"] = json!(1);
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("authz", "r1");
    let ok = |headers: &[(&str, &str)], body: &[u8]| response("200 OK", headers, body);
    let whole = ok(&[], &good("r9"));
    let cut = whole[..whole.len() - 20].to_vec();
    let bomb = pack(&[("data.json", &" ".repeat(2_000_000))]);
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let endless = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", chunk.repeat(20));
    let half_chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nhalf";
    let to = |place: &str| response("302 Found", &[("location", place)], b"");
    let cases: Vec<(&str, &str, Reply)> = vec![
        ("http_status", "404", Reply::Bytes(response("404 Not Found", &[], b"no such bundle"))),
        ("http_status", "401", Reply::Bytes(response("401 Unauthorized", &[], b""))),
        ("http_status", "500", Reply::Bytes(response("500 Internal Server Error", &[], b""))),
        ("http_status", "204", Reply::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())),
        ("cut_off", "", Reply::Bytes(cut)),
        ("cut_off", "", Reply::Bytes(half_chunk.into())),
        ("archive", "empty", Reply::Bytes(ok(&[], b""))),
        ("archive", "text/html", Reply::Bytes(ok(&[("content-type", "text/html")], b"<html>Log in</html>"))),
        (
            "too_large",
            "1000000",
            Reply::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_vec()),
        ),
        ("too_large", "1000000", Reply::Bytes(endless.into_bytes())),
        ("too_large", "size_limit_bytes", Reply::Bytes(ok(&[], &bomb))),
        ("redirect", "more than 10", Reply::Bytes(to("/b.tar.gz"))),
        ("redirect", "nowhere", Reply::Bytes(response("307 Temporary Redirect", &[], b""))),
        ("redirect", "to file", Reply::Bytes(to("file:///etc/passwd"))),
        ("unreachable", "", Reply::Bytes(Vec::new())),
        ("unreachable", "", Reply::Bytes(b"220 mail.example.com ESMTP\r\n".to_vec())),
        ("timeout", "header", Reply::Hang(Vec::new())),
        ("signature", "signed", Reply::Bytes(ok(&[], &pack(&[(".signatures.json", "{}")])))),
        ("unsupported", "delta", Reply::Bytes(ok(&[], &pack(&[("patch.json", "{\"data\": []}")])))),
    ];
    for (code, part, reply) in cases {
        server.set(move |_| reply.clone());
        let message = wait_for(&format!("{code} {part}: {:?}", consumer.error("authz")), || {
            consumer.error("authz").filter(|(found, message)| *found == code && message.contains(part))
        });
        let status = consumer.status("authz");
        assert_eq!(status.active_revision.as_deref(), Some("r1"), "{message:?}");
        assert_eq!(status.error.unwrap().http_code.is_some(), code == "http_status");
        server.set(conditional("\"1\"", &good("r1")));
        wait_for("recovery", || consumer.error("authz").is_none().then_some(()));
    }
    assert_eq!(consumer.seen().len(), 1, "none of it was offered");
}

#[test]
fn redirects_are_followed_and_secrets_are_not_taken_along() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = BundleServer::start(conditional("\"1\"", &good("r1")));
    let (near, far) = ("/moved.tar.gz".to_owned(), format!("{}/x", elsewhere.url()));
    let server = BundleServer::start(move |request| {
        let place = if request.starts_with("GET /b.tar.gz") { &near } else { &far };
        Reply::Bytes(response("302 Found", &[("location", place)], b""))
    });
    let mut document = one(&server);
    document["services"]["acme"]["headers"] = json!({"X-Api-Key": "s3cret"});
    document["services"]["acme"]["credentials"] = json!({"bearer": {"token": "t0ken"}});
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("authz", "r1");
    for request in &server.requests()[..2] {
        assert_eq!(header(request, "authorization"), Some("Bearer t0ken"));
        assert_eq!(header(request, "x-api-key"), Some("s3cret"));
    }
    let request = &elsewhere.requests()[0];
    assert!(
        request.starts_with("GET /x ") && !request.contains("s3cret") && !request.contains("t0ken"),
        "{request}"
    );
}

#[test]
fn tokens_are_read_for_each_request() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let server = BundleServer::start(conditional("\"1\"", &good("r1")));
    let mut document = one(&server);
    document["services"]["acme"]["credentials"] = json!({"bearer": {"token_path": token, "scheme": "Token"}});
    let consumer = Consumer::start(&document, dir.path());
    let saw = |token: &str| {
        wait_for(token, || {
            server
                .requests()
                .iter()
                .any(|request| header(request, "authorization") == Some(token))
                .then_some(())
        });
    };
    saw("Token first");
    std::fs::write(&token, "second").unwrap();
    saw("Token second");
    std::fs::remove_file(&token).unwrap();
    assert!(consumer.wait_for_error("authz", "file").contains("token"));
}

#[test]
fn a_server_that_can_wait_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let archive = good("r1");
    let (new, same) = (
        response(
            "200 OK",
            &[("etag", "1"), ("content-type", "application/vnd.openpolicyagent.bundles")],
            &archive,
        ),
        response("304 Not Modified", &[], b""),
    );
    // Beyond the limit for headers, which does not count while the server was asked to wait.
    let wait = Duration::from_millis(1500);
    let script = move |request: &str| match header(request, "if-none-match") {
        None => Reply::Bytes(new.clone()),
        Some(_) => Reply::Late(wait, same.clone()),
    };
    let server = BundleServer::start(script);
    let mut document = one(&server);
    document["services"]["acme"]["response_header_timeout_seconds"] = json!(1);
    document["bundles"]["authz"]["polling"] = json!({"long_polling_timeout_seconds": 5});
    let consumer = Consumer::start(&document, dir.path());
    wait_for("a third request", || (server.requests().len() == 3).then_some(()));
    assert!(
        server.requests().iter().all(|request| header(request, "prefer") == Some("modes=snapshot;wait=5"))
    );
    assert_eq!(consumer.error("authz"), None);
    // One that says nothing of waiting is polled.
    server.set(conditional("\"2\"", &good("r2")));
    consumer.wait_for_revision("authz", "r2");
    wait_for("a poll", || {
        (header(server.requests().last()?, "prefer") == Some("modes=snapshot")).then_some(())
    });
}

fn token(files: &Json) -> String {
    let header = r#"{"alg":"HS256","typ":"JWT","kid":"global"}"#;
    let payload = json!({"files": files, "scope": "read"}).to_string();
    let signed = [header, &payload].map(|part| BASE64URL_NOPAD.encode(part.as_bytes())).join(".");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), signed.as_bytes());
    json!({"signatures": [format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))]}).to_string()
}

fn signed(revision: &str, rego: &str, signed_rego: &str) -> Vec<u8> {
    let hash = |text: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        data_encoding::HEXLOWER.encode(digest.as_ref())
    };
    // Written with spaces, and signed without.
    let (written, form) =
        (format!("{{ \"revision\" : \"{revision}\" }}"), format!("{{\"revision\":\"{revision}\"}}"));
    let files = json!([
        {"name": ".manifest", "hash": hash(&form), "algorithm": "SHA-256"},
        {"name": "app/x.rego", "hash": hash(signed_rego), "algorithm": "SHA-256"},
    ]);
    pack(&[(".manifest", &written), ("app/x.rego", rego), (".signatures.json", &token(&files))])
}

/// What was good once is there when its server is not; what was changed on disk is not.
#[test]
fn bundles_outlive_their_server_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let rego = "package app\nallow := true\n";
    let server = BundleServer::start(conditional("\"1\"", &signed("r1", rego, rego)));
    let mut document = one(&server);
    document["keys"] = json!({"global": {"algorithm": "HS256", "key": "secret"}});
    document["bundles"]["authz"]["signing"] = json!({"keyid": "global", "scope": "read"});
    document["bundles"]["authz"]["persist"] = json!(true);
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("authz", "r1");
    let file = dir.path().join("bundles/authz/bundle.tar.gz");
    wait_for("the file", || file.exists().then_some(()));

    // A forgery is neither used nor kept.
    let kept = std::fs::read(&file).unwrap();
    server.set(conditional("\"2\"", &signed("r2", "package app\nallow := 1 == 1\n", rego)));
    assert!(consumer.wait_for_error("authz", "signature").contains("app/x.rego: its hash"));
    assert_eq!(std::fs::read(&file).unwrap(), kept);
    consumer.stop();

    server.set(|_| Reply::Bytes(Vec::new()));
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("authz", "r1");
    let status = consumer.status("authz");
    assert_eq!(status.active_etag, None, "the server is asked for everything");
    consumer.wait_for_error("authz", "unreachable");
    consumer.stop();

    std::fs::write(&file, signed("r3", "package app\nallow := 1 == 1\n", rego)).unwrap();
    server.set(|_| Reply::Hang(Vec::new()));
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_error("authz", "signature");
    assert!(consumer.seen().is_empty());
    // With the server back, what it has replaces what was on disk.
    server.set(conditional("\"4\"", &signed("r4", rego, rego)));
    drop(consumer);
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("authz", "r4");
    wait_for("the new file", || (std::fs::read(&file).unwrap() != kept).then_some(()));
}

/// Neither compiles without the other, or only one of them.
#[test]
fn persisted_bundles_that_need_each_other_find_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = |root: &str, text: &str| pack(&[(".manifest", &manifest(root, &[root])), ("x.rego", text)]);
    let rules =
        BundleServer::start(conditional("\"1\"", &file("app", "package app\nallow := data.lib.f(1)\n")));
    let library = BundleServer::start(|_| Reply::Bytes(response("404 Not Found", &[], b"")));
    let document = json!({
        "services": {"a": {"url": rules.url()}, "b": {"url": library.url()}},
        "bundles": {"rules": {"service": "a", "persist": true}, "library": {"service": "b", "persist": true}},
    });
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_error("rules", "activation");
    library.set(conditional("\"1\"", &file("lib", "package lib\nf(x) := x\n")));
    consumer.wait_for_revision("rules", "app");
    for name in ["rules", "library"] {
        let path = dir.path().join("bundles").join(name).join("bundle.tar.gz");
        wait_for("the file", || path.exists().then_some(()));
    }
    consumer.stop();
    for server in [&rules, &library] {
        server.set(|_| Reply::Bytes(response("503 Service Unavailable", &[], b"")));
    }
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("rules", "app");
    consumer.wait_for_revision("library", "lib");
    assert_eq!(
        consumer.wait_for_error("rules", "http_status"),
        "the server answered 503 Service Unavailable"
    );
}

#[test]
fn several_bundles_make_one_policy() {
    let dir = tempfile::tempdir().unwrap();
    let rules = |revision: &str, text: &str| {
        pack(&[
            (".manifest", &manifest(revision, &["app"])),
            ("app/x.rego", &format!("package app\n{text}\n")),
        ])
    };
    let facts = |revision: &str, roots: &[&str], text: &str| {
        pack(&[(".manifest", &manifest(revision, roots)), ("data.json", text)])
    };
    let a = BundleServer::start(conditional("\"1\"", &rules("a1", "allow := data.roles.admin")));
    let b = BundleServer::start(|_| Reply::Bytes(response("404 Not Found", &[], b"")));
    let document = json!({
        "services": {"a": {"url": a.url()}, "b": {"url": b.url()}},
        "bundles": {"rules": {"service": "a"}, "facts": {"service": "b"}},
    });
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("rules", "a1");
    assert_eq!(consumer.seen()[0].missing, ["facts"]);
    b.set(conditional("\"1\"", &facts("b1", &["roles"], "{\"roles\": {\"admin\": true}}")));
    consumer.wait_for_revision("facts", "b1");
    let last = consumer.seen().pop().unwrap();
    assert!(last.missing.is_empty() && last.revisions.len() == 2 && last.accepted);
    assert_eq!(last.data["roles"]["admin"], json!(true));

    // What another one owns is refused with both names, and changes nothing.
    b.set(conditional("\"2\"", &facts("b2", &["roles", "app/facts"], "{\"app\": {\"facts\": 1}}")));
    let message = consumer.wait_for_error("facts", "conflict");
    assert!(
        message.contains("\"facts\"") && message.contains("\"rules\"") && message.contains("\"app/facts\"")
    );
    assert_eq!(consumer.status("facts").active_revision.as_deref(), Some("b1"));

    // One that is bad does not keep out the other.
    a.set(conditional("\"3\"", &rules("a3", "allow := nothing(1)")));
    b.set(conditional("\"3\"", &facts("b3", &["roles"], "{\"roles\": {\"admin\": false}}")));
    consumer.wait_for_revision("facts", "b3");
    consumer.wait_for_error("rules", "activation");
    assert_eq!(consumer.error("facts"), None);
    let active = consumer.seen().into_iter().rfind(|seen| seen.accepted).unwrap();
    assert_eq!(active.data["roles"]["admin"], json!(false));
    assert_eq!(active.revisions["rules"].as_deref(), Some("a1"));
}

#[test]
fn files_and_directories() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, tree) = (dir.path().join("b.tar.gz"), dir.path().join("tree"));
    std::fs::write(
        &archive,
        pack(&[(".manifest", &manifest("f1", &["facts"])), ("facts/data.yaml", "a: 1")]),
    )
    .unwrap();
    let rego = "package app\nallow := data.facts.a == 1\n";
    write(
        &tree,
        &[(".manifest", &manifest("d1", &["app"])), ("app/x.rego", rego), (".git/data.json", "no JSON")],
    );
    let document = json!({"bundles": {
        "archive": {"resource": format!("file://{}", archive.display())},
        "tree": {"resource": format!("file://{}", tree.display())},
        "nothing": {"resource": "file:///nowhere/b.tar.gz"},
    }});
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("archive", "f1");
    consumer.wait_for_revision("tree", "d1");
    assert!(consumer.wait_for_error("nothing", "file").contains("/nowhere/b.tar.gz"));
    write(&tree, &[(".manifest", &manifest("d2", &["app"]))]);
    consumer.wait_for_revision("tree", "d2");
}

#[test]
fn the_documented_configuration_is_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bundles.md");
    let document = std::fs::read_to_string(path).unwrap();
    let example = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = |text: &str| {
        let path = dir.path().join("daypass.yaml");
        std::fs::write(&path, text).unwrap();
        daypass::config::Config::load(&ServeArgs { config: Some(path), ..ServeArgs::default() })
    };
    let config = load(example).unwrap().policy.bundles.unwrap();
    assert_eq!(config.sources.len(), 2);
    assert!(config.sources.iter().any(|source| source.verification.is_some() && source.persist));
    for (bad, place) in [
        ("bundles: {a: {service: b}}", "bundles.a.service"),
        (
            "services: {s: {url: 7}}\nbundles: {a: {service: s, polling: {min_delay_seconds: x}}}",
            "min_delay_seconds",
        ),
        ("bundles: {a: {resource: \"file:///x\", colour: red}}", "colour"),
    ] {
        let error = load(bad).unwrap_err().to_string();
        assert!(error.contains(place), "{error}");
    }
}

/// An authority, and a certificate of 127.0.0.1 that it signed; both as files as well.
fn certificates(dir: &Path) -> (CertificateDer<'static>, CertificateDer<'static>, KeyPair) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    write(
        dir,
        &[("ca.pem", &authority.pem()), ("c.pem", &certificate.pem()), ("k.pem", &key.serialize_pem())],
    );
    (authority.der().clone(), certificate.der().clone(), key)
}

#[test]
fn http_2_where_the_server_speaks_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_, certificate, key) = certificates(dir.path());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.serialize_der().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let archive = good("r1");
        loop {
            let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let archive = archive.clone();
            let answer = move |request: http::Request<hyper::body::Incoming>| {
                let body = http_body_util::Full::new(std::io::Cursor::new(archive.clone()));
                assert_eq!(
                    (request.version(), request.uri().path()),
                    (http::Version::HTTP_2, "/bundles/authz")
                );
                async { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
            };
            let executor = hyper_util::rt::TokioExecutor::new();
            let server = hyper::server::conn::http2::Builder::new(executor);
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(server.serve_connection(io, hyper::service::service_fn(answer)));
        }
    });
    let document = json!({
        "services": {"acme": {"url": format!("https://{address}"), "tls": {"ca_cert": dir.path().join("ca.pem")}}},
        "bundles": {"authz": {}},
    });
    let consumer = Consumer::start(&document, dir.path());
    consumer.wait_for_revision("authz", "r1");
}

#[test]
fn tls_with_certificates_of_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, certificate, key) = certificates(dir.path());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(vec![certificate], key.serialize_der().try_into().unwrap())
        .unwrap();
    let config = Arc::new(config);
    let server = BundleServer::start_with(conditional("\"1\"", &good("r1")), move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).ok()?;
        Some(rustls::StreamOwned::new(connection, stream))
    });
    let path = |name: &str| dir.path().join(name);
    let service = |tls: Json, credentials: Json| {
        json!({
            "services": {"acme": {
                "url": format!("https://{}", server.address), "tls": tls, "credentials": credentials,
            }},
            "bundles": {"authz": {}},
        })
    };
    let client = json!({"client_tls": {"cert": path("c.pem"), "private_key": path("k.pem")}});
    let both = Consumer::start(&service(json!({"ca_cert": path("ca.pem")}), client.clone()), dir.path());
    both.wait_for_revision("authz", "r1");
    let doubting = Consumer::start(&service(json!({}), client.clone()), dir.path());
    assert!(doubting.wait_for_error("authz", "unreachable").contains("UnknownIssuer"));
    let anonymous = Consumer::start(&service(json!({"ca_cert": path("ca.pem")}), json!({})), dir.path());
    anonymous.wait_for_error("authz", "unreachable");
    let mut document = service(json!({}), client);
    document["services"]["acme"]["allow_insecure_tls"] = json!(true);
    let trusting = Consumer::start(&document, dir.path());
    trusting.wait_for_revision("authz", "r1");
    std::fs::remove_file(path("c.pem")).unwrap();
    assert!(both.wait_for_error("authz", "file").contains("c.pem"));
}
