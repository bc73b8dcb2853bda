//! Redis dies, hangs, lies, fills up and loses what it said: what a sidecar does then. `docs/guarantees.md` names these
//! tests one by one.

use std::time::{Duration, Instant};

use crate::support::daypass::{Daypass, write_file};
use crate::support::journal::give;
use crate::support::proxy::{Held, Proxy};
use crate::support::redis::{Redis, Replicated};
use crate::support::request::{ALICES_GRANT, alice, denied_status, reason};
use crate::support::sidecar::{Settings, Sidecar, until};
use crate::support::{PATIENCE, wait_for};

const HOUR_MS: u64 = 3_600_000;
/// Short, so that the tests are; the bound is the same rule at any length.
const STALENESS: Duration = Duration::from_millis(800);

fn quick() -> Settings {
    Settings { max_staleness: STALENESS, ..Settings::default() }
}

async fn following(redis: &Redis) -> Sidecar {
    Sidecar::start(&redis.url(), quick()).in_step().await
}

/// That many grants of as many others.
fn fill(redis: &Redis, count: usize) {
    let mut pipeline = redis::pipe();
    for number in 0..count {
        let value = ALICES_GRANT.replace("alice", &format!("u-{number}"));
        pipeline
            .cmd("SET")
            .arg(format!("{{jit}}:grant:g-{number}"))
            .arg(value)
            .arg("PX")
            .arg(HOUR_MS)
            .ignore();
    }
    pipeline.query::<()>(&mut redis.connect()).unwrap();
}

/// Asks until nothing is allowed any more, and holds the last allow against the bound: a check that *began* more than
/// `max_staleness` after the revocation was acknowledged must deny, whatever the machine was doing.
async fn no_allow_later_than_the_bound(sidecar: &Sidecar, acknowledged: Instant) -> Duration {
    let mut last_allow = acknowledged;
    loop {
        let began = Instant::now();
        match sidecar.reason().await.as_str() {
            "grant" => {
                last_allow = began;
                assert!(
                    began - acknowledged <= STALENESS,
                    "allowed {:?} after the revocation",
                    began - acknowledged
                );
            }
            "no_grant" | "stale" if began - acknowledged > STALENESS * 2 => return last_allow - acknowledged,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_or_loses_what_its_persistence_says() {
    let always = ["--appendonly", "yes", "--appendfsync", "always"];
    for (arguments, expected) in [(&always[..], "grant"), (&[][..], "no_grant")] {
        let Some(mut redis) = Redis::start(arguments) else { return };
        redis.set("g", ALICES_GRANT, HOUR_MS);
        let sidecar = following(&redis).await;
        sidecar.until_reason("grant").await;
        let resyncs = sidecar.metric("daypass_replica_resyncs_total");
        redis.restart();
        until("another copy", || sidecar.metric("daypass_replica_resyncs_total") > resyncs).await;
        assert_eq!(sidecar.reason().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_grant_does_not_come_back_from_a_snapshot() {
    let Some(mut redis) = Redis::start(&["--save", "3600 1000000"]) else { return };
    redis.set("g", ALICES_GRANT, HOUR_MS);
    redis.set("other", &ALICES_GRANT.replace("alice", "bob"), HOUR_MS);
    redis.run::<()>("SAVE");
    let sidecar = following(&redis).await;
    sidecar.until_reason("grant").await;
    redis.del("g");
    sidecar.until_reason("no_grant").await;
    redis.restart();
    let value: Option<String> = redis.run("GET {jit}:grant:g");
    assert!(value.is_some(), "the server has brought it back");
    until("the refusal", || sidecar.refused("resurrected") > 0).await;
    until("freshness", || sidecar.is_fresh()).await;
    assert_eq!(sidecar.reason().await, "no_grant");
    assert!(sidecar.replica.get("other").is_some(), "what was never revoked is used again");
    // Also when it is touched, and in a history after that.
    redis.run::<()>("PEXPIRE {jit}:grant:g 100000");
    until("the second refusal", || sidecar.refused("resurrected") > 1).await;
    redis.run::<()>("SAVE");
    redis.restart();
    until("the third refusal", || sidecar.refused("resurrected") > 2).await;
    assert_eq!(sidecar.replica.get("g"), None);
    // A sidecar that never saw it end cannot know; that is what WAIT, AOF and the ledger are for.
    assert_eq!(following(&redis).await.reason().await, "grant");
    // A grant of another id is another grant.
    redis.set("g2", ALICES_GRANT, HOUR_MS);
    sidecar.until_reason("grant").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_for_a_lost_revocation_asks_again() {
    let Some(mut redis) = Redis::start(&["--save", "3600 1000000"]) else { return };
    let daypass = Daypass::start(&["--store", &redis.url()]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    daypass
        .grant(&["create", "--id", "g", "--subject", "user:alice", "--path", "/db/**", "--ttl", "1h"])
        .unwrap();
    redis.run::<()>("SAVE");
    daypass.grant(&["revoke", "g"]).unwrap();
    // Asked twice, as a client does whose answer was lost: still this daypass' business.
    assert!(daypass.grant(&["revoke", "g"]).unwrap_err().contains("revoked already"));
    redis.restart();
    wait_for("the grant to be revoked again", || {
        redis.run::<Option<String>>("GET {jit}:grant:g").is_none().then_some(())
    });
    assert_eq!(daypass.metric("daypass_revocations_reapplied_total"), 1);
    wait_for("the event of it", || {
        let events: redis::Value = redis.run("XRANGE {jit}:events - +");
        let text = format!("{events:?}");
        (text.contains("grant.revoked_again") && text.contains("2-0")).then_some(())
    });
    let error =
        daypass.grant(&["create", "--id", "g", "--subject", "user:alice", "--ttl", "1h"]).unwrap_err();
    assert!(error.contains("ids are never used again"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_is_stale_and_comes_back() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", ALICES_GRANT, HOUR_MS);
    let sidecar = following(&redis).await;
    sidecar.until_reason("grant").await;
    let stopped = Instant::now();
    redis.process.signal("-STOP");
    no_allow_later_than_the_bound(&sidecar, stopped).await;
    assert_eq!(sidecar.reason().await, "stale");
    redis.process.signal("-CONT");
    println!("back {:?} after SIGCONT", sidecar.until_reason("grant").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_link_is_found_by_the_heartbeat() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", ALICES_GRANT, HOUR_MS);
    for held in [&[Held::Requests, Held::Replies][..], &[Held::Requests], &[Held::Replies]] {
        let proxy = Proxy::to(redis.port);
        let sidecar = Sidecar::start(&proxy.url(), Settings::default()).in_step().await;
        sidecar.until_reason("grant").await;
        proxy.hold(held);
        redis.set("g2", &ALICES_GRANT.replace("alice", "carol"), HOUR_MS);
        let silent = Instant::now();
        // The new grant can only be heard of over a new connection.
        until("a new connection", || sidecar.replica.get("g2").is_some()).await;
        println!("{held:?} silent: heard again after {:?}", silent.elapsed());
        assert!(sidecar.is_fresh(), "within max_staleness nobody notices");
        redis.del("g2");
    }
}

/// The acceptance of the bound: acknowledged by Redis, unknown to the sidecar, and over after `max_staleness`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_allow_outlives_a_revocation_in_a_black_hole() {
    let tries: u64 = std::env::var("BLACK_HOLE_TRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let Some(redis) = Redis::start(&[]) else { return };
    let mut lasted = Vec::new();
    for round in 0..tries {
        let proxy = Proxy::to(redis.port);
        let id = format!("g-{round}");
        redis.set(&id, ALICES_GRANT, HOUR_MS);
        let sidecar = Sidecar::start(&proxy.url(), quick()).in_step().await;
        sidecar.until_reason("grant").await;
        // At another point between two heartbeats each time.
        tokio::time::sleep(Duration::from_millis(round * 37 % 200)).await;
        if round % 2 == 0 {
            proxy.hold_all();
        } else {
            proxy.hold(&[Held::Replies]);
        }
        redis.del(&id);
        lasted.push(no_allow_later_than_the_bound(&sidecar, Instant::now()).await);
        proxy.release();
        sidecar.until_reason("no_grant").await;
    }
    lasted.sort_unstable();
    let (median, worst) = (lasted[lasted.len() / 2], lasted[lasted.len() - 1]);
    println!(
        "{tries} black holes, max_staleness {STALENESS:?}: last allow median {median:?}, worst {worst:?} after the DEL"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_denies_nobody_below_the_bound() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", ALICES_GRANT, HOUR_MS);
    let proxy = Proxy::to(redis.port);
    let sidecar = Sidecar::start(&proxy.url(), Settings::default()).in_step().await;
    sidecar.until_reason("grant").await;
    proxy.delay(Duration::from_millis(60));
    let sleeper = std::thread::spawn({
        let client = redis.connect();
        move || {
            let mut client = client;
            redis::cmd("DEBUG").arg("SLEEP").arg(1).query::<()>(&mut client).unwrap();
        }
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(sidecar.reason().await, "grant", "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sleeper.join().unwrap();
    let failures: u64 = ["heartbeat", "timeout", "closed"]
        .iter()
        .map(|cause| sidecar.metric(&format!("daypass_store_sessions_ended_total{{cause=\"{cause}\"}}")))
        .sum();
    assert!(failures <= 4, "a storm of {failures} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_in_the_middle_of_a_copy() {
    let Some(redis) = Redis::start(&[]) else { return };
    fill(&redis, 5_000);
    let sidecar = Sidecar::start(&redis.url(), Settings::default());
    for _ in 0..30 {
        redis.run::<u64>("CLIENT KILL TYPE normal SKIPME yes");
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    until("all grants", || sidecar.replica.len() == 5_000 && sidecar.is_fresh()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_of_every_kind() {
    let Some(redis) = Redis::start(&[]) else { return };
    let sidecar = following(&redis).await;
    for (round, flush) in ["FLUSHALL", "FLUSHDB", "FLUSHALL ASYNC"].iter().enumerate() {
        redis.set(&format!("g-{round}"), ALICES_GRANT, HOUR_MS);
        sidecar.until_reason("grant").await;
        redis.run::<()>(flush);
        let began = Instant::now();
        sidecar.until_reason("no_grant").await;
        println!("{flush}: denied after {:?}", began.elapsed());
    }
    // SWAPDB is announced to nobody; that is why it is forbidden. The next copy sees it.
    redis.set("g", ALICES_GRANT, HOUR_MS);
    sidecar.until_reason("grant").await;
    redis.run::<()>("SWAPDB 0 1");
    redis.run::<u64>("CLIENT KILL TYPE normal SKIPME yes");
    sidecar.until_reason("no_grant").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_still_revokes() {
    let Some(redis) = Redis::start(&[]) else { return };
    let daypass = Daypass::start(&["--store", &redis.url()]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    redis.set("g", ALICES_GRANT, HOUR_MS);
    let limited = ALICES_GRANT.replace("\"v\":1", "\"v\":1,\"max_uses\":9").replace("alice", "bob");
    redis.set("limited", &limited, HOUR_MS);
    let mut client = daypass.client().await;
    while reason(&client.check(alice()).await) != "grant" {}
    redis.run::<()>("CONFIG SET maxmemory 1mb");
    let bob = || crate::support::request::request("bob", "GET", "orders.svc", "/db/rows");
    assert_eq!(reason(&client.check(bob()).await), "stale", "a use that cannot be counted is none");
    let error = daypass.grant(&["create", "--subject", "user:carol", "--ttl", "1m"]).unwrap_err();
    assert!(error.contains("out of memory") && error.contains("nothing was written"), "{error}");
    daypass.grant(&["revoke", "g"]).unwrap();
    while reason(&client.check(alice()).await) != "no_grant" {}
    let events = redis.events();
    assert!(
        !events.iter().any(|event| event.contains("grant.created")),
        "an event of the creation: {events:?}"
    );
    assert!(events.last().unwrap().contains("grant.revoked"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_grant_is_denied_and_the_policy_is_named() {
    let Some(redis) = Redis::start(&["--maxmemory-policy", "volatile-ttl"]) else { return };
    let daypass = Daypass::start(&["--store", &redis.url()]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    assert!(daypass.log().contains("maxmemory-policy evicts keys with a TTL"), "{}", daypass.log());
    assert_eq!(daypass.metric("daypass_store_concerns"), 1);
    let sidecar = following(&redis).await;
    redis.set("g", ALICES_GRANT, HOUR_MS);
    sidecar.until_reason("grant").await;
    redis.run::<()>("CONFIG SET maxmemory 1mb");
    // Something must be written for something to be evicted.
    let _: redis::RedisResult<()> = redis::cmd("SET").arg("x").arg("y").query(&mut redis.connect());
    sidecar.until_reason("no_grant").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_cannot_be_trusted_with_counters_are_refused() {
    let Some(redis) = Redis::start(&["--maxmemory-policy", "allkeys-lru"]) else { return };
    let daypass = Daypass::start(&["--store", &redis.url()]);
    let refusal = || {
        daypass.ops("/readyz").1.contains("maxmemory-policy allkeys-lru may evict the counters").then_some(())
    };
    wait_for("the refusal", refusal);
    redis.run::<()>("CONFIG SET maxmemory-policy noeviction");
    wait_for("readiness without a restart", || (daypass.ops("/readyz").0 == 200).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_warned_of() {
    for (arguments, warning) in [
        (&["--save", "3600 1"][..], "a restart brings revoked grants back"),
        (&["--appendonly", "yes"][..], "its AOF is not synced with every write"),
    ] {
        let Some(redis) = Redis::start(arguments) else { return };
        let daypass = Daypass::start(&["--store", &redis.url()]);
        wait_for("the warning", || daypass.log().contains(warning).then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_is_left() {
    let (Some(other), Some(redis)) = (Redis::start(&[]), Redis::start(&[])) else { return };
    let sidecar = following(&redis).await;
    redis.set("g", ALICES_GRANT, HOUR_MS);
    sidecar.until_reason("grant").await;
    redis.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", other.port));
    sidecar.until_reason("stale").await;
    assert_eq!(sidecar.replica.trouble().as_deref(), Some("the server is a replica, not the master"));
    until("the other's data", || redis.info("master_link_status") == "up").await;
    redis.run::<()>("REPLICAOF NO ONE");
    sidecar.until_reason("no_grant").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_master_is_not_believed() {
    let Some((Replicated { master, replica: _replica }, between)) = Replicated::start_apart() else { return };
    let settings = Settings { require_replicas: 1, ..quick() };
    master.set("g", ALICES_GRANT, HOUR_MS);
    let sidecar = Sidecar::start(&master.url(), settings).in_step().await;
    sidecar.until_reason("grant").await;
    let isolated = Instant::now();
    between.hold_all();
    sidecar.until_reason("stale").await;
    // Lag limit, a second of Redis' own resolution, a heartbeat, and max_staleness.
    println!("an isolated master was stale after {:?}", isolated.elapsed());
    let trouble = sidecar.replica.trouble().unwrap();
    assert!(trouble.contains("the master has 0 of 1 required replicas"), "{trouble}");
    between.release();
    sidecar.until_reason("grant").await;
    assert_eq!(sidecar.replica.trouble(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_the_revocation() {
    let Some((Replicated { master, replica }, between)) = Replicated::start_apart() else { return };
    master.set("g", ALICES_GRANT, HOUR_MS);
    wait_for("the replica to have it", || replica.run::<Option<String>>("GET {jit}:grant:g"));
    // One address for whoever is the master, as a Service or DNS gives it.
    let front = Proxy::to(master.port);
    let sidecar = Sidecar::start(&front.url(), quick()).in_step().await;
    sidecar.until_reason("grant").await;
    {
        let api = Daypass::start(&["--store", &front.url()]);
        wait_for("the first copy", || (api.ops("/readyz").0 == 200).then_some(()));
        wait_for("the replica to be seen", || (api.metric("daypass_store_replicas") == 1).then_some(()));
        between.hold_all();
        let answer = api.grant(&["revoke", "g"]).unwrap();
        assert!(answer.contains("0 of 1 replicas of the store have it"), "{answer}");
        // It ends here: its ledger would ask for the revocation again.
    }
    sidecar.until_reason("no_grant").await;
    between.cut();
    replica.run::<()>("REPLICAOF NO ONE");
    assert!(replica.run::<Option<String>>("GET {jit}:grant:g").is_some(), "the revocation is lost");
    front.point_to(replica.port);
    front.cut();
    until("the refusal", || sidecar.refused("resurrected") > 0).await;
    until("freshness", || sidecar.is_fresh()).await;
    assert_eq!(sidecar.reason().await, "no_grant");
}

/// Whoever revoked it saw it end too, and refuses it also while it cannot be revoked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_revoked_a_grant_remembers_it() {
    let Some((Replicated { master, replica }, between)) = Replicated::start_apart() else { return };
    master.set("g", ALICES_GRANT, HOUR_MS);
    wait_for("the replica to have it", || replica.run::<Option<String>>("GET {jit}:grant:g"));
    let front = Proxy::to(master.port);
    let daypass = Daypass::start(&["--store", &front.url()]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    let mut client = daypass.client().await;
    while reason(&client.check(alice()).await) != "grant" {}
    between.hold_all();
    daypass.grant(&["revoke", "g"]).unwrap();
    between.cut();
    // The next master takes no writes: it has no replica, and wants one.
    replica.run::<()>("CONFIG SET min-replicas-to-write 1");
    replica.run::<()>("REPLICAOF NO ONE");
    let resyncs = daypass.metric("daypass_replica_resyncs_total");
    front.point_to(replica.port);
    front.cut();
    wait_for("a copy of the next master", || {
        (daypass.metric("daypass_replica_resyncs_total") > resyncs).then_some(())
    });
    wait_for("readiness", || (daypass.ops("/readyz").0 == 200).then_some(()));
    assert_eq!(reason(&client.check(alice()).await), "no_grant");
    assert!(replica.run::<Option<String>>("GET {jit}:grant:g").is_some());
    wait_for("the refused revocation in the log", || daypass.log().contains("NOREPLICAS").then_some(()));
    // As soon as it may, it is revoked for all.
    replica.run::<()>("CONFIG SET min-replicas-to-write 0");
    wait_for("the revocation", || replica.run::<Option<String>>("GET {jit}:grant:g").is_none().then_some(()));
}

/// A creation whose answer is lost is sent again; what was revoked meanwhile must not be given again by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_creation_undoes_no_revocation() {
    let Some(redis) = Redis::start(&[]) else { return };
    let proxy = Proxy::to(redis.port);
    let sidecar = Sidecar::start(&proxy.url(), Settings::default()).in_step().await;
    let create = |id: &'static str| give(&sidecar.store, id, ALICES_GRANT, Duration::from_secs(600));
    create("first").await.unwrap();
    proxy.hold(&[Held::Replies]);
    let revoker = std::thread::spawn({
        let mut connection = redis.connect();
        move || {
            wait_for("the creation to be carried out", || {
                let deleted: u64 = redis::cmd("DEL").arg("{jit}:grant:g").query(&mut connection).unwrap();
                (deleted == 1).then_some(())
            });
        }
    });
    create("g").await.unwrap();
    revoker.join().unwrap();
    assert_eq!(redis.run::<Option<String>>("GET {jit}:grant:g"), None);
    assert_eq!(redis.run::<u64>("XLEN {jit}:events"), 2, "one event of each creation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_are_refused_say_so_and_come_back() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", ALICES_GRANT, HOUR_MS);
    let dir = tempfile::tempdir().unwrap();
    let password = write_file(dir.path(), "password", "first\n");
    let config = write_file(
        dir.path(),
        "d.yaml",
        &format!("redis: {{password_file: {password}}}\nmax_staleness: 500ms\n"),
    );
    let url = format!("redis://sidecar@127.0.0.1:{}", redis.port);
    redis.run::<()>("ACL SETUSER sidecar on >other ~* +@all");
    let daypass = Daypass::start(&["--store", &url, "--config", &config]);
    let says = |text: &str| {
        let found = || daypass.ops("/readyz").1.contains(text).then_some(());
        wait_for(text, found);
    };
    says("the server refuses this user");
    redis.run::<()>("ACL SETUSER sidecar resetpass >first");
    wait_for("readiness", || (daypass.ops("/readyz").0 == 200).then_some(()));
    // Rotated: the connection that is there goes on, the next one reads the file again.
    redis.run::<()>("ACL SETUSER sidecar resetpass >second");
    write_file(dir.path(), "password", "second\n");
    redis.run::<u64>("CLIENT KILL USER sidecar");
    wait_for("readiness after rotation", || (daypass.ops("/readyz").0 == 200).then_some(()));
    redis.run::<u64>("ACL DELUSER sidecar");
    says("the server refuses this user");
    redis.run::<()>("ACL SETUSER sidecar on >second ~* +@all -client|tracking");
    says("client|tracking");
    let mut client = daypass.client().await;
    let response = client.check(alice()).await;
    assert_eq!((reason(&response), denied_status(&response)), ("stale".to_owned(), 503));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_and_busy_servers_cannot_tell() {
    let slowly = ["--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"];
    let Some(mut redis) = Redis::start(&[&["--save", "3600 1000000"], &slowly[..]].concat()) else { return };
    let mut pipeline = redis::pipe();
    for number in 0..3_000 {
        pipeline.cmd("SET").arg(format!("foreign-{number}")).arg("x").ignore();
    }
    pipeline.query::<()>(&mut redis.connect()).unwrap();
    redis.set("g", ALICES_GRANT, HOUR_MS);
    redis.run::<()>("SAVE");
    let sidecar = following(&redis).await;
    sidecar.until_reason("grant").await;
    // A script that does not end: after `busy-reply-threshold` the server answers BUSY to all others.
    redis.run::<()>("CONFIG SET busy-reply-threshold 50");
    let mut busy = redis.connect();
    let script = std::thread::spawn(move || {
        let _: redis::RedisResult<()> = redis::cmd("EVAL").arg("while true do end").arg(0).query(&mut busy);
    });
    sidecar.until_reason("stale").await;
    let trouble = sidecar.replica.trouble().unwrap().to_string();
    assert!(trouble.contains("BUSY") || trouble.contains("no answer"), "{trouble}");
    redis.run::<()>("SCRIPT KILL");
    script.join().unwrap();
    sidecar.until_reason("grant").await;
    redis.kill();
    redis.respawn();
    until("LOADING", || sidecar.replica.trouble().is_some_and(|why| why.contains("loading the dataset")))
        .await;
    sidecar.until_reason("grant").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_without_its_replicas_data_says_master_down() {
    // A replica that refuses to serve what may be old is a replica, and is left for that alone.
    let Some(pair) = Replicated::start(&["--replica-serve-stale-data", "no"]) else { return };
    let sidecar = Sidecar::start(&pair.replica.url(), quick());
    until("the refusal", || sidecar.replica.trouble().is_some_and(|why| why.contains("replica"))).await;
    assert_eq!(sidecar.reason().await, "stale");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgot() {
    let Some(redis) = Redis::start(&[]) else { return };
    let sidecar = following(&redis).await;
    let limited = ALICES_GRANT.replace("\"v\":1", "\"v\":1,\"max_uses\":2");
    redis.set("g", &limited, HOUR_MS);
    sidecar.until_reason("grant").await;
    redis.run::<()>("SCRIPT FLUSH");
    assert_eq!(sidecar.reason().await, "grant");
    assert_eq!(sidecar.reason().await, "uses_exhausted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_keys_are_nobodys_business() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut pipeline = redis::pipe();
    for number in 0..100_000 {
        pipeline.cmd("SET").arg(format!("foreign-{number}")).arg("x").arg("PX").arg(HOUR_MS).ignore();
    }
    pipeline.query::<()>(&mut redis.connect()).unwrap();
    for key in ["{other}:grant:g", "{jit}:grants:g", "jit:grant:g", "{jit}:used:x"] {
        redis.query::<()>(redis::cmd("SET").arg(key).arg(ALICES_GRANT).arg("PX").arg(HOUR_MS));
    }
    redis.set("g", &ALICES_GRANT.replace("alice", "bob"), HOUR_MS);
    // Whoever may write keys cannot stop the heartbeat with one.
    redis.run::<u64>("HSET {jit}:hb a 1");
    let began = Instant::now();
    let sidecar = following(&redis).await;
    println!("in step beside 100,000 foreign keys after {:?}", began.elapsed());
    assert_eq!(sidecar.replica.len(), 1);
    assert_eq!(sidecar.reason().await, "no_grant");
}

/// Stopped like a suspended machine, while the server drops it for not reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_slept_allows_nothing_from_before() {
    let Some(redis) = Redis::start(&["--client-output-buffer-limit", "normal 1mb 1mb 10"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = write_file(dir.path(), "d.yaml", "max_staleness: 800ms\n");
    let daypass = Daypass::start(&["--store", &redis.url(), "--config", &config]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    let mut client = daypass.client().await;
    redis.set("g", ALICES_GRANT, HOUR_MS);
    while reason(&client.check(alice()).await) != "grant" {}
    daypass.process.signal("-STOP");
    redis.del("g");
    let acknowledged = Instant::now();
    fill(&redis, 20_000);
    std::thread::sleep(STALENESS.saturating_sub(acknowledged.elapsed()) + Duration::from_millis(200));
    daypass.process.signal("-CONT");
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let found = reason(&client.check(alice()).await);
        assert_ne!(found, "grant", "{:?} after waking up", began.elapsed());
        if found == "no_grant" {
            println!("in step again {:?} after waking up", began.elapsed());
            return;
        }
    }
    panic!("never in step again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_grants_than_allowed_are_not_some_of_them() {
    let Some(redis) = Redis::start(&[]) else { return };
    let settings = Settings { max_grants: 3, ..quick() };
    let sidecar = Sidecar::start(&redis.url(), settings).in_step().await;
    for number in 0..4 {
        redis.set(&format!("g-{number}"), &ALICES_GRANT.replace("alice", &format!("u-{number}")), HOUR_MS);
    }
    sidecar.until_reason("stale").await;
    until("the reason", || sidecar.replica.trouble().is_some_and(|why| why.contains("max_grants"))).await;
    redis.del("g-0");
    sidecar.until_reason("no_grant").await;
}
