//! Many live streams, watched, and all of them ended by one lock.
//!
//! `STREAMS` (400) is how many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use daypass::api::v1;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::daypass::write_file;
use crate::support::lab::Lab;
use crate::support::wait_for;

/// As many as Envoy takes on one connection without being told.
const PER_CONNECTION: usize = 100;
/// What the project promises that a watched stream costs.
const PROMISED_BYTES: u64 = 20 * 1024;
/// Clock ticks a second of /proc, on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

fn streams() -> usize {
    std::env::var("STREAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

/// Resident memory in bytes, and processor time in seconds.
fn usage(pid: u32) -> (u64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let rss: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (rss * 1024, (ticks(11) + ticks(12)) / TICKS_PER_SECOND)
}

/// Opens streams on one connection; each resolves with the moment it ended.
async fn open(lab: &Lab, count: usize, ended: &mut JoinSet<Instant>) {
    let stream = TcpStream::connect(&lab.envoy.ingress).await.unwrap();
    let (send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let request = hyper::Request::get("http://many/idle")
            .header("authorization", format!("Bearer {}", lab.token))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let mut send = send.clone();
        opening.spawn(async move { send.send_request(request).await.unwrap() });
    }
    for response in opening.join_all().await {
        assert_eq!(response.status(), 200);
        ended.spawn(async move {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            Instant::now()
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lock_ends_them_all() {
    let count = streams();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let room =
        write_file(dir.path(), "d.yaml", "stream: {max_watched: 20000, max_watched_per_caller: 20000}\n");
    let Some(lab) = Lab::start_in(&dir, &["--config", &room], &[]).await else { return };
    let pid = lab.daypass.process.0.id();
    lab.grant("many", Duration::from_secs(3000)).await;
    let mut ended = JoinSet::new();
    // The first is watched without its request, and everything that is made once is made.
    open(&lab, PER_CONNECTION, &mut ended).await;
    let (before, _) = usage(pid);
    let began = Instant::now();
    for _ in 0..count / PER_CONNECTION {
        open(&lab, PER_CONNECTION, &mut ended).await;
    }
    let opened = began.elapsed();
    let live = u64::try_from(count + PER_CONNECTION).unwrap();
    wait_for("all to be watched", || (lab.live() == live).then_some(()));
    let (full, cpu) = usage(pid);
    let rest = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let at_rest = (usage(pid).1 - cpu) / rest.elapsed().as_secs_f64();
    let each = full.saturating_sub(before) / u64::try_from(count).unwrap();
    println!(
        "{count} streams opened in {opened:?}; {} MiB, {each} bytes each; at rest {:.1} % of a core",
        full >> 20,
        at_rest * 100.0
    );
    // Policy is loaded again and says the same: each is decided again, and none ends.
    let reloads = lab.daypass.metric("daypass_policy_loads_total{result=\"ok\"}");
    lab.daypass.process.signal("-HUP");
    wait_for("policy to be loaded", || {
        (lab.daypass.metric("daypass_policy_loads_total{result=\"ok\"}") > reloads).then_some(())
    });
    let decided = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        lab.daypass.client().await.check(crate::support::request::alice()).await;
        clients.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    clients.sort();
    println!(
        "a check while all are decided again took {:?} (median), {:?} (worst)",
        clients[10], clients[19]
    );
    assert!(
        decided.elapsed() > Duration::from_secs(1) && lab.live() == live,
        "ended by a policy that says the same"
    );
    lab.lock("all", v1::lock::Target::Principal("user:alice".into())).await;
    let locked = Instant::now();
    let mut ends: Vec<Duration> =
        ended.join_all().await.into_iter().map(|end| end.saturating_duration_since(locked)).collect();
    ends.sort();
    let at = |share: usize| ends[(ends.len() - 1) * share / 100];
    println!("ended after the lock was answered: p50 {:?}, p99 {:?}, the last {:?}", at(50), at(99), at(100));
    assert_eq!(lab.ended("locked"), live);
    assert!(each <= PROMISED_BYTES, "{each} bytes a stream");
    wait_for("all to be over", || (lab.live() == 0).then_some(()));
}
