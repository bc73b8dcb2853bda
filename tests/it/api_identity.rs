//! Who calls the API: the gate over real sockets, with issuers, certificates and tokens that come, change and go.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use daypass::api::tokens::LiveTokens;
use daypass::api::{Gate, v1};
use daypass::clock::Clock;
use daypass::config::{Config, ServeArgs};
use daypass::principal::{Identity, Principal};
use daypass::server::api_listener::serve;
use daypass::server::tls::LiveTls;
use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, SanType};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::PATIENCE;
use crate::support::bundle_server::{BundleServer, Reply, response};
use crate::support::daypass::{Daypass, binary, channel, write_file};

/// The listener as it is, in front of something that says who called.
struct Api {
    address: SocketAddr,
    dir: Arc<TempDir>,
    _stop: watch::Sender<bool>,
}

async fn whoami(request: axum::extract::Request) -> String {
    assert!(!request.headers().contains_key("authorization"));
    let Some(identity) = request.extensions().get::<Identity>() else { return "nobody".to_owned() };
    let names: Vec<_> = identity.caller.principals().iter().map(Principal::as_str).collect();
    let delegate = identity.delegate.as_ref().map_or("-", Principal::as_str);
    format!("{} {} {}", names.join(","), delegate, identity.evidence.as_str())
}

impl Api {
    /// `DIR` in the section is the directory.
    async fn start(dir: &Arc<TempDir>, section: &str) -> Self {
        let yaml = format!("api:\n{section}\n").replace("DIR", &dir.path().display().to_string());
        let file = PathBuf::from(write_file(dir.path(), "d.yaml", &yaml));
        let data_dir = dir.path().join("data");
        let args = ServeArgs { config: Some(file), data_dir: Some(data_dir), ..ServeArgs::default() };
        let config = Config::load(&args).unwrap();
        let tokens = LiveTokens::open(&config.api.tokens_file, &config.data_dir).unwrap();
        let gate = Arc::new(Gate::new(config.api.gate.clone(), tokens, Clock::System));
        tokio::spawn(Arc::clone(&gate).follow());
        let tls = config.api.tls.as_ref().map(|files| Arc::new(LiveTls::load(files).unwrap()));
        if let Some(tls) = &tls {
            tokio::spawn(Arc::clone(tls).follow());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = axum::Router::new().fallback(whoami);
        tokio::spawn(serve(listener, tls, gate, router, stopped));
        Self { address, dir: Arc::clone(dir), _stop: stop }
    }

    async fn with_issuer(keys: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::with_issuer_in(&dir, keys).await
    }

    async fn with_issuer_in(dir: &Arc<TempDir>, keys: &str) -> Self {
        let jwt = format!("{{issuer: https://idp, audiences: [daypass], {keys}}}");
        Self::start(dir, &format!("  authentication:\n    jwt:\n      - {jwt}")).await
    }

    async fn ask(&self, headers: &[(&str, &str)]) -> Answer {
        ask(TcpStream::connect(self.address).await.unwrap(), headers).await
    }

    async fn bearer(&self, token: &str) -> Answer {
        self.ask(&[("authorization", &format!("Bearer {token}"))]).await
    }

    fn admin(&self) -> String {
        let path = self.dir.path().join("data/token");
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }
}

#[derive(Debug)]
struct Answer {
    code: u16,
    text: String,
}

impl Answer {
    fn refused(&self, message: &str) -> bool {
        let body = self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let Ok(body) = serde_json::from_str::<Value>(body) else { return false };
        self.code == 401
            && self.text.contains("www-authenticate: Bearer\r\n")
            && body["error"]["code"] == 401
            && body["error"]["status"] == "UNAUTHENTICATED"
            && body["error"]["message"].as_str().unwrap().contains(message)
    }

    fn is(&self, who: &str) -> bool {
        self.code == 200 && self.text.ends_with(&format!("\r\n\r\n{who}"))
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, headers: &[(&str, &str)]) -> Answer {
    let headers = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers = headers.collect::<Vec<_>>().concat();
    let request = format!("GET /v1/grants HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    // A peer that leaves without closing TLS is no concern here.
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8(text).unwrap();
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { code, text }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Signer {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        Self { id, pair }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let encode = |bytes| BASE64URL_NOPAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": encode(x), "y": encode(y)})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }

    fn token(&self, changes: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": self.id}), &claims(changes))
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", encode(header), encode(claims))
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

fn claims(changes: &Value) -> Value {
    let mut claims = json!({"iss": "https://idp", "aud": "daypass", "sub": "alice", "exp": now() + 300});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

#[tokio::test]
async fn tokens_of_an_issuer() {
    let (signer, stranger) = (Signer::new("a"), Signer::new("a"));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    write_file(dir.path(), "keys.json", &set(&[&signer]));
    let api = Api::with_issuer_in(&dir, "jwks_file: DIR/keys.json").await;
    let good = signer.token(&json!({"groups": ["dev"], "act": {"sub": "bot"}}));
    let answer = api.bearer(&good).await;
    assert!(answer.is("user:alice,group:dev user:bot jwt"), "{answer:?}");
    let nameless = signer.sign(&json!({"alg": "ES256"}), &claims(&json!({})));
    assert!(api.bearer(&nameless).await.is("user:alice - jwt"), "a token need not name its key");

    let header = json!({"alg": "ES256", "kid": "a"});
    let hmac = |secret: &[u8]| {
        let input = unsigned(&json!({"alg": "HS256", "kid": "a"}), &claims(&json!({})));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!("{input}.{}", BASE64URL_NOPAD.encode(ring::hmac::sign(&key, input.as_bytes()).as_ref()))
    };
    let none = unsigned(&json!({"alg": "none"}), &claims(&json!({})));
    let other_claims = |token: &str| {
        let parts: Vec<_> = token.split('.').collect();
        let claims = BASE64URL_NOPAD.encode(claims(&json!({"sub": "root"})).to_string().as_bytes());
        format!("{}.{claims}.{}", parts[0], parts[2])
    };
    for (token, message) in [
        (signer.token(&json!({"exp": now() - 60})), "expired"),
        (signer.token(&json!({"exp": null})), "malformed"),
        (signer.token(&json!({"nbf": now() + 120})), "not valid yet"),
        (signer.token(&json!({"iat": now() + 120})), "not valid yet"),
        (signer.token(&json!({"aud": "other"})), "audience"),
        (signer.token(&json!({"aud": null})), "audience"),
        (signer.token(&json!({"iss": "https://evil"})), "issuer"),
        (signer.token(&json!({"iss": "https://idp/"})), "issuer"),
        (signer.token(&json!({"sub": null})), "nobody"),
        (signer.token(&json!({"act": {}})), "act"),
        (signer.token(&json!({"cnf": {"jkt": "x"}})), "bound"),
        (stranger.token(&json!({})), "signature"),
        (other_claims(&good), "signature"),
        (format!("{none}."), "algorithm"),
        (hmac(signer.pair.public_key().as_ref()), "algorithm"),
        (hmac(set(&[&signer]).as_bytes()), "algorithm"),
        (signer.sign(&json!({"alg": "ES384", "kid": "a"}), &claims(&json!({}))), "signature"),
        (signer.sign(&json!({"alg": "ES256", "kid": "?"}), &claims(&json!({}))), "publish"),
        (
            signer.sign(&json!({"alg": "ES256", "jwk": stranger.jwk(), "kid": "b"}), &claims(&json!({}))),
            "publish",
        ),
        (signer.sign(&json!({"alg": "ES256", "kid": "a", "crit": ["x"]}), &claims(&json!({}))), "supported"),
        (signer.sign(&json!({"alg": "ES256", "kid": "a", "typ": "logout+jwt"}), &claims(&json!({}))), "type"),
        (signer.sign(&header, &json!([1])), "malformed"),
        (format!("{good}x"), "malformed"),
        (format!("{good}.x"), "malformed"),
        (format!("{good}="), "malformed"),
        (format!("{}.{}", good, "x".repeat(9000)), "too long"),
        ("a.b.c".to_owned(), "malformed"),
        ("garbage".to_owned(), "not known"),
    ] {
        let answer = api.bearer(&token).await;
        assert!(answer.refused(message), "{message}: {answer:?}");
        assert!(!answer.text.contains(&token), "the answer quotes the token");
    }
    let bearer = format!("Bearer {good}");
    let twice = api.ask(&[("authorization", &bearer), ("authorization", &bearer)]).await;
    assert!(twice.refused("more than one"), "{twice:?}");
    let joined = format!("{bearer}, {bearer}");
    assert!(api.ask(&[("authorization", &joined)]).await.refused("malformed"));
    assert!(api.ask(&[("authorization", "Basic YTpi")]).await.refused("not `Bearer`"));
    assert!(api.ask(&[]).await.refused("needs an identity"));
    // Nothing of what a client says of itself is believed.
    assert!(api.ask(&[("x-forwarded-client-cert", "URI=spiffe://td/x")]).await.refused("needs an identity"));
    let grpc = api.ask(&[("content-type", "application/grpc")]).await;
    assert!(grpc.code == 200 && grpc.text.contains("grpc-status: 16\r\n"), "{grpc:?}");
}

#[tokio::test]
async fn a_token_without_a_key_is_not_tried_with_all() {
    let signers: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(Signer::new).collect();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    write_file(dir.path(), "keys.json", &set(&signers.iter().collect::<Vec<_>>()));
    let api = Api::with_issuer_in(&dir, "jwks_file: DIR/keys.json").await;
    let nameless = |signer: &Signer| signer.sign(&json!({"alg": "ES256"}), &claims(&json!({})));
    assert_eq!(api.bearer(&nameless(&signers[3])).await.code, 200);
    assert!(api.bearer(&nameless(&signers[4])).await.refused("signature"));
    assert_eq!(api.bearer(&signers[4].token(&json!({}))).await.code, 200, "who names its key is heard");
}

#[tokio::test]
async fn issuers_name_what_they_may() {
    let signer = Signer::new("a");
    let dir = Arc::new(tempfile::tempdir().unwrap());
    write_file(dir.path(), "keys.json", &set(&[&signer]));
    let token = signer.token(&json!({"groups": ["dev", "daypass-admins"], "email": "a@x"}));
    let verified = signer.token(&json!({"email": "a@x", "email_verified": true}));
    for (more, who) in [
        ("", "user:alice,group:dev,group:daypass-admins - jwt"),
        (", groups_claim: none", "user:alice - jwt"),
        (", groups: [dev]", "user:alice,group:dev - jwt"),
        (", kind: workload", "workload:alice - jwt"),
        (", kind: workload, groups_claim: groups, groups: [dev]", "workload:alice,group:dev - jwt"),
    ] {
        let api = Api::with_issuer_in(&dir, &format!("jwks_file: DIR/keys.json{more}")).await;
        let answer = api.bearer(&token).await;
        assert!(answer.is(who), "{more}: {answer:?}");
    }
    let api = Api::with_issuer_in(&dir, "jwks_file: DIR/keys.json, user_claim: email").await;
    assert!(api.bearer(&token).await.refused("not verified"));
    assert!(api.bearer(&verified).await.is("user:a@x - jwt"));
}

fn publish(set: String) -> impl Fn(&str) -> Reply + Send + Sync + 'static {
    move |_: &str| Reply::Bytes(response("200 OK", &[("connection", "close")], set.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_server_rotate_and_nobody_floods_it() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let idp = BundleServer::start(publish(set(&[&old])));
    let api = Api::with_issuer(&format!("jwks_url: {}/keys", idp.url())).await;
    let (by_old, by_new) = (old.token(&json!({})), new.token(&json!({})));
    assert_eq!(api.bearer(&by_old).await.code, 200, "the first call waits for the first keys");
    assert!(api.bearer(&Signer::new("old").token(&json!({}))).await.refused("signature"));
    assert_eq!(idp.requests().len(), 1, "a key that is known is not asked for");

    idp.set(publish(set(&[&new])));
    assert_eq!(api.bearer(&by_new).await.code, 200, "an unknown key is asked for at once");
    assert!(api.bearer(&by_old).await.refused("publish"), "a key that was taken back is over");
    assert_eq!(idp.requests().len(), 2);

    let began = Instant::now();
    for _ in 0..100 {
        assert!(api.bearer(&Signer::new("made-up").token(&json!({}))).await.refused("publish"));
    }
    let fetches = 2 + 1 + usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    assert!(idp.requests().len() <= fetches, "{} fetches", idp.requests().len());

    idp.set(|_| Reply::Bytes(response("500 Oh", &[("connection", "close")], b"")));
    assert_eq!(api.bearer(&by_new).await.code, 200, "known keys outlive an outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_or_lies_holds_nobody_up() {
    let signer = Signer::new("a");
    let hanging = BundleServer::start(|_| Reply::Hang(Vec::new()));
    let api = Api::with_issuer(&format!("jwks_url: {}/keys", hanging.url())).await;
    let began = Instant::now();
    let answer = api.bearer(&signer.token(&json!({}))).await;
    assert_eq!(answer.code, 503, "{answer:?}");
    assert!(answer.text.contains("UNAVAILABLE"), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(api.bearer(&api.admin()).await.is("user:admin,group:daypass-admins - token"));

    let keys = set(&[&signer]);
    let elsewhere = BundleServer::start(publish(keys.clone()));
    let to = format!("{}/keys", elsewhere.url());
    let endless = format!("{keys}{}", " ".repeat(1 << 20));
    let replies: [Vec<u8>; 4] = [
        response("302 Found", &[("location", &to), ("connection", "close")], b""),
        response("200 OK", &[("connection", "close")], endless.as_bytes()),
        response("200 OK", &[("connection", "close")], b"<html>"),
        response("404 Not Found", &[("connection", "close")], keys.as_bytes()),
    ];
    for reply in replies {
        let liar = BundleServer::start(move |_| Reply::Bytes(reply.clone()));
        let api = Api::with_issuer(&format!("jwks_url: {}/keys", liar.url())).await;
        assert_eq!(api.bearer(&signer.token(&json!({}))).await.code, 503);
    }
    assert!(elsewhere.requests().is_empty(), "a redirect was followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_file_rotate() {
    let (old, new) = (Signer::new("a"), Signer::new("a"));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    write_file(dir.path(), "keys.json", &set(&[&old]));
    let api = Api::with_issuer_in(&dir, "jwks_file: DIR/keys.json").await;
    assert_eq!(api.bearer(&old.token(&json!({}))).await.code, 200);
    write_file(dir.path(), "keys.json", "{ broken");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(api.bearer(&old.token(&json!({}))).await.code, 200, "the last good keys stay");
    write_file(dir.path(), "keys.json", &set(&[&new]));
    eventually("the new key", async || api.bearer(&new.token(&json!({}))).await.code == 200).await;
    assert!(api.bearer(&old.token(&json!({}))).await.refused("signature"));
}

struct Authority(CertifiedIssuer<'static, rcgen::KeyPair>);

enum Name {
    Uri(&'static str),
    Dns(&'static str),
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        Self(CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key, as PEM.
    fn sign(&self, names: &[Name]) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name {
                Name::Uri(uri) => SanType::URI((*uri).try_into().unwrap()),
                Name::Dns(dns) => SanType::DnsName((*dns).try_into().unwrap()),
            })
            .collect();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// What the listener needs, with itself as the authority of clients.
    fn write(&self, dir: &Path) {
        let (cert, key) = self.sign(&[Name::Dns("localhost")]);
        for (name, text) in [("cert.pem", cert), ("key.pem", key), ("ca.pem", self.0.pem())] {
            write_file(dir, name, &text);
        }
    }

    async fn connect(
        &self,
        address: SocketAddr,
        client: Option<&(String, String)>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// 0 if the handshake already fails.
    async fn ask(
        &self,
        address: SocketAddr,
        client: Option<&(String, String)>,
        headers: &[(&str, &str)],
    ) -> Answer {
        match self.connect(address, client).await {
            Ok(stream) => ask(stream, headers).await,
            Err(error) => Answer { code: 0, text: error.to_string() },
        }
    }
}

const TLS: &str = "  tls: {cert_file: DIR/cert.pem, key_file: DIR/key.pem, client_ca_file: DIR/ca.pem";

#[tokio::test(flavor = "multi_thread")]
async fn certificates_name_workloads() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    authority.write(dir.path());
    let api = Api::start(&dir, &format!("{TLS}}}")).await;
    let at = api.address;
    let who = async |names: &[Name]| authority.ask(at, Some(&authority.sign(names)), &[]).await;
    let web = who(&[Name::Uri("spiffe://td/web"), Name::Dns("x.svc")]).await;
    assert!(web.is("workload:spiffe://td/web - certificate"), "{web:?}");
    assert!(who(&[Name::Dns("a.svc"), Name::Dns("a.svc")]).await.is("workload:a.svc - certificate"));
    assert!(who(&[Name::Dns("a.svc"), Name::Dns("b.svc")]).await.refused("several"));
    for odd in ["spiffe://td/web", "*.svc", "A.svc"] {
        assert!(who(&[Name::Dns(odd)]).await.refused("DNS name"), "{odd}");
    }
    let two = who(&[Name::Uri("spiffe://td/a"), Name::Uri("spiffe://td/b")]).await;
    assert!(two.refused("several"), "{two:?}");
    assert!(who(&[]).await.refused("nobody"));
    assert!(authority.ask(at, None, &[]).await.refused("needs an identity"));
    let forged = authority.ask(at, Some(&stranger.sign(&[Name::Uri("spiffe://td/web")])), &[]).await;
    assert_eq!(forged.code, 0, "{forged:?}");

    // A token decides, for better or worse.
    let proxy = authority.sign(&[Name::Uri("spiffe://td/proxy")]);
    let token = format!("Bearer {}", api.admin());
    let forwarded = authority.ask(at, Some(&proxy), &[("authorization", &token)]).await;
    assert!(forwarded.is("user:admin,group:daypass-admins - token"), "{forwarded:?}");
    let bad = authority.ask(at, Some(&proxy), &[("authorization", "Bearer wrong")]).await;
    assert!(bad.refused("not known"), "{bad:?}");

    let strict = Api::start(&dir, &format!("{TLS}, client_auth: required}}")).await;
    assert_eq!(authority.ask(strict.address, None, &[("authorization", &token)]).await.code, 0);
    assert!(
        authority.ask(strict.address, Some(&proxy), &[]).await.is("workload:spiffe://td/proxy - certificate")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_files_change_while_calls_run() {
    let (old, new) = (Authority::new(), Authority::new());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    old.write(dir.path());
    let api = Api::start(&dir, &format!("{TLS}}}")).await;
    let at = api.address;
    let (of_old, of_new) = (old.sign(&[Name::Dns("o.svc")]), new.sign(&[Name::Dns("n.svc")]));
    let mut open = old.connect(at, Some(&of_old)).await.unwrap();

    write_file(dir.path(), "key.pem", "broken");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(old.ask(at, Some(&of_old), &[]).await.is("workload:o.svc - certificate"), "the old files stay");

    new.write(dir.path());
    eventually("the new certificates", async || {
        new.ask(at, Some(&of_new), &[]).await.is("workload:n.svc - certificate")
    })
    .await;
    assert_eq!(old.ask(at, Some(&of_old), &[]).await.code, 0, "the old authority is over");
    open.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 15];
    open.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK", "an open connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_emptied_is_nobodys() {
    let authority = Authority::new();
    let client = authority.sign(&[Name::Dns("a.svc")]);
    for (auth, is_open) in [("optional", true), ("required", false)] {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        authority.write(dir.path());
        let api = Api::start(&dir, &format!("{TLS}, client_auth: {auth}}}")).await;
        let token = format!("Bearer {}", api.admin());
        let ask = async |headers: &[(&str, &str)]| authority.ask(api.address, Some(&client), headers).await;
        assert_eq!(ask(&[]).await.code, 200);
        write_file(dir.path(), "ca.pem", "\n");
        eventually("the end of the authority", async || ask(&[]).await.code != 200).await;
        let by_token = ask(&[("authorization", &token)]).await;
        assert_eq!(by_token.code, if is_open { 200 } else { 0 }, "{auth}");
        write_file(dir.path(), "ca.pem", &authority.0.pem());
        eventually("the authority", async || ask(&[]).await.code == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_hold_nobody_up() {
    let authority = Authority::new();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    authority.write(dir.path());
    let api = Api::start(&dir, &format!("{TLS}}}")).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(api.address).await.unwrap());
    }
    let began = Instant::now();
    let client = authority.sign(&[Name::Dns("a.svc")]);
    let answer = authority.ask(api.address, Some(&client), &[]).await;
    assert!(answer.is("workload:a.svc - certificate"), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // And the listener is done with them in the end.
    let mut oldest = silent.swap_remove(0);
    let ended = tokio::time::timeout(PATIENCE, oldest.read(&mut [0])).await;
    assert!(!matches!(ended.expect("it is still open"), Ok(1)));
}

fn token(dir: &TempDir, args: &[&str]) -> Result<String, String> {
    let output =
        binary().arg("token").arg("--data-dir").arg(dir.path().join("data")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn static_tokens_come_and_go() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let api = Api::start(&dir, "  rate_limit: {per_second: 10000}").await;
    let admin = api.admin();
    let create =
        ["create", "--principal", "user:ci", "--group", "group:bots", "--name", "ci", "--ttl", "90d"];
    let made = token(&dir, &create).unwrap().trim().to_owned();
    assert!(made.starts_with("dp_"), "{made}");
    eventually("the new token", async || api.bearer(&made).await.is("user:ci,group:bots - token")).await;
    assert!(api.bearer(&made[..made.len() - 1]).await.refused("not known"));
    let file = dir.path().join("data/tokens.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&made) && !text.contains(&admin));
    let listed = token(&dir, &["ls"]).unwrap();
    assert!(
        listed.contains("user:ci") && listed.contains("group:bots") && !listed.contains("dp_"),
        "{listed}"
    );
    assert!(token(&dir, &create).unwrap_err().contains("already"));
    assert!(token(&dir, &["rm", "nobody"]).unwrap_err().contains("no token"));
    assert!(token(&dir, &["create", "--principal", "group:x"]).is_err());

    // What is broken changes nothing; nor does it that the first token's file is gone.
    std::fs::write(&file, "tokens: [").unwrap();
    std::fs::remove_file(dir.path().join("data/token")).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(api.bearer(&made).await.is("user:ci,group:bots - token"));
    assert!(api.bearer(&admin).await.is("user:admin,group:daypass-admins - token"));
    std::fs::write(&file, &text).unwrap();

    let short = token(&dir, &["create", "--principal", "workload:x", "--ttl", "6s"]).unwrap();
    eventually("the short token", async || api.bearer(short.trim()).await.code == 200).await;
    eventually("its end", async || api.bearer(short.trim()).await.refused("expired")).await;
    token(&dir, &["rm", "ci"]).unwrap();
    eventually("the end of the token", async || api.bearer(&made).await.refused("not known")).await;
    assert_eq!(api.bearer(&admin).await.code, 200);

    let kept = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    eventually("a missing file to mean nobody", async || api.bearer(&admin).await.refused("not known")).await;
    write_file(&dir.path().join("data"), "tokens.yaml", "tokens: []\n");
    assert!(api.bearer(&admin).await.refused("not known"));
    std::fs::write(&file, kept).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    eventually("the file to be back", async || api.bearer(&admin).await.code == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_taken_back_stays_away() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let first = Daypass::start_in(&dir, &[]);
    let file = first.data_dir().join("token");
    let text = std::fs::read(&file).unwrap();
    token(&dir, &["rm", "admin"]).unwrap();
    assert!(!file.exists(), "it is of no use any more");
    drop(first);
    // Whoever kept a copy, or lost the hashes, does not get it back by a start.
    std::fs::remove_file(dir.path().join("data/tokens.yaml")).unwrap();
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let log = Daypass::try_start(&dir, &[]).err().expect("it started");
    assert!(log.contains("delete the token"), "{log}");
    std::fs::remove_file(&file).unwrap();
    let config = write_file(dir.path(), "d.yaml", "api: {tokens_file: /nonexistent/t.yaml}\n");
    let log = Daypass::try_start(&dir, &["--config", &config]).err().expect("it started");
    assert!(log.contains("/nonexistent/t.yaml"), "{log}");
    assert!(!file.exists());
    Daypass::start_in(&dir, &[]);
    assert!(file.exists(), "an empty directory gets a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_have_limits() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let other = token(&dir, &["create", "--principal", "user:other"]).unwrap();
    let api = Api::start(&dir, "  rate_limit: {per_second: 1, burst: 5}").await;
    let admin = format!("Bearer {}", api.admin());
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(api.ask(&[("authorization", &admin)]).await.code);
    }
    assert_eq!(codes[..5], [200; 5]);
    assert!(codes[5..].contains(&429), "{codes:?}");
    let mut refused = 0;
    for _ in 0..3 {
        let limited = api.ask(&[("authorization", &admin)]).await;
        let grpc = api.ask(&[("authorization", &admin), ("content-type", "application/grpc")]).await;
        if limited.code == 429 && grpc.text.contains("grpc-status: 8\r\n") {
            assert!(limited.text.contains("retry-after: 1\r\n"), "{limited:?}");
            assert!(limited.text.contains("RESOURCE_EXHAUSTED"), "{limited:?}");
            refused += 1;
        }
    }
    assert!(refused > 0);
    let mut strangers = Vec::new();
    for _ in 0..12 {
        strangers.push(api.bearer("wrong").await.code);
    }
    assert_eq!(strangers[..5], [401; 5]);
    assert!(strangers[5..].contains(&429), "{strangers:?}");
    assert_eq!(api.bearer(other.trim()).await.code, 200, "others at that address are let in");
}

async fn tls_channel(address: &str, ca: &str) -> Channel {
    let port = address.rsplit(':').next().unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

/// The server as people start it: what is behind the gate, and what is not.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_for_everybody_and_nothing_else_is() {
    let authority = Authority::new();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    authority.write(dir.path());
    let section = format!("api:\n{TLS}}}\n").replace("DIR", &dir.path().display().to_string());
    let config = write_file(dir.path(), "d.yaml", &section);
    let over_tls = Daypass::start_in(&dir, &["--config", &config, "--reflection"]);
    let clear = Daypass::start(&["--reflection"]);
    for (daypass, channel) in [
        (&over_tls, tls_channel(&over_tls.api, &authority.0.pem()).await),
        (&clear, channel(&clear.api).await),
    ] {
        let mut health = HealthClient::new(channel.clone());
        let status = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status;
        assert_eq!(status, 1);
        let token = std::fs::read_to_string(daypass.data_dir().join("token")).unwrap();
        for (bearer, code) in [(None, tonic::Code::Unauthenticated), (Some(token.trim()), tonic::Code::Ok)] {
            let mut grants = v1::grant_service_client::GrantServiceClient::new(channel.clone());
            let mut list = tonic::Request::new(v1::ListGrantsRequest::default());
            let mut reflection =
                tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(
                    channel.clone(),
                );
            let mut info = tonic::Request::new(tokio_stream::empty());
            if let Some(bearer) = bearer {
                let value = format!("Bearer {bearer}");
                list.metadata_mut().insert("authorization", value.parse().unwrap());
                info.metadata_mut().insert("authorization", value.parse().unwrap());
            }
            let of = |result: Result<(), tonic::Status>| {
                result.map_or_else(|error| error.code(), |()| tonic::Code::Ok)
            };
            assert_eq!(of(grants.list_grants(list).await.map(|_| ())), code);
            assert_eq!(of(reflection.server_reflection_info(info).await.map(|_| ())), code);
        }
    }
}
