//! TCP through a real Envoy: `tcp.yaml`, whose connections end with their grant, and `tcp-plain.yaml`, whose do not.
//!
//! `STREAM_RUNS` (4) is how often a connection is tried.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::daypass::{Daypass, write_file};
use crate::support::envoy::{Authority, Envoy, port};
use crate::support::redis::Redis;
use crate::support::streaming::{Ran, plain};
use crate::support::ticker::{TICK, Ticker};
use crate::support::wait_for;

const TRUST_DOMAIN: &str = "spiffe://corp.example/ns/prod/sa";
const SERVER_NAME: &str = "redis.internal";
/// How much later than promised a loaded machine may be.
const SLACK: Duration = Duration::from_millis(500);

struct Lab {
    dir: Arc<tempfile::TempDir>,
    daypass: Daypass,
    envoy: Envoy,
    authority: Authority,
}

impl Lab {
    fn start(config: &str, daypass: &str, upstream: u16) -> Option<Self> {
        // Whichever test is first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let authority = Authority::new(dir.path());
        authority.issue("server", &[SERVER_NAME]);
        let settings = write_file(dir.path(), "daypass.yaml", daypass);
        let daypass = Daypass::start_in(&dir, &["--config", &settings]);
        let (check, upstream) = (port(&daypass.check), port(&upstream.to_string()));
        let changes = [("port_value: 9191", check.as_str()), ("port_value: 6379", upstream.as_str())];
        let envoy = Envoy::start(config, dir.path(), &changes)?;
        Some(Self { dir, daypass, envoy, authority })
    }

    /// When it ends.
    fn grant(&self, id: &str, name: &str, ttl: &str) -> Instant {
        let subject = format!("workload:{TRUST_DOMAIN}/{name}");
        let args =
            ["create", "--id", id, "--subject", &subject, "--host", SERVER_NAME, "--ttl", ttl, "--json"];
        let made: serde_json::Value = serde_json::from_str(&self.daypass.grant(&args).unwrap()).unwrap();
        let end: jiff::Timestamp = made["expires_at"].as_str().unwrap().parse().unwrap();
        Instant::now() + Duration::try_from(end.duration_since(jiff::Timestamp::now())).unwrap()
    }

    /// A connection of the workload of this name, or what was wrong with it.
    async fn connect(&self, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let uri = format!("{TRUST_DOMAIN}/{name}");
        self.connect_as(name, &uri).await
    }

    async fn connect_as(&self, name: &str, uri: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let (cert, key) = self.authority.issue(name, &[uri]);
        let ca = self.dir.path().join("envoy/keys/ca.crt");
        let client = client(&ca, Some((Path::new(&cert), Path::new(&key))));
        self.connect_with(&client).await
    }

    async fn connect_with(&self, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.envoy.ingress).await?;
        stream.set_nodelay(true)?;
        client.connect(ServerName::try_from(SERVER_NAME).unwrap(), stream).await
    }
}

fn client(ca: &Path, identity: Option<(&Path, &Path)>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = match identity {
        Some((cert, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(cert).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
}

const TUNNEL: &str = "identity:\n  - source: tunnel\n";

async fn answer(stream: std::io::Result<TlsStream<TcpStream>>, say: &str) -> String {
    let Ok(mut stream) = stream else { return "no connection".to_owned() };
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(say.as_bytes()).await?;
        let mut buffer = [0; 64];
        let count = stream.read(&mut buffer).await?;
        answer.extend_from_slice(&buffer[..count]);
        std::io::Result::Ok(())
    };
    match tokio::time::timeout(Duration::from_secs(3), talk).await {
        Err(_) => "silence".to_owned(),
        // A TLS alert or an end without one.
        Ok(Err(_)) => "closed".to_owned(),
        Ok(Ok(())) if answer.is_empty() => "closed".to_owned(),
        Ok(Ok(())) => String::from_utf8_lossy(&answer).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_with_a_grant_by_whoever_the_certificate_names() {
    let Some(redis) = Redis::start(&[]) else { return };
    let Some(lab) = Lab::start("tcp.yaml", TUNNEL, redis.port) else { return };
    let ping = |stream| answer(stream, "PING\r\n");
    assert_eq!(ping(lab.connect("web").await).await, "closed", "no grant");
    lab.grant("g", "web", "1m");
    assert_eq!(ping(lab.connect("web").await).await, "+PONG\r\n");
    assert_eq!(ping(lab.connect("other").await).await, "closed", "somebody else");
    // Of another trust domain, and without a certificate: TLS does not come about.
    let stranger = lab.connect_as("stranger", "spiffe://corp.example.evil/ns/prod/sa/web").await;
    assert!(["closed", "no connection"].contains(&ping(stranger).await.as_str()));
    let ca = lab.dir.path().join("envoy/keys/ca.crt");
    let nobody = lab.connect_with(&client(&ca, None)).await;
    assert!(["closed", "no connection"].contains(&ping(nobody).await.as_str()));
    lab.daypass.grant(&["revoke", "g"]).unwrap();
    assert_eq!(ping(lab.connect("web").await).await, "closed", "revoked");
    for expected in [r#""grant":"g""#, r#""reason":"no_grant""#, r#"/sa/web""#] {
        wait_for(expected, || lab.envoy.log().contains(expected).then_some(()));
    }
}

/// How long after the moment it should have been a connection was cut, for the client and for what it still heard.
fn late(runs: &[(Ran, Instant)]) -> (Vec<f64>, Vec<f64>) {
    let after = |moment: Instant, due: Instant| {
        let late = moment.saturating_duration_since(due).as_secs_f64() * 1e3;
        late - due.saturating_duration_since(moment).as_secs_f64() * 1e3
    };
    let mut closed: Vec<f64> = runs.iter().map(|(ran, due)| after(ran.closed, *due)).collect();
    let mut last: Vec<f64> = runs.iter().map(|(ran, due)| after(ran.last, *due)).collect();
    closed.sort_by(f64::total_cmp);
    last.sort_by(f64::total_cmp);
    (closed, last)
}

fn show(title: &str, runs: &[(Ran, Instant)]) {
    let (closed, last) = late(runs);
    let at = |values: &[f64], share: usize| values[(values.len() - 1) * share / 100];
    let of =
        |values: &[f64]| format!("{:>7.1} {:>7.1} {:>7.1}", at(values, 0), at(values, 50), at(values, 99));
    println!(
        "{title:<28} {:>4} |{} |{}  (client saw end | last data, min p50 p99 ms)",
        runs.len(),
        of(&closed),
        of(&last)
    );
    let limit = (Duration::from_millis(100) + SLACK).as_secs_f64() * 1e3;
    assert!(*closed.last().unwrap() < limit && *last.last().unwrap() < limit, "{closed:?} {last:?}");
}

/// An upstream that speaks first, to clients that talk and to clients that are silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_its_grant_and_when_it_is_revoked() {
    let ticker = Ticker::start().await;
    let Some(lab) = Lab::start("tcp.yaml", TUNNEL, ticker.tcp) else { return };
    let lab = Arc::new(lab);
    let runs = std::env::var("STREAM_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    // A first one, so that the connections after it are watched with their requests known.
    lab.grant("first", "first", "1s");
    assert!(plain(lab.connect("first").await.unwrap(), None, None, || {}).await.reads > 10);
    for (title, talk, is_revoked) in
        [("TCP, 2 s, talking", true, false), ("TCP, 2 s, silent", false, false), ("TCP, revoked", true, true)]
    {
        let one = |run: usize| {
            let lab = Arc::clone(&lab);
            let ttl = if is_revoked { "1m" } else { "2s" };
            async move {
                let name = format!("w-{run}-{talk}-{is_revoked}");
                let due = lab.grant(&name, &name, ttl);
                let stream = lab.connect(&name).await.unwrap();
                let said = format!("{name}\n");
                let ran =
                    tokio::spawn(async move { plain(stream, None, talk.then_some(&said), || {}).await });
                if !is_revoked {
                    return (ran.await.unwrap(), due);
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
                lab.daypass.grant(&["revoke", &name]).unwrap();
                let due = Instant::now();
                (ran.await.unwrap(), due)
            }
        };
        let mut ran = Vec::new();
        let all: Vec<usize> = (0..runs).collect();
        for some in all.chunks(10) {
            let tasks: Vec<_> = some.iter().map(|run| tokio::spawn(one(*run))).collect();
            for task in tasks {
                ran.push(task.await.unwrap());
            }
        }
        assert!(ran.iter().all(|(ran, _)| ran.reads > 5), "data flowed");
        show(title, &ran);
        if !is_revoked {
            let early = late(&ran).0[0];
            assert!(early >= 0.0, "cut {early} ms before");
        }
    }
    wait_for("all to be over", || (lab.daypass.metric("daypass_streams_live") == 0).then_some(()));
}

/// What `tcp-plain.yaml` says of itself is so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plain_filter_decides_on_the_first_data_and_never_again() {
    let ticker = Ticker::start().await;
    let Some(lab) = Lab::start("tcp-plain.yaml", "identity:\n  - source: peer\n", ticker.tcp) else { return };
    assert_eq!(answer(lab.connect("web").await, "web\n").await, "closed", "no grant");
    // The server would speak first, and is not even connected to.
    let silent = plain(lab.connect("web").await.unwrap(), None, None, || {});
    assert!(tokio::time::timeout(Duration::from_secs(1), silent).await.is_err(), "it waits for ever");
    assert_eq!(ticker.seen("web").requests, 0);
    lab.grant("g", "web", "1s");
    let stream = lab.connect("web").await.unwrap();
    let ran = plain(stream, Some("web\n"), Some("web\n"), || {});
    let outlived = tokio::time::timeout(Duration::from_secs(2), ran).await;
    assert!(outlived.is_err(), "a connection that ends with its grant after all: change the documentation");
    let last = ticker.seen("web").last.unwrap();
    assert!(last.elapsed() < TICK * 20, "data went on flowing after the end of the grant");
    assert_eq!(answer(lab.connect("web").await, "web\n").await, "closed", "the grant has ended");
}
