//! What ends a live stream beside the end and the revocation of its grant, and what does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use daypass::api::v1;

use crate::support::daypass::{Daypass, write_file};
use crate::support::lab::Lab;
use crate::support::redis::Redis;
use crate::support::streaming::{self, Kind};
use crate::support::ticker::TICK;
use crate::support::wait_for;

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than anything here takes to end a stream, even on a busy machine.
const A_WHILE: Duration = Duration::from_millis(700);

/// Asserts that it ends soon, and returns how long it took.
async fn ends<T>(stream: tokio::task::JoinHandle<T>, why: &str) -> Duration {
    let began = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream).await;
    assert!(ended.is_ok(), "not ended: {why}");
    began.elapsed()
}

/// The first stream after the start is watched, but its request was not kept: nobody had asked for one before.
async fn warm_up(lab: &Lab) {
    lab.grant("warm-up", MINUTE).await;
    let stream = lab.begun(Kind::Chunked, "warm-up").await;
    lab.revoke("warm-up").await;
    ends(stream, "warm-up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_ends_the_streams_it_is_against_and_no_others() {
    let Some(lab) = Lab::start(&[], &[]).await else { return };
    warm_up(&lab).await;
    lab.grant("one", MINUTE).await;
    let stream = lab.begun(Kind::WebSocket, "one").await;
    lab.lock("other", v1::lock::Target::Principal("user:mallory".into())).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(!stream.is_finished(), "a lock on somebody else");
    lab.lock("alice", v1::lock::Target::Principal("user:alice".into())).await;
    let took = ends(stream, "a lock on its caller").await;
    println!("a stream ended {took:?} after a lock on its caller");
    assert_eq!(lab.ended("locked"), 1);
    let line = lab
        .daypass
        .log()
        .lines()
        .find(|line| line.contains("ended a live stream") && line.contains("locked"))
        .map(str::to_owned);
    assert!(line.is_some_and(|line| line.contains("request_id=\"") && line.contains("decision_id=\"")));
    wait_for("Envoy's log", || lab.envoy.log().contains("daypass_locked").then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_everything_ends_what_rests_on_grants() {
    let Some(lab) = Lab::start(&[], &[]).await else { return };
    lab.grant("one", MINUTE).await;
    // The first, whose request is not known: its grants are.
    let stream = lab.begun(Kind::Sse, "one").await;
    lab.lock("all", v1::lock::Target::Everything(true)).await;
    ends(stream, "a lock on everything").await;
    assert_eq!(lab.ended("locked"), 1);
}

const BY_LEASE: &str = r#"package envoy.authz
default allow := {"allowed": false}
allow := {"allowed": true, "lease": 1.5} if count(input.jit.covering) > 0
"#;

const NOBODY_ON_B: &str = r#"package envoy.authz
default allow := {"allowed": false}
allow := {"allowed": true} if { count(input.jit.covering) > 0; input.attributes.request.http.host != "b" }
"#;

const ALL: &str = r#"package envoy.authz
default allow := {"allowed": false}
allow := {"allowed": true} if count(input.jit.covering) > 0
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrower_policy_ends_what_it_would_deny() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let policy = write_file(dir.path(), "policy.rego", ALL);
    let Some(lab) = Lab::start_in(&dir, &["--policy", &policy], &[]).await else { return };
    lab.grant("first", MINUTE).await;
    let first = lab.begun(Kind::Chunked, "first").await;
    lab.grant("a", MINUTE).await;
    lab.grant("b", MINUTE).await;
    let a = lab.begun(Kind::Chunked, "a").await;
    let b = lab.begun(Kind::GrpcBidi, "b").await;
    assert_eq!(lab.live(), 3);
    write_file(dir.path(), "policy.rego", NOBODY_ON_B);
    lab.daypass.process.signal("-HUP");
    ends(b, "policy would deny it").await;
    assert_eq!(lab.ended("policy_denied"), 1);
    // Nobody knows what it asked for; who still may comes back.
    ends(first, "its request was not kept").await;
    assert_eq!(lab.ended("policy_changed"), 1);
    tokio::time::sleep(A_WHILE).await;
    assert!(!a.is_finished(), "policy still allows it");
    // It rests on its grant as before.
    lab.revoke("a").await;
    ends(a, "its grant is gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_policy_ends_a_stream_before_its_grant() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let policy = write_file(dir.path(), "policy.rego", BY_LEASE);
    let Some(lab) = Lab::start_in(&dir, &["--policy", &policy], &[]).await else { return };
    lab.grant("leased", MINUTE).await;
    let began = Instant::now();
    let (ran, ()) = lab.stream(Kind::Chunked, "leased", || async {}).await;
    let lasted = ran.last - began;
    assert!(lasted > Duration::from_millis(1300) && lasted < Duration::from_millis(2200), "{lasted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_no_longer_covers_ends_the_stream_and_one_that_lasts_longer_does_not() {
    let Some(redis) = Redis::start(&[]) else { return };
    let Some(lab) = Lab::start(&["--store", &redis.url()], &[]).await else { return };
    let write = |hosts: &str, seconds: u64| {
        let value = format!(r#"{{"v":1,"subject":"user:alice","permissions":[{{"hosts":["{hosts}"]}}]}}"#);
        redis.set("g", &value, seconds * 1000);
    };
    wait_for("the first copy", || (lab.daypass.ops("/readyz").0 == 200).then_some(()));
    write("warm-up", 60);
    let stream = lab.begun(Kind::Chunked, "warm-up").await;
    redis.del("g");
    ends(stream, "its key was deleted").await;
    write("h", 60);
    let stream = lab.begun(Kind::Chunked, "h").await;
    write("h", 600);
    tokio::time::sleep(A_WHILE).await;
    assert!(!stream.is_finished(), "extended");
    write("other", 600);
    ends(stream, "another host").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daypass_that_is_gone_cuts_nothing_and_the_deadline_holds() {
    for signal in ["-KILL", "-TERM"] {
        let Some(lab) = Lab::start(&[], &[]).await else { return };
        let due = lab.grant("one", Duration::from_secs(4)).await;
        let stream = lab.begun(Kind::GrpcBidi, "one").await;
        let asked = Instant::now();
        lab.daypass.process.signal(signal);
        wait_for("daypass to be gone", || {
            std::net::TcpStream::connect(&lab.daypass.check).is_err().then_some(())
        });
        assert!(asked.elapsed() < Duration::from_secs(3), "a live stream held up the end of the process");
        let ran = stream.await.unwrap();
        assert!(ran.last + TICK * 4 >= due, "cut before its end by {signal}: {ran:?}");
        assert!(ran.closed <= due + Duration::from_millis(500), "{ran:?}");
    }
}

/// The request goes through one instance, and its watch to another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_watches_what_another_let_in() {
    let Some(redis) = Redis::start(&[]) else { return };
    let other = Daypass::start(&["--store", &redis.url()]);
    wait_for("the first copy", || (other.ops("/readyz").0 == 200).then_some(()));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let Some(lab) = Lab::watched_by(&other, &dir, &["--store", &redis.url()]).await else { return };
    wait_for("the first copy", || (lab.daypass.ops("/readyz").0 == 200).then_some(()));
    for (name, by_lock) in [("revoked", false), ("locked", true)] {
        lab.grant(name, MINUTE).await;
        let stream = lab.begun(Kind::GrpcServerStream, name).await;
        assert_eq!((other.metric("daypass_streams_live"), lab.live()), (1, 0));
        if by_lock {
            lab.lock("alice", v1::lock::Target::Principal("user:alice".into())).await;
        } else {
            lab.revoke(name).await;
        }
        ends(stream, name).await;
    }
    let ended = |reason: &str| other.metric(&format!("daypass_streams_ended_total{{reason=\"{reason}\"}}"));
    assert_eq!((ended("grant_revoked"), ended("locked")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_a_grpc_call_is_told_when_to_end_it() {
    let Some(lab) = Lab::start(&[], &[]).await else { return };
    for (name, asks, ends) in
        [("longer", "100S", "grpc-status 4"), ("shorter", "500m", "grpc-status 4"), ("none", "", "")]
    {
        lab.grant(name, Duration::from_secs(2)).await;
        let stream = tokio::net::TcpStream::connect(&lab.envoy.ingress).await.unwrap();
        let ran = streaming::grpc(stream, Kind::GrpcBidi, &lab.token, name, asks, || {}).await;
        let told = lab.ticker.seen(name).grpc_timeout;
        match name {
            "longer" => {
                let millis: u64 = told.unwrap().trim_end_matches('m').parse().unwrap();
                assert!((1500..=2000).contains(&millis), "{millis}");
            }
            "shorter" => assert_eq!(told.as_deref(), Some("500m"), "theirs"),
            _ => assert_eq!(told, None),
        }
        assert!(ran.end.contains(ends), "{name}: {}", ran.end);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_cuts_nothing() {
    let Some(lab) = Lab::start(&["--dry-run"], &[]).await else { return };
    lab.grant("one", MINUTE).await;
    let stream = lab.begun(Kind::Chunked, "one").await;
    lab.revoke("one").await;
    tokio::time::sleep(A_WHILE).await;
    assert!(!stream.is_finished());
    assert_eq!(lab.daypass.metric("daypass_streams_unwatched_total{reason=\"dry_run\"}"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_streams_run_unwatched_and_are_counted() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = write_file(dir.path(), "d.yaml", "stream: {max_watched: 1}\n");
    let Some(lab) = Lab::start_in(&dir, &["--config", &config], &[]).await else { return };
    lab.grant("one", MINUTE).await;
    lab.grant("two", MINUTE).await;
    let one = lab.begun(Kind::Chunked, "one").await;
    let two = lab.begun(Kind::Chunked, "two").await;
    assert_eq!(lab.live(), 1);
    assert_eq!(lab.daypass.metric("daypass_streams_unwatched_total{reason=\"too_many\"}"), 1);
    lab.revoke("two").await;
    lab.revoke("one").await;
    ends(one, "watched").await;
    assert!(!two.is_finished(), "not watched");
}

/// Whoever could open all streams that are watched would have the rest of its own unwatched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_has_a_share_of_what_is_watched() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = write_file(dir.path(), "d.yaml", "stream: {max_watched: 8}\n");
    let Some(lab) = Lab::start_in(&dir, &["--config", &config], &[]).await else { return };
    for name in ["one", "two", "three"] {
        lab.grant(name, MINUTE).await;
    }
    let _held = (lab.begun(Kind::Chunked, "one").await, lab.begun(Kind::Chunked, "two").await);
    let ran = streaming::run(Kind::Silent, &lab.envoy.ingress, &lab.token, "three", || {}).await;
    assert!(ran.status.starts_with("HTTP/1.1 503"), "{ran:?}");
    assert_eq!((lab.live(), lab.ended("overloaded")), (2, 1));
}

const HEALTH: &str = r#"package envoy.authz
default allow := {"allowed": false}
allow := {"allowed": true} if count(input.jit.covering) > 0
allow := {"allowed": true, "grants": []} if input.attributes.request.http.host == "health"
"#;

/// What another instance let in without a grant stands against a lock on everything here, too; and a lock on somebody ends what
/// rests on a grant of their group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_instance_knows_who_called_and_on_what_it_rests() {
    let Some(redis) = Redis::start(&[]) else { return };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let policy = write_file(dir.path(), "policy.rego", HEALTH);
    let args = ["--store", &redis.url(), "--policy", &policy];
    let other = Daypass::start(&args);
    wait_for("the first copy", || (other.ops("/readyz").0 == 200).then_some(()));
    let Some(lab) = Lab::watched_by(&other, &dir, &args).await else { return };
    wait_for("the first copy", || (lab.daypass.ops("/readyz").0 == 200).then_some(()));
    let health = lab.begun(Kind::Chunked, "health").await;
    redis.set("g", r#"{"v":1,"subject":"group:sre","permissions":[{"hosts":["team"]}]}"#, 60_000);
    let team = loop {
        let (stream, began) = lab.spawn(Kind::Chunked, "team");
        if began.await.is_ok() {
            break stream;
        }
    };
    assert_eq!(other.metric("daypass_streams_inferred_total"), 2);
    lab.lock("alice", v1::lock::Target::Principal("user:alice".into())).await;
    ends(team, "a lock on a member of the group").await;
    ends(health, "a lock on its caller").await;
}
