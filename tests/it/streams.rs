//! Streams on a real Envoy end with their grant: when it ends, and when it is revoked.
//!
//! `STREAM_RUNS` (4) is how often each kind of stream is tried.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::lab::Lab;
use crate::support::streaming::{Kind, Ran};
use crate::support::ticker::Seen;
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

/// Whoever waits for an answer is told that there is none any more, and nobody asks the upstream in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_never_answers_is_not_asked_again_after_the_end() {
    let retries = "route: { cluster: upstream, timeout: 0s, retry_policy: { retry_on: \"5xx,reset\", num_retries: 2 } }";
    let changes = [("route: { cluster: upstream, timeout: 0s }", retries)];
    let Some(lab) = Lab::start(&[], &changes).await else { return };
    println!("an upstream that never answers, and a route with retries\n{HEAD}");
    let cuts = expiry(&lab, Kind::Silent, Duration::from_secs(2)).await;
    println!("{}", show("a grant of 2 s ends", &cuts));
    assert_cut(Kind::Silent, &cuts, 0.0);
    let cuts = revocation(&lab, Kind::Silent).await;
    println!("{}", show("revoked", &cuts));
    assert_cut(Kind::Silent, &cuts, -1000.0);
}
