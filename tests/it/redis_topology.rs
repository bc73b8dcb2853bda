//! Sentinel and Cluster: the sidecar finds whoever has the grants, follows them when they move, and believes nobody
//! else.

use std::time::{Duration, Instant};

use crate::support::daypass::Daypass;
use crate::support::redis::{Cluster, Flavour, Replicated, Sentinel};
use crate::support::request::{ALICES_GRANT, alice, reason};
use crate::support::sidecar::{Settings, Sidecar, until};
use crate::support::wait_for;

const HOUR_MS: u64 = 3_600_000;

fn quick() -> Settings {
    Settings { max_staleness: Duration::from_millis(800), ..Settings::default() }
}

fn bobs() -> String {
    ALICES_GRANT.replace("alice", "bob")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_names_the_master_and_then_the_next_one() {
    let Some(pair) = Replicated::start(&[]) else { return };
    let Some(sentinel) = Sentinel::start(pair.master.port) else { return };
    pair.master.set("g", ALICES_GRANT, HOUR_MS);
    let sidecar = Sidecar::start(&sentinel.url(), quick()).in_step().await;
    sidecar.until_reason("grant").await;
    let daypass = Daypass::start(&["--store", &sentinel.url()]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    daypass.grant(&["create", "--id", "g2", "--subject", "user:bob", "--ttl", "1h"]).unwrap();
    let answer = daypass.grant(&["revoke", "g2"]).unwrap();
    assert_eq!(answer, "revoked g2\n", "the replica has it too");
    wait_for("the replica", || pair.replica.run::<Option<String>>("GET {jit}:grant:g"));
    let killed = Instant::now();
    let Replicated { mut master, replica } = pair;
    master.kill();
    sidecar.until_reason("stale").await;
    until("the next master", || sidecar.is_fresh()).await;
    println!("Sentinel failover (down-after 1 s): fresh again {:?} after the kill", killed.elapsed());
    assert_eq!(sidecar.reason().await, "grant");
    assert_eq!(replica.info("role"), "master");
    let created = Instant::now();
    while daypass.grant(&["create", "--id", "g3", "--subject", "user:bob", "--ttl", "1h"]).is_err() {
        assert!(created.elapsed() < crate::support::PATIENCE, "the API does not find the next master");
    }
    until("the grant by the next master", || sidecar.replica.get("g3").is_some()).await;
    // The old one comes back as a replica, by Sentinel's order; nobody listens to it meanwhile.
    replica.del("g");
    sidecar.until_reason("no_grant").await;
    master.revive();
    until("the old master's demotion", || master.info("role") == "slave").await;
    assert_eq!(sidecar.reason().await, "no_grant");
}

/// It answers, and calls itself the master; only its replicas and the sentinels know better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_master_is_left_for_the_one_that_sentinel_names() {
    let Some((Replicated { master: isolated, replica: _replica }, between)) = Replicated::start_apart()
    else {
        return;
    };
    let Some(sentinel) = Sentinel::start(isolated.port) else { return };
    let Some(next) = Replicated::start(&[]) else { return };
    isolated.set("g", ALICES_GRANT, HOUR_MS);
    next.master.set("g2", &bobs(), HOUR_MS);
    let settings = Settings { require_replicas: 1, ..quick() };
    let sidecar = Sidecar::start(&sentinel.url(), settings).in_step().await;
    sidecar.until_reason("grant").await;
    let cut = Instant::now();
    between.hold_all();
    sentinel.run("SENTINEL REMOVE jit");
    sentinel.run(&format!("SENTINEL MONITOR jit 127.0.0.1 {} 1", next.master.port));
    sidecar.until_reason("stale").await;
    sidecar.until_reason("no_grant").await;
    println!("an isolated master was left for the next one after {:?}", cut.elapsed());
    assert!(sidecar.replica.get("g2").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_does_not_know_says_so() {
    let Some(pair) = Replicated::start(&[]) else { return };
    let Some(sentinel) = Sentinel::start(pair.master.port) else { return };
    let url = format!("redis+sentinel://127.0.0.1:{}/other", sentinel.port);
    let sidecar = Sidecar::start(&url, quick());
    until("the reason", || {
        sidecar.replica.trouble().is_some_and(|why| why.contains("does not know \"other\""))
    })
    .await;
    // And a sentinel or a cluster node that is taken for a server.
    let sidecar = Sidecar::start(&format!("redis://127.0.0.1:{}", sentinel.port), quick());
    until("a reason", || sidecar.replica.trouble().is_some()).await;
    assert!(!sidecar.is_fresh());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_and_nothing_is_missed() {
    for flavour in [Flavour::Redis, Flavour::Valkey] {
        let Some(cluster) = Cluster::start(flavour) else { continue };
        follow_a_move(&cluster).await;
    }
}

async fn follow_a_move(cluster: &Cluster) {
    let [owner, target, _] = &cluster.nodes[..] else { panic!("three nodes") };
    owner.set("g", ALICES_GRANT, HOUR_MS);
    owner.set("stays", &bobs(), HOUR_MS);
    // Named by a node that has not got them.
    let sidecar =
        Sidecar::start(&format!("redis+cluster://127.0.0.1:{}", target.port), quick()).in_step().await;
    sidecar.until_reason("grant").await;
    assert_eq!(sidecar.replica.len(), 2);

    cluster.begin_move(0, 1);
    // The heartbeat's key is asked for elsewhere now (ASK): a second connection.
    let resyncs = sidecar.metric("daypass_replica_resyncs_total");
    until("a session with both", || {
        sidecar.metric("daypass_replica_resyncs_total") > resyncs && sidecar.is_fresh()
    })
    .await;
    assert_eq!(sidecar.reason().await, "grant");
    cluster.migrate(0, 1, "{jit}:grant:g");
    assert_eq!(sidecar.reason().await, "grant", "a grant on the move is a grant");
    // Changes at both ends, while it lasts.
    owner.del("stays");
    until("a deletion at the owner", || sidecar.replica.get("stays").is_none()).await;
    let mut asking = target.connect();
    let set = |id: &str, value: &str| {
        redis::cmd("SET").arg(format!("{{jit}}:grant:{id}")).arg(value).arg("PX").arg(HOUR_MS).take()
    };
    redis::cmd("ASKING").query::<()>(&mut asking).unwrap();
    set("new", &bobs()).query::<()>(&mut asking).unwrap();
    until("a grant at the target", || sidecar.replica.get("new").is_some()).await;
    redis::cmd("ASKING").query::<()>(&mut asking).unwrap();
    redis::cmd("DEL").arg("{jit}:grant:g").query::<()>(&mut asking).unwrap();
    let began = Instant::now();
    sidecar.until_reason("no_grant").await;
    println!("deleted at the target of a move: denied after {:?}", began.elapsed());
    let fresh_for = Instant::now();
    while fresh_for.elapsed() < Duration::from_secs(2) {
        assert!(sidecar.is_fresh(), "{:?}", sidecar.replica.trouble());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    cluster.end_move(0, 1);
    until("the end of the move", || {
        sidecar.metric("daypass_store_sessions_ended_total{cause=\"moved\"}") > 0
    })
    .await;
    until("a session with the target", || sidecar.is_fresh()).await;
    assert!(sidecar.replica.get("new").is_some());
    target.set("g4", ALICES_GRANT, HOUR_MS);
    sidecar.until_reason("grant").await;
    target.del("g4");
    sidecar.until_reason("no_grant").await;
}

/// With all grants moved and the slot not yet, the old owner lists none. A session that hears only that must not believe
/// them gone: later it would refuse them as brought back from the dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_interrupted_loses_nothing() {
    let Some(cluster) = Cluster::start(Flavour::Redis) else { return };
    cluster.nodes[0].set("g", ALICES_GRANT, HOUR_MS);
    let sidecar = Sidecar::start(&cluster.url(), quick()).in_step().await;
    sidecar.until_reason("grant").await;
    cluster.begin_move(0, 1);
    cluster.migrate(0, 1, "{jit}:grant:g");
    for _ in 0..10 {
        sidecar.until_reason("grant").await;
        cluster.nodes[1].run::<u64>("CLIENT KILL TYPE normal SKIPME yes");
        // Now and then the new owner cannot be had at all for a while.
        cluster.nodes[1].process.signal("-STOP");
        tokio::time::sleep(Duration::from_millis(60)).await;
        cluster.nodes[1].process.signal("-CONT");
    }
    sidecar.until_reason("grant").await;
    assert_eq!(sidecar.refused("resurrected"), 0);
}

/// Another owner by a higher epoch: Redis 7.0 deletes the keys and tells nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_taken_over_is_noticed() {
    let Some(cluster) = Cluster::start(Flavour::Redis) else { return };
    cluster.nodes[0].set("g", ALICES_GRANT, HOUR_MS);
    let sidecar = Sidecar::start(&cluster.url(), quick()).in_step().await;
    sidecar.until_reason("grant").await;
    cluster.nodes[2].run::<redis::Value>("CLUSTER BUMPEPOCH");
    let taken = Instant::now();
    let id: String = cluster.nodes[2].run("CLUSTER MYID");
    cluster.nodes[2].run::<()>(&format!("CLUSTER SETSLOT {} NODE {id}", crate::support::redis::SLOT_OF_JIT));
    sidecar.until_reason("no_grant").await;
    println!("the slot was taken over: denied after {:?}", taken.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_its_majority_cannot_tell() {
    let Some(cluster) = Cluster::start(Flavour::Redis) else { return };
    cluster.nodes[0].set("g", ALICES_GRANT, HOUR_MS);
    let sidecar = Sidecar::start(&cluster.url(), quick()).in_step().await;
    sidecar.until_reason("grant").await;
    let stopped = Instant::now();
    for node in &cluster.nodes[1..] {
        node.process.signal("-STOP");
    }
    sidecar.until_reason("stale").await;
    println!("two of three masters stopped (node timeout 1 s): stale after {:?}", stopped.elapsed());
    for node in &cluster.nodes[1..] {
        node.process.signal("-CONT");
    }
    sidecar.until_reason("grant").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grant_api_and_uses_in_a_cluster() {
    let Some(cluster) = Cluster::start(Flavour::Redis) else { return };
    let daypass = Daypass::start(&["--store", &cluster.url()]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    let mut client = daypass.client().await;
    let create = |id: &str, more: &[&str]| {
        let all =
            [&["create", "--id", id, "--subject", "user:alice", "--path", "/db/**", "--ttl", "1h"], more]
                .concat();
        daypass.grant(&all).unwrap();
    };
    create("g", &["--max-uses", "2"]);
    while reason(&client.check(alice()).await) != "grant" {}
    assert_eq!(reason(&client.check(alice()).await), "grant");
    assert_eq!(reason(&client.check(alice()).await), "uses_exhausted");
    assert!(daypass.grant(&["ls"]).unwrap().contains("user:alice"));
    create("g1", &[]);
    // Half of what a commit touches on one side, half on the other: then a plain deletion has to do.
    cluster.begin_move(0, 1);
    cluster.migrate(0, 1, "{jit}:head");
    daypass.grant(&["revoke", "g"]).unwrap();
    // A grant that has moved already is one of the caller's, and is revoked with them.
    cluster.migrate(0, 1, "{jit}:grant:g1");
    assert!(daypass.grant(&["ls"]).unwrap().contains("g1"));
    // Whether there are others that are scheduled cannot be read meanwhile, which is said.
    assert!(daypass.grant(&["revoke", "--subject", "user:alice"]).unwrap_err().contains("TRYAGAIN"));
    while reason(&client.check(alice()).await) != "no_grant" {}
    cluster.end_move(0, 1);
    create("g2", &[]);
    while reason(&client.check(alice()).await) != "grant" {}
    daypass.grant(&["revoke", "g2"]).unwrap();
    while reason(&client.check(alice()).await) != "no_grant" {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_node_named_as_if_it_were_alone() {
    let Some(cluster) = Cluster::start(Flavour::Redis) else { return };
    let daypass = Daypass::start(&["--store", &cluster.nodes[0].url()]);
    let says = || daypass.ops("/readyz").1.contains("name it as redis+cluster://").then_some(());
    wait_for("the advice", says);
}
