//! Use-limited grants: exact over any number of sidecars, whatever is lost on the way.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use daypass::authz::{Checker, RequestIds};
use daypass::clock::Clock;
use daypass::store::{Limited, Use};

use crate::support::daypass::{Daypass, write_file};
use crate::support::proxy::{Held, Proxy};
use crate::support::redis::Redis;
use crate::support::request::{ALICES_GRANT, alice, is_allow, reason};
use crate::support::sidecar::{Settings, Sidecar, until};
use crate::support::wait_for;

const HOUR_MS: u64 = 3_600_000;

fn limited(uses: u32) -> String {
    ALICES_GRANT.replace("\"v\":1", &format!("\"v\":1,\"max_uses\":{uses}"))
}

/// As alice, with a request id.
fn numbered(id: &str) -> envoy_types::pb::envoy::service::auth::v3::CheckRequest {
    let mut check = alice();
    let http = check.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.headers.insert("x-request-id".to_owned(), id.to_owned());
    check
}

/// The acceptance of use limits: 50 uses, 4 sidecars, 400 checks at once, each sent twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_uses_are_fifty() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", &limited(50), HOUR_MS);
    let dir = tempfile::tempdir().unwrap();
    let config =
        write_file(dir.path(), "d.yaml", "uses: {trust_request_id: true}\nlimits: {check_timeout: 10s}\n");
    let mut sidecars = Vec::new();
    for _ in 0..4 {
        sidecars.push(Daypass::start(&["--store", &redis.url(), "--config", &config]));
    }
    let mut checks = Vec::new();
    for sidecar in &sidecars {
        wait_for("the first copy", || (sidecar.ops("/readyz").0 == 200).then_some(()));
    }
    for number in 0..400 {
        // The repeat goes to another sidecar, as a retry may.
        for turn in 0..2 {
            let mut client = sidecars[(number + turn) % 4].client().await;
            checks.push(tokio::spawn(async move {
                let answer = client.check(numbered(&format!("r-{number}"))).await;
                (number, reason(&answer))
            }));
        }
    }
    let mut answers = vec![Vec::new(); 400];
    for check in checks {
        let (number, reason) = check.await.unwrap();
        answers[number].push(reason);
    }
    let allowed = answers.iter().filter(|both| both[0] == "grant").count();
    assert_eq!(allowed, 50);
    for both in &answers {
        assert_eq!(both[0], both[1], "the same request, the same answer");
        assert!(both[0] == "grant" || both[0] == "uses_exhausted", "{both:?}");
    }
    assert_eq!(redis.run::<u64>("GET {jit}:used:g"), 50);
    println!(
        "max_uses 50, 4 sidecars, 400 checks sent twice: {allowed} allowed, {} exhausted",
        400 - allowed
    );
}

fn trusting(sidecar: &Sidecar, request_ids: RequestIds) -> Checker {
    let mut checker = crate::support::checker::on(
        &daypass::policy::Sources::built_in(),
        &sidecar.replica,
        &sidecar.metrics,
        &sidecar.store,
    );
    checker.config.request_ids = request_ids;
    checker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_is_free_only_where_request_ids_are_trusted() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", &limited(3), HOUR_MS);
    let sidecar = Sidecar::start(&redis.url(), Settings::default()).in_step().await;
    let trusted = trusting(&sidecar, RequestIds::Trusted);
    for _ in 0..5 {
        assert!(is_allow(&trusted.check(&numbered("same")).await));
    }
    assert_eq!(redis.run::<u64>("GET {jit}:used:g"), 1);
    let mut elsewhere = numbered("same");
    elsewhere.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap().path =
        "/db/other".to_owned();
    assert!(is_allow(&trusted.check(&elsewhere).await));
    assert_eq!(redis.run::<u64>("GET {jit}:used:g"), 2, "the same id for another request is another use");
    // Revoked: the repeat of a consumed request is denied too.
    redis.del("g");
    until("the deletion", || sidecar.replica.get("g").is_none()).await;
    assert_eq!(reason(&trusted.check(&numbered("same")).await), "no_grant");
    redis.set("g2", &limited(2), HOUR_MS);
    until("the next grant", || sidecar.replica.get("g2").is_some()).await;
    let untrusting = trusting(&sidecar, RequestIds::Ignored);
    let answers = [(); 3].map(|()| numbered("same"));
    let mut reasons = Vec::new();
    for check in &answers {
        reasons.push(reason(&untrusting.check(check).await));
    }
    assert_eq!(reasons, ["grant", "grant", "uses_exhausted"]);
}

/// What the store says when the sidecar has not heard yet. The replica is cut off from its pushes for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thing_that_happened_meanwhile_has_its_reason() {
    let Some(redis) = Redis::start(&[]) else { return };
    let proxy = Proxy::to(redis.port);
    for (what, expected) in [
        ("DEL {jit}:grant:g", Use::Revoked("g".parse().unwrap())),
        ("SETRANGE {jit}:grant:g 5 2", Use::Changed),
        ("PERSIST {jit}:grant:g", Use::Changed),
        ("SET {jit}:used:g 2", Use::Exhausted("g".parse().unwrap())),
        ("PING", Use::Taken),
    ] {
        redis.run::<()>("FLUSHALL");
        redis.set("g", &limited(2), HOUR_MS);
        let sidecar = Sidecar::start(&proxy.url(), Settings::default()).in_step().await;
        let grant = sidecar.replica.get("g").unwrap();
        redis.run::<redis::Value>(what);
        let use_of = Limited { grant, max_uses: NonZeroU64::new(2).unwrap() };
        let taken = sidecar.store.take_uses(vec![use_of], "check", Duration::from_secs(3)).await.unwrap();
        assert_eq!(taken, expected, "{what}");
    }
    // Expired: by the time the server is asked, the grant's own deadline has passed.
    redis.run::<()>("FLUSHALL");
    redis.set("g", &limited(2), 300);
    let sidecar = Sidecar::start(&proxy.url(), Settings::default()).in_step().await;
    let grant = sidecar.replica.get("g").unwrap();
    until("its end", || grant.lifetime.has_ended(Clock::System.now())).await;
    let use_of = Limited { grant, max_uses: NonZeroU64::new(2).unwrap() };
    let taken = sidecar.store.take_uses(vec![use_of], "check", Duration::from_secs(3)).await.unwrap();
    assert_eq!(taken, Use::Ended("g".parse().unwrap()));
}

/// Between the decision and the use: over the check path, with the push held back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_is_gone_before_its_use_denies_with_the_reason() {
    let Some(redis) = Redis::start(&[]) else { return };
    let proxy = Proxy::to(redis.port);
    redis.set("g", &limited(5), HOUR_MS);
    let sidecar = Sidecar::start(&proxy.url(), Settings::default()).in_step().await;
    assert_eq!(sidecar.reason().await, "grant");
    // The session's connection is held; the one for uses is made anew, and works.
    proxy.hold(&[Held::Replies]);
    redis.del("g");
    assert_eq!(sidecar.reason().await, "grant_revoked");
    proxy.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_grant_is_read_and_decided_again() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", &limited(100_000), HOUR_MS);
    let sidecar = Sidecar::start(&redis.url(), Settings::default()).in_step().await;
    let writer = std::thread::spawn(move || {
        for round in 0..500 {
            redis.set("g", &limited(100_000 + round), HOUR_MS);
            std::thread::sleep(Duration::from_millis(1));
        }
        redis
    });
    let mut checks = 0;
    while !writer.is_finished() {
        let found = sidecar.reason().await;
        assert!(found == "grant" || found == "grant_changed", "{found}");
        checks += usize::from(found == "grant");
    }
    drop(writer.join());
    assert!(checks > 10, "{checks}");
}

/// The caller may hold another grant: one that is spent hides no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_is_spent_the_next_one_counts() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("a", &limited(2), HOUR_MS);
    redis.set("b", &limited(1), HOUR_MS / 2);
    let sidecar = Sidecar::start(&redis.url(), Settings::default()).in_step().await;
    for expected in ["grant", "grant", "grant", "uses_exhausted"] {
        assert_eq!(sidecar.reason().await, expected);
    }
    redis.set("unlimited", ALICES_GRANT, HOUR_MS / 4);
    sidecar.until_reason("grant").await;
    assert_eq!(redis.run::<u64>("GET {jit}:used:a"), 2);
}

/// All or none: a decision that rests on two limited grants takes no use of the first if the second has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_grants_are_used_together_or_not_at_all() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("a", &limited(5), HOUR_MS);
    redis.set("b", &limited(1), HOUR_MS);
    let sidecar = Sidecar::start(&redis.url(), Settings::default()).in_step().await;
    let both = || -> Vec<Limited> {
        let grant = |id: &str| sidecar.replica.get(id).unwrap();
        let one = |id: &str| Limited { max_uses: grant(id).max_uses.unwrap(), grant: grant(id) };
        vec![one("a"), one("b")]
    };
    let take =
        async |check: &str| sidecar.store.take_uses(both(), check, Duration::from_secs(3)).await.unwrap();
    assert_eq!(take("first").await, Use::Taken);
    assert_eq!(take("first").await, Use::Taken, "the same check again");
    assert_eq!(take("second").await, Use::Exhausted("b".parse().unwrap()));
    assert_eq!(redis.run::<(u64, u64)>("MGET {jit}:used:a {jit}:used:b"), (1, 1));
}

/// An answer that does not come is asked for once more on another connection, and counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_costs_one_use() {
    let Some(redis) = Redis::start(&[]) else { return };
    for round in 0..3 {
        // A network of its own each time: what was held of the last round arrives late.
        let proxy = Proxy::to(redis.port);
        let id = format!("g-{round}");
        redis.set(&id, &limited(1_000), HOUR_MS);
        let sidecar = Sidecar::start(&proxy.url(), Settings::default()).in_step().await;
        assert_eq!(sidecar.reason().await, "grant");
        proxy.hold(&[Held::Replies]);
        let began = Instant::now();
        let mut checker = trusting(&sidecar, RequestIds::Ignored);
        checker.config.check_timeout = Duration::from_secs(1);
        assert_eq!(reason(&checker.check(&alice()).await), "grant", "round {round}");
        println!("allowed on the second connection after {:?}", began.elapsed());
        assert_eq!(redis.run::<u64>(&format!("GET {{jit}}:used:{id}")), 2);
        // And when that is silent too, the answer is that nobody knows.
        proxy.hold_all();
        let unknown = reason(&checker.check(&alice()).await);
        assert!(unknown == "stale" || unknown == "timeout", "{unknown}");
        redis.del(&id);
    }
}

/// Contention over real sockets, without repeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_are_exact_under_contention() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", &limited(40), HOUR_MS);
    let mut sidecars = Vec::new();
    for _ in 0..3 {
        sidecars.push(Arc::new(Sidecar::start(&redis.url(), Settings::default()).in_step().await));
    }
    let allowed = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for turn in 0..30 {
        let (sidecar, allowed) = (Arc::clone(&sidecars[turn % 3]), Arc::clone(&allowed));
        tasks.push(tokio::spawn(async move {
            for _ in 0..5 {
                match sidecar.reason().await.as_str() {
                    "grant" => _ = allowed.fetch_add(1, Ordering::Relaxed),
                    "uses_exhausted" => {}
                    other => panic!("{other}"),
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(allowed.load(Ordering::Relaxed), 40);
}
