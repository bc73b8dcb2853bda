//! Grants in a real Redis: written by anybody, seen at once, ended on time, and never guessed at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use daypass::clock::Clock;
use daypass::metrics::Metrics;
use daypass::policy::Sources;
use daypass::replica::{Limits, Replica, Staleness};
use daypass::store::record::{ReadAt, Ttl, decode};
use daypass::store::{EmbeddedStore, Store, Surroundings};

use crate::support::checker;
use crate::support::daypass::{Client, Daypass};
use crate::support::redis::Redis;
use crate::support::request::{
    ALICES_GRANT, alice, denied_status, is_allow, metadata, reason, upstream_header,
};
use crate::support::{PATIENCE, wait_for};

/// How soon a write must show at a check (acceptance of the store, measured in the same run).
const VISIBLE_WITHIN: Duration = Duration::from_millis(50);

fn started(redis: &Redis, arguments: &[&str]) -> Daypass {
    let url = redis.url();
    let daypass = Daypass::start(&[&["--store", &url], arguments].concat());
    wait_for("the first copy of the grants", || (daypass.ops("/readyz").0 == 200).then_some(()));
    daypass
}

/// Checks until the reason is as expected; how long that took.
async fn until(client: &mut Client, expected: &str) -> Duration {
    let started = Instant::now();
    loop {
        let found = reason(&client.check(alice()).await);
        if found == expected {
            return started.elapsed();
        }
        assert!(started.elapsed() < PATIENCE, "still {found}, not {expected}");
    }
}

#[tokio::test]
async fn a_set_is_seen_by_the_next_check_and_so_is_a_del() {
    let Some(redis) = Redis::start(&[]) else { return };
    let daypass = started(&redis, &[]);
    let mut client = daypass.client().await;
    let (mut granted, mut revoked) = (Vec::new(), Vec::new());
    for round in 0..30 {
        let id = format!("g-{round}");
        redis.set(&id, ALICES_GRANT, 60_000);
        granted.push(until(&mut client, "grant").await);
        let response = client.check(alice()).await;
        assert_eq!(metadata(&response, "grant"), id);
        let left: u64 =
            upstream_header(&response, "x-envoy-upstream-stream-duration-ms").unwrap().parse().unwrap();
        assert!((50_000..=60_002).contains(&left), "{left}");
        redis.del(&id);
        revoked.push(until(&mut client, "no_grant").await);
    }
    granted.sort_unstable();
    revoked.sort_unstable();
    println!("SET acknowledged -> allowed: median {:?}, worst {:?}", granted[15], granted[29]);
    println!("DEL acknowledged -> denied:  median {:?}, worst {:?}", revoked[15], revoked[29]);
    // The median, because one preemption of a test on a busy machine is not the store's doing.
    assert!(granted[15] < VISIBLE_WITHIN && revoked[15] < VISIBLE_WITHIN);
}

#[tokio::test]
async fn a_grant_ends_at_its_deadline_without_help_from_redis() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis::cmd("DEBUG").arg("SET-ACTIVE-EXPIRE").arg(0).query::<()>(&mut redis.connect()).unwrap();
    let daypass = started(&redis, &[]);
    let mut client = daypass.client().await;
    let mut errors_us = Vec::new();
    for round in 0..5 {
        let before = Instant::now();
        redis.set(&format!("g-{round}"), ALICES_GRANT, 400);
        let after = Instant::now();
        until(&mut client, "grant").await;
        // With less than 100 ms left a grant begins no new request; then it is gone.
        until(&mut client, "grant_ending").await;
        until(&mut client, "no_grant").await;
        let ended = Instant::now();
        assert!(ended - before >= Duration::from_millis(400) - Duration::from_millis(20), "too early");
        errors_us.push((ended - after).saturating_sub(Duration::from_millis(400)).as_micros());
    }
    errors_us.sort_unstable();
    println!("denied after the deadline by (us): {errors_us:?}");
    assert!(errors_us[2] < 20_000, "{errors_us:?}");
}

#[tokio::test]
async fn what_is_no_grant_is_refused_and_counted_while_others_go_on() {
    let Some(redis) = Redis::start(&["--proto-max-bulk-len", "128mb"]) else { return };
    let daypass = started(&redis, &[]);
    let mut client = daypass.client().await;
    let mut connection = redis.connect();
    redis.set("good", ALICES_GRANT, 60_000);
    let key = |id: &str| format!("{{jit}}:grant:{id}");
    redis::cmd("SET").arg(key("forever")).arg(ALICES_GRANT).query::<()>(&mut connection).unwrap();
    redis.set("huge", &"x".repeat(64 << 20), 60_000);
    redis::cmd("HSET").arg(key("hash")).arg("a").arg(1).query::<()>(&mut connection).unwrap();
    redis.set("malformed", r#"{"v":1,"subject":"#, 60_000);
    redis.set("long", ALICES_GRANT, 25 * 3600 * 1000);
    redis.set("newer", r#"{"v":2,"subject":"user:alice"}"#, 60_000);
    redis.set("field", r#"{"v":1,"subject":"user:alice","permission":[]}"#, 60_000);
    redis.set("bad id", ALICES_GRANT, 60_000);
    redis.set("nobody", r#"{"v":1,"subject":""}"#, 60_000);
    redis.set("nothing", r#"{"v":1,"subject":"user:alice","permissions":[{}]}"#, 60_000);
    let binary = [b"{jit}:grant:\xff\xfe".to_vec(), vec![b'k'; 10_000]].concat();
    redis::cmd("SET").arg(binary).arg("x").arg("PX").arg(60_000).query::<()>(&mut connection).unwrap();
    for (reason, count) in [
        ("no_ttl", 1),
        ("too_large", 1),
        ("wrong_type", 1),
        ("not_json", 1),
        ("ttl_too_long", 1),
        ("bad_version", 1),
        ("unknown_field", 1),
        ("bad_id", 2),
        ("bad_subject", 1),
        ("bad_permission", 1),
    ] {
        let series = format!("daypass_grants_refused_total{{reason=\"{reason}\"}}");
        wait_for(&format!("{series} to be {count}"), || (daypass.metric(&series) >= count).then_some(()));
    }
    assert_eq!(metadata(&client.check(alice()).await, "grant"), "good");
    // Also with all of that there when a sidecar starts.
    let other = started(&redis, &[]);
    assert_eq!(metadata(&other.client().await.check(alice()).await, "grant"), "good");
    // A plain SET over a grant drops its TTL: from then on it is none.
    redis::cmd("SET").arg(key("good")).arg(ALICES_GRANT).query::<()>(&mut connection).unwrap();
    until(&mut client, "no_grant").await;
}

#[tokio::test]
async fn without_redis_every_answer_is_cannot_tell_and_it_comes_back_by_itself() {
    let Some(mut redis) = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let config_dir = tempfile::tempdir().unwrap();
    let config = crate::support::daypass::write_file(
        config_dir.path(),
        "d.yaml",
        "max_staleness: 500ms\nhealth_paths: [/healthz]\n",
    );
    let daypass = started(&redis, &["--config", &config]);
    let mut client = daypass.client().await;
    redis.set("g", ALICES_GRANT, 600_000);
    until(&mut client, "grant").await;
    let killed = Instant::now();
    redis.kill();
    until(&mut client, "stale").await;
    let until_stale = killed.elapsed();
    println!("stale {until_stale:?} after Redis was killed");
    assert!(until_stale < Duration::from_secs(2), "{until_stale:?}");
    let response = client.check(alice()).await;
    assert_eq!(denied_status(&response), 503);
    let probe = crate::support::request::request("nobody", "GET", "orders.svc", "/healthz");
    assert!(is_allow(&client.check(probe).await), "a decision that rests on no grant stands");
    let (status, body) = daypass.ops("/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("\"component\":\"replica\""), "{body}");
    redis.restart();
    until(&mut client, "grant").await;
    wait_for("readiness", || (daypass.ops("/readyz").0 == 200).then_some(()));
}

#[tokio::test]
async fn a_flush_denies_everybody_at_once() {
    let Some(redis) = Redis::start(&[]) else { return };
    let daypass = started(&redis, &[]);
    let mut client = daypass.client().await;
    redis.set("g", ALICES_GRANT, 60_000);
    until(&mut client, "grant").await;
    redis::cmd("FLUSHALL").query::<()>(&mut redis.connect()).unwrap();
    until(&mut client, "no_grant").await;
    redis.set("g2", ALICES_GRANT, 60_000);
    until(&mut client, "grant").await;
}

#[tokio::test]
async fn a_renewal_is_never_seen_as_a_denial() {
    let Some(redis) = Redis::start(&[]) else { return };
    let daypass = started(&redis, &[]);
    let mut client = daypass.client().await;
    redis.set("g", ALICES_GRANT, 60_000);
    until(&mut client, "grant").await;
    let is_done = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let is_done = Arc::clone(&is_done);
        move || {
            let mut renewals = 0;
            while !is_done.load(Ordering::Relaxed) {
                redis.set("g", ALICES_GRANT, 60_000);
                renewals += 1;
            }
            renewals
        }
    });
    for check in 0..500 {
        assert_eq!(reason(&client.check(alice()).await), "grant", "check {check}");
    }
    is_done.store(true, Ordering::Relaxed);
    let renewals = writer.join().unwrap();
    assert!(renewals > 10, "{renewals}");
}

/// Random writes, flushes and killed connections; afterwards the sidecar agrees with the server about every grant.
#[tokio::test]
async fn converges_after_whatever_happened() {
    let Some(redis) = Redis::start(&[]) else { return };
    let daypass = started(&redis, &[]);
    let mut client = daypass.client().await;
    let mut connection = redis.connect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for round in 0..10 {
        for _ in 0..200 {
            let key = format!("{{jit}}:grant:g-{}", next(20));
            let command = match next(100) {
                0..=54 => redis::cmd("SET")
                    .arg(&key)
                    .arg(ALICES_GRANT.replace("alice", &format!("u-{}", next(20))))
                    .arg("PX")
                    .arg(60_000)
                    .take(),
                55..=89 => redis::cmd("DEL").arg(&key).take(),
                90..=95 => redis::cmd("PERSIST").arg(&key).take(),
                96..=97 => redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).take(),
                _ => redis::cmd("FLUSHALL").take(),
            };
            let _: redis::Value = command.query(&mut connection).unwrap();
        }
        // What the server says now: who holds a grant that counts.
        let mut holders = std::collections::BTreeSet::new();
        for number in 0..20 {
            let key = format!("{{jit}}:grant:g-{number}");
            let value: Option<String> = redis::cmd("GET").arg(&key).query(&mut connection).unwrap();
            let ttl: i64 = redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap();
            let record = value
                .filter(|_| ttl > 0)
                .map(|value| serde_json::from_str::<serde_json::Value>(&value).unwrap());
            holders.extend(record.map(|record| record["subject"].as_str().unwrap().replace("user:", "")));
        }
        let deadline = Instant::now() + PATIENCE;
        for number in 0..20 {
            let user = format!("u-{number}");
            let expected = if holders.contains(&user) { "grant" } else { "no_grant" };
            loop {
                let check = crate::support::request::request(&user, "GET", "orders.svc", "/db/rows");
                let found = reason(&client.check(check).await);
                if found == expected {
                    break;
                }
                assert!(Instant::now() < deadline, "round {round}: {user} is {found}, not {expected}");
            }
        }
    }
}

#[tokio::test]
async fn uses_are_counted_over_all_sidecars() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (first, second) = (started(&redis, &[]), started(&redis, &[]));
    let limited = ALICES_GRANT.replace("\"v\":1", "\"v\":1,\"max_uses\":10");
    redis.set("g", &limited, 60_000);
    let mut clients = [first.client().await, second.client().await];
    for client in &mut clients {
        // A check that sees the grant takes a use; one of each sidecar.
        until(client, "grant").await;
    }
    let mut outcomes = Vec::new();
    for turn in 0..20 {
        outcomes.push(reason(&clients[turn % 2].check(alice()).await));
    }
    assert_eq!(outcomes.iter().filter(|reason| *reason == "grant").count(), 8, "{outcomes:?}");
    assert!(outcomes[8..].iter().all(|reason| reason == "uses_exhausted"), "{outcomes:?}");
    // An unlimited grant that covers the same is preferred.
    redis.set("free", ALICES_GRANT, 60_000);
    for client in &mut clients {
        until(client, "grant").await;
    }
}

#[tokio::test]
async fn an_extension_brings_no_uses_back() {
    let Some(redis) = Redis::start(&[]) else { return };
    let daypass = started(&redis, &[]);
    let mut client = daypass.client().await;
    let limited = ALICES_GRANT.replace("\"v\":1", "\"v\":1,\"max_uses\":1");
    redis.set("g", &limited, 1_500);
    until(&mut client, "grant").await;
    until(&mut client, "uses_exhausted").await;
    redis.set("g", &limited, 60_000);
    let first_end = Instant::now() + Duration::from_millis(1_600);
    while Instant::now() < first_end {
        assert_ne!(reason(&client.check(alice()).await), "grant");
    }
    until(&mut client, "uses_exhausted").await;
}

#[tokio::test]
async fn a_replica_of_redis_is_not_believed() {
    let (Some(master), Some(other)) = (Redis::start(&[]), Redis::start(&[])) else { return };
    let daypass = started(&other, &[]);
    let mut client = daypass.client().await;
    other.set("g", ALICES_GRANT, 60_000);
    until(&mut client, "grant").await;
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port).query::<()>(&mut other.connect()).unwrap();
    until(&mut client, "stale").await;
    wait_for("the reason in the log", || daypass.log().contains("the server is a replica").then_some(()));
}

/// With what a URL would have to escape.
const PASSWORD: &str = "s3cret:/@";

#[tokio::test]
async fn the_grant_api_writes_the_keys_that_anybody_may_write() {
    let Some(redis) = Redis::start(&["--requirepass", PASSWORD]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let password = crate::support::daypass::write_file(dir.path(), "password", &format!("{PASSWORD}\n"));
    let config = crate::support::daypass::write_file(
        dir.path(),
        "d.yaml",
        &format!("store: redis://127.0.0.1:{}\nredis: {{password_file: {password}}}\n", redis.port),
    );
    let daypass = Daypass::start(&["--store", &redis.url(), "--config", &config]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    let mut client = daypass.client().await;
    daypass
        .grant(&["create", "--id", "g1", "--subject", "user:alice", "--host", "orders.svc", "--ttl", "1m"])
        .unwrap();
    until(&mut client, "grant").await;
    let mut connection = redis.connect();
    let value: String = redis::cmd("GET").arg("{jit}:grant:g1").query(&mut connection).unwrap();
    assert_eq!(value, r#"{"v":1,"id":"g1","subject":"user:alice","permissions":[{"hosts":["orders.svc"]}]}"#);
    let ttl: i64 = redis::cmd("PTTL").arg("{jit}:grant:g1").query(&mut connection).unwrap();
    assert!((50_000..=60_000).contains(&ttl), "{ttl}");
    assert!(
        daypass
            .grant(&["create", "--id", "g1", "--subject", "user:bob", "--ttl", "1m"])
            .unwrap_err()
            .contains("exists")
    );
    assert!(daypass.grant(&["ls"]).unwrap().contains("g1"));
    daypass.grant(&["revoke", "--subject", "user:alice"]).unwrap();
    until(&mut client, "no_grant").await;
    assert!(daypass.grant(&["revoke", "g1"]).unwrap_err().contains("revoked already"));
    assert!(!daypass.log().contains("s3cret"));
}

/// Freshness is judged again behind the policy: what was known when it began need not be when it ends.
#[tokio::test]
async fn what_became_unknown_during_evaluation_is_denied() {
    const STALENESS: Duration = Duration::from_millis(10);
    let metrics = Arc::new(Metrics::new().unwrap());
    let limits = Limits { grants: 10, grants_per_principal: 10 };
    let replica = Arc::new(Replica::new(Staleness::AtMost(STALENESS), limits));
    let around = Surroundings {
        replica: Arc::clone(&replica),
        metrics: Arc::clone(&metrics),
        clock: Clock::System,
        max_ttl: Duration::from_secs(3600),
    };
    let read_at = ReadAt { sent: Clock::System.now(), ttl: Ttl::Left(Duration::from_secs(600)) };
    replica.insert(decode("g", ALICES_GRANT.as_bytes(), read_at, around.max_ttl).unwrap()).unwrap();
    let store = Arc::new(Store::Embedded(Arc::new(EmbeddedStore::in_memory(around).unwrap())));
    let policy = "package envoy.authz\n\
                  allow if { input.jit.covering[0]; sum([x | some x in numbers.range(1, 120000)]) > 0 }\n";
    let checker = checker::on(&Sources::from_text("slow.rego", policy), &replica, &metrics, &store);
    replica.confirm(Clock::System.now().boot);
    let began = Instant::now();
    let response = checker.check(&alice()).await;
    assert!(began.elapsed() > STALENESS, "the policy is not slow enough to tell");
    assert_eq!(reason(&response), "stale");
}
