//! Streams on a real Envoy end with their grant: when it ends, and when it is revoked.
//!
//! `STREAM_RUNS` (4) is how often each kind of stream is tried.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use daypass::api::v1;
use daypass::api::v1::grant_service_client::GrantServiceClient;
use tonic::Request;
use tonic::transport::Channel;

use crate::support::daypass::{Daypass, channel};
use crate::support::envoy::{self, Envoy, port};
use crate::support::streaming::{self, Kind, Ran};
use crate::support::ticker::{Seen, Ticker};
use crate::support::wait_for;

/// Streams at once. The machine ticks for each of them fifty times a second, in four processes.
const AT_ONCE: usize = 20;
/// What the project promises of an end, and of a revocation.
const PROMISED: Duration = Duration::from_millis(100);
/// How much later a loaded machine may be in a test. The figures are printed; who wants them runs it alone.
const SLACK: Duration = Duration::from_millis(400);

fn runs() -> usize {
    std::env::var("STREAM_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// daypass, Envoy with `streams.yaml`, and an upstream that ticks.
#[derive(Clone)]
struct Lab {
    daypass: Arc<Daypass>,
    envoy: Arc<Envoy>,
    ticker: Ticker,
    token: String,
    admin: String,
    grants: GrantServiceClient<Channel>,
}

impl Lab {
    async fn start(args: &[&str], changes: &[(&str, &str)]) -> Option<Self> {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let daypass = Daypass::start_in(&dir, args);
        let ticker = Ticker::start().await;
        let token = envoy::token(dir.path(), "alice")?;
        let ports = [
            ("9191", port(&daypass.check)),
            ("8080", port(&ticker.http.to_string())),
            ("5432", port(&ticker.tcp.to_string())),
        ];
        let ports = ports.map(|(from, to)| (format!("port_value: {from}"), to));
        let ports = ports.iter().map(|(from, to)| (from.as_str(), to.as_str()));
        let changes: Vec<_> = ports.chain(changes.iter().copied()).collect();
        let envoy = Arc::new(Envoy::start("streams.yaml", dir.path(), &changes)?);
        let admin = std::fs::read_to_string(daypass.data_dir().join("token")).unwrap().trim().to_owned();
        let grants = GrantServiceClient::new(channel(&daypass.api).await);
        Some(Self { daypass: Arc::new(daypass), envoy, ticker, token, admin, grants })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.admin).parse().unwrap());
        request
    }

    /// Alice may talk to the host of this name. When that ends.
    async fn grant(&self, name: &str, ttl: Duration) -> Instant {
        let permission = v1::Permission { hosts: vec![name.to_owned()], ..Default::default() };
        let grant = v1::Grant {
            id: name.to_owned(),
            subject: "user:alice".to_owned(),
            permissions: vec![permission],
            ..Default::default()
        };
        let ttl = Some(prost_types::Duration { seconds: i64::try_from(ttl.as_secs()).unwrap(), nanos: 0 });
        let create = self.request(v1::CreateGrantRequest { grant: Some(grant), ttl });
        let made = self.grants.clone().create_grant(create).await.unwrap().into_inner();
        let end = SystemTime::try_from(made.expires_at.unwrap()).unwrap();
        Instant::now() + end.duration_since(SystemTime::now()).unwrap()
    }

    async fn revoke(&self, name: &str) {
        let revoke = self.request(v1::RevokeGrantRequest { id: name.to_owned(), reason: String::new() });
        self.grants.clone().revoke_grant(revoke).await.unwrap();
    }

    /// Runs a stream, and does `then` when it has begun.
    async fn stream<F>(&self, kind: Kind, name: &str, then: impl FnOnce() -> F) -> (Ran, F::Output)
    where
        F: Future + Send,
    {
        let (give, began) = tokio::sync::oneshot::channel();
        let lab = self.clone();
        let owned = name.to_owned();
        let stream = tokio::spawn(async move {
            let began = move || {
                let _ = give.send(());
            };
            streaming::run(kind, &lab.envoy.ingress, &lab.token, &owned, began).await
        });
        if kind != Kind::Silent {
            let began = tokio::time::timeout(Duration::from_secs(20), began).await;
            assert!(matches!(began, Ok(Ok(()))), "{kind:?} did not begin: {:?}\n{}", stream.await, self.daypass.log());
        }
        let done = then().await;
        (stream.await.unwrap(), done)
    }

    fn ended(&self, reason: &str) -> u64 {
        self.daypass.metric(&format!("daypass_streams_ended_total{{reason=\"{reason}\"}}"))
    }
}

/// One stream that was cut: how long after the moment it should have been.
struct Cut {
    /// Data came to the client for the last time.
    last_down: f64,
    /// The client saw the end.
    closed: f64,
    /// Data came to the upstream for the last time.
    last_up: f64,
    /// The upstream saw the end.
    gone: f64,
    requests: u32,
    end: String,
}

fn after(moment: Instant, due: Instant) -> f64 {
    let late = moment.saturating_duration_since(due).as_secs_f64() * 1e3;
    let early = due.saturating_duration_since(moment).as_secs_f64() * 1e3;
    late - early
}

impl Cut {
    fn of(ran: &Ran, seen: &Seen, due: Instant) -> Self {
        Self {
            last_down: after(ran.last, due),
            closed: after(ran.closed, due),
            last_up: seen.last.map_or(f64::NAN, |last| after(last, due)),
            gone: seen.gone.map_or(f64::NAN, |gone| after(gone, due)),
            requests: seen.requests,
            end: ran.end.clone(),
        }
    }
}

fn show(title: &str, cuts: &[Cut]) -> String {
    let of = |value: fn(&Cut) -> f64| {
        let mut values: Vec<f64> = cuts.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: usize| values[(values.len() - 1) * share / 100];
        format!("{:>7.1} {:>7.1} {:>7.1}", values[0], at(50), at(99))
    };
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.end.as_str()).collect();
    ends.sort_unstable();
    ends.dedup();
    format!(
        "{title:<28} {:>4} |{} |{} |{} | {}",
        cuts.len(),
        of(|cut| cut.closed),
        of(|cut| cut.last_down),
        of(|cut| cut.gone),
        ends.join(", ")
    )
}

const HEAD: &str = "ms after the due moment       runs |client saw end  min p50 p99 |last data to client     |upstream saw end         | how";

/// Runs `one` for each name, a few at a time.
async fn each<F: Future<Output = Cut> + Send + 'static>(
    names: Vec<String>,
    one: impl Fn(String) -> F + Send + Sync + 'static,
) -> Vec<Cut> {
    let one = Arc::new(one);
    let mut cuts = Vec::new();
    for names in names.chunks(AT_ONCE) {
        let tasks: Vec<_> = names.iter().map(|name| tokio::spawn(one(name.clone()))).collect();
        for task in tasks {
            cuts.push(task.await.unwrap());
        }
    }
    cuts
}

fn names(kind: Kind, why: &str) -> Vec<String> {
    (0..runs()).map(|run| format!("{kind:?}-{why}-{run}").to_lowercase()).collect()
}

async fn expiry(lab: &Lab, kind: Kind, ttl: Duration) -> Vec<Cut> {
    let lab = lab.clone();
    each(names(kind, "end"), move |name| {
        let lab = lab.clone();
        async move {
            let due = lab.grant(&name, ttl).await;
            let (ran, ()) = lab.stream(kind, &name, || async {}).await;
            // The upstream hears of it a moment later.
            tokio::time::sleep(Duration::from_millis(200)).await;
            Cut::of(&ran, &lab.ticker.seen(&name), due)
        }
    })
    .await
}

async fn revocation(lab: &Lab, kind: Kind) -> Vec<Cut> {
    let lab = lab.clone();
    each(names(kind, "revoked"), move |name| {
        let lab = lab.clone();
        async move {
            lab.grant(&name, Duration::from_secs(60)).await;
            let revoke = || async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                lab.revoke(&name).await;
                Instant::now()
            };
            let (ran, due) = lab.stream(kind, &name, revoke).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            Cut::of(&ran, &lab.ticker.seen(&name), due)
        }
    })
    .await
}

fn assert_cut(kind: Kind, cuts: &[Cut], earliest: f64) {
    let latest = (PROMISED + SLACK).as_secs_f64() * 1e3;
    for cut in cuts {
        let Cut { last_down, closed, last_up, gone, requests, .. } = *cut;
        assert!(closed >= earliest && closed <= latest, "{kind:?} ended {closed} ms after: {}", cut.end);
        assert!(last_down <= latest, "{kind:?}: data {last_down} ms after");
        assert!(last_up.is_nan() || last_up <= latest, "{kind:?}: the upstream got data {last_up} ms after");
        assert!(gone <= latest, "{kind:?}: the upstream saw the end {gone} ms after");
        assert_eq!(requests, 1, "{kind:?}: the upstream was asked again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_stream_ends_with_its_grant_and_not_before() {
    let Some(lab) = Lab::start(&[], &[]).await else { return };
    println!("a grant of 3 s ends\n{HEAD}");
    for kind in Kind::TALKING {
        let cuts = expiry(&lab, kind, Duration::from_secs(3)).await;
        println!("{}", show(&format!("{kind:?}"), &cuts));
        assert_cut(kind, &cuts, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_stream_ends_when_its_grant_is_revoked() {
    let Some(lab) = Lab::start(&[], &[]).await else { return };
    println!("a grant is revoked: after the answer to the revocation\n{HEAD}");
    for kind in Kind::TALKING {
        let cuts = revocation(&lab, kind).await;
        println!("{}", show(&format!("{kind:?}"), &cuts));
        // The push to the watch may be faster than the answer to who asked.
        assert_cut(kind, &cuts, -1000.0);
    }
    let expected = u64::try_from(Kind::TALKING.len() * runs()).unwrap();
    assert_eq!(lab.ended("grant_revoked"), expected);
    wait_for("all to be over", || (lab.daypass.metric("daypass_streams_live") == 0).then_some(()));
}
