//! Locks: a denial that beats every grant, from the moment it was announced until its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use daypass::authz::{Checker, Enforcement};
use daypass::clock::Clock;
use daypass::lock::{Lock, LockTarget, endless};
use daypass::metrics::Metrics;
use daypass::policy::Sources;
use daypass::principal::Caller;
use daypass::replica::{Limits, MAX_LOCKS, Replica, Staleness};
use daypass::standing::{Asked, Standing};
use daypass::store::record::{ReadAt, Ttl, decode};
use daypass::store::{EmbeddedStore, Store, Surroundings};

use crate::support::checker::{self, checker};
use crate::support::redis::Redis;
use crate::support::request::{
    ALICES_GRANT, alice, denied_body, denied_status, is_allow, metadata, reason, request,
};
use crate::support::sidecar::{Settings, Sidecar, until};

/// Covers what [`ALICES_GRANT`] does.
const FROM_DB: &str = r#"{"v":1,"subject":"user:alice","entitlement":"db","permissions":[{"hosts":["orders.svc"],"methods":["GET"],"paths":["/db/**"]}]}"#;
const ON_ALICE: &str = r#"{"v":1,"principal":"user:alice","message":"alice's laptop was stolen"}"#;
const ON_BOB: &str = r#"{"v":1,"principal":"user:bob","message":"m"}"#;
const ON_DB: &str = r#"{"v":1,"entitlement":"db","message":"the database is being moved"}"#;
const ON_ALL: &str = r#"{"v":1,"everything":true,"message":"incident 7"}"#;

fn lock(id: &str, target: LockTarget) -> Lock {
    Lock::new(id, target, "no \"entry\"", endless())
}

fn on(principal: &str) -> LockTarget {
    LockTarget::Principal(principal.parse().unwrap())
}

fn health() -> envoy_types::pb::envoy::service::auth::v3::CheckRequest {
    request("alice", "GET", "orders.svc", "/healthz")
}

/// The built-in policy, with a health path.
fn with_health_path() -> Sources {
    let mut sources = Sources::built_in();
    sources.set_config(serde_json::json!({"health_paths": ["/healthz"]}));
    sources
}

fn set(redis: &Redis, id: &str, value: &str, ttl: Option<u64>) {
    let mut command = redis::cmd("SET");
    command.arg(format!("{{jit}}:lock:{id}")).arg(value);
    if let Some(ttl) = ttl {
        command.arg("PX").arg(ttl);
    }
    redis.query::<()>(&command);
}

fn del(redis: &Redis, id: &str) {
    redis.query::<()>(redis::cmd("DEL").arg(format!("{{jit}}:lock:{id}")));
}

async fn sidecar(redis: &Redis) -> Sidecar {
    Sidecar::start(&redis.url(), Settings::default()).in_step().await
}

#[tokio::test]
async fn a_lock_on_a_principal_denies_all_that_it_does() {
    let checker = checker(&with_health_path(), &[ALICES_GRANT]);
    assert_eq!(reason(&checker.check(&alice()).await), "grant");
    assert_eq!(reason(&checker.check(&health()).await), "policy");
    checker.replica.insert_lock(lock("bobs", on("user:bob"))).unwrap();
    assert_eq!(reason(&checker.check(&alice()).await), "grant");
    checker.replica.insert_lock(lock("l-1", on("user:alice"))).unwrap();
    for request in [alice(), health(), request("alice", "GET", "elsewhere", "/")] {
        let response = checker.check(&request).await;
        assert_eq!((reason(&response).as_str(), denied_status(&response)), ("locked", 403));
        assert_eq!(metadata(&response, "lock"), "l-1");
        assert_eq!(denied_body(&response), "{\"reason\":\"locked\",\"message\":\"no \\\"entry\\\"\"}\n");
    }
    assert_eq!(reason(&checker.check(&request("carol", "GET", "orders.svc", "/healthz")).await), "policy");
    checker.replica.remove_lock("l-1");
    assert_eq!(reason(&checker.check(&alice()).await), "grant");
}

#[tokio::test]
async fn policy_is_not_asked_about_a_locked_principal() {
    let policy = Sources::from_text("p.rego", "package envoy.authz\nallow := 7 if input.attributes\n");
    let checker = checker(&policy, &[]);
    assert_eq!(reason(&checker.check(&alice()).await), "policy_error");
    checker.replica.insert_lock(lock("l", on("user:alice"))).unwrap();
    assert_eq!(reason(&checker.check(&alice()).await), "locked");
}

#[tokio::test]
async fn a_lock_on_everything_leaves_what_expressly_rests_on_no_grant() {
    let checker = checker(&with_health_path(), &[ALICES_GRANT]);
    checker.replica.insert_lock(lock("all", LockTarget::Everything)).unwrap();
    for user in ["alice", "bob"] {
        let response = checker.check(&request(user, "GET", "orders.svc", "/db/rows")).await;
        assert_eq!((reason(&response).as_str(), denied_status(&response)), ("locked", 403), "{user}");
        assert_eq!(metadata(&response, "lock"), "all");
    }
    assert_eq!(reason(&checker.check(&health()).await), "policy");
    // A policy that speaks of no grants says nothing of what its yes rests on.
    let silent = Sources::from_text("p.rego", "package envoy.authz\nallow := true\n");
    let checker = checker::on(&silent, &checker.replica, &checker.metrics, &checker.store);
    assert_eq!(reason(&checker.check(&alice()).await), "locked");
    checker.replica.remove_lock("all");
    assert!(is_allow(&checker.check(&alice()).await));
}

#[tokio::test]
async fn a_lock_on_an_entitlement_takes_its_grants_and_leaves_others() {
    let grants = [FROM_DB, &ALICES_GRANT.replace("orders", "web").replace("/db/", "/web/")];
    let checker = checker(&Sources::built_in(), &grants);
    checker.replica.insert_lock(lock("l", LockTarget::Entitlement("db".into()))).unwrap();
    let response = checker.check(&alice()).await;
    assert_eq!((reason(&response).as_str(), metadata(&response, "lock").as_str()), ("locked", "l"));
    let mut told = Vec::new();
    for (host, path) in [("web.svc", "/web/x"), ("orders.svc", "/other")] {
        told.push(reason(&checker.check(&request("alice", "GET", host, path)).await));
    }
    assert_eq!(told, ["grant", "not_covered"], "what no locked grant covers is not locked");
    // Another grant that covers it is as good as before.
    let read_at = ReadAt { sent: Clock::System.now(), ttl: Ttl::Left(Duration::from_secs(60)) };
    let other = decode("other", ALICES_GRANT.as_bytes(), read_at, Duration::from_secs(60)).unwrap();
    checker.replica.insert(other).unwrap();
    assert_eq!(metadata(&checker.check(&alice()).await, "grant"), "other");
    checker.replica.remove("other");
    checker.replica.remove_lock("l");
    assert_eq!(metadata(&checker.check(&alice()).await, "grant"), "g-0");
}

#[tokio::test]
async fn a_dry_run_lets_no_locked_request_pass() {
    let mut checker = checker(&with_health_path(), &[FROM_DB]);
    checker.config.enforcement = Enforcement::DryRun;
    let stranger = request("bob", "GET", "orders.svc", "/db/rows");
    assert!(is_allow(&checker.check(&stranger).await));
    for target in [on("user:alice"), LockTarget::Everything, LockTarget::Entitlement("db".into())] {
        checker.replica.insert_lock(lock("l", target)).unwrap();
        assert_eq!(reason(&checker.check(&alice()).await), "locked");
    }
    checker.replica.insert_lock(lock("l", LockTarget::Everything)).unwrap();
    assert!(!is_allow(&checker.check(&stranger).await));
}

#[tokio::test]
async fn while_a_lock_is_read_again_nobody_passes_and_the_wait_is_bounded() {
    let checker = checker(&with_health_path(), &[ALICES_GRANT]);
    checker.replica.suspect_lock("l");
    for request in [alice(), health()] {
        let began = Instant::now();
        let response = checker.check(&request).await;
        assert_eq!((reason(&response).as_str(), denied_status(&response)), ("stale", 503));
        assert!(began.elapsed() >= checker.config.settle_timeout);
    }
    let answered = async { reason(&checker.check(&alice()).await) };
    let read = async {
        tokio::task::yield_now().await;
        checker.replica.insert_lock(lock("l", on("user:alice"))).unwrap();
    };
    assert_eq!(tokio::join!(answered, read).0, "locked");
    checker.replica.suspect_lock("l");
    let response = checker.check(&alice()).await;
    assert_eq!(reason(&response), "locked", "what is known locks, whatever is not");
    checker.replica.remove_lock("l");
    assert_eq!(reason(&checker.check(&alice()).await), "grant");
}

/// A policy that takes its time, and what happens meanwhile.
async fn during_evaluation(policy: &str, grants: &[&str], change: fn(&Replica)) -> String {
    let policy = format!(
        "package envoy.authz\n\
         slow if sum([x | some x in numbers.range(1, 120000)]) > 0\n\
         {policy}\n"
    );
    let checker = checker(&Sources::from_text("slow.rego", &policy), grants);
    // Compiled and warm, or the change would come before the check began.
    checker.rules.current().policy.install();
    let replica = Arc::clone(&checker.replica);
    let (go, may_go) = std::sync::mpsc::channel();
    let changer = std::thread::spawn(move || {
        may_go.recv().unwrap();
        std::thread::sleep(Duration::from_millis(2));
        change(&replica);
    });
    go.send(()).unwrap();
    let answer = reason(&checker.check(&alice()).await);
    changer.join().unwrap();
    answer
}

#[tokio::test]
async fn a_lock_that_comes_while_policy_is_evaluated_counts() {
    type Change = fn(&Replica);
    const ON_GRANT: &str = "allow := {\"allowed\": true, \"grants\": [input.jit.covering[0].id]} if slow\n";
    const ALONE: &str = "allow := {\"allowed\": true, \"grants\": []} if { input.jit; slow }\n";
    let cases: [(&str, Change, &str); 6] = [
        (ON_GRANT, |replica| replica.insert_lock(lock("l", on("user:alice"))).unwrap(), "locked"),
        (ON_GRANT, |replica| replica.insert_lock(lock("l", LockTarget::Everything)).unwrap(), "locked"),
        (
            ON_GRANT,
            |replica| replica.insert_lock(lock("l", LockTarget::Entitlement("db".into()))).unwrap(),
            "locked",
        ),
        (ON_GRANT, |replica| replica.suspect_lock("l"), "stale"),
        (ALONE, |replica| replica.insert_lock(lock("l", on("user:alice"))).unwrap(), "locked"),
        (ALONE, |replica| replica.insert_lock(lock("l", LockTarget::Everything)).unwrap(), "policy"),
    ];
    for (policy, change, expected) in cases {
        assert_eq!(during_evaluation(policy, &[FROM_DB], change).await, expected, "{policy}");
    }
}

#[tokio::test]
async fn a_stale_replica_still_denies_as_locked_what_it_knows_to_be() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let limits = Limits { grants: 10, grants_per_principal: 10 };
    let replica = Arc::new(Replica::new(Staleness::AtMost(Duration::from_secs(1)), limits));
    let around = Surroundings {
        replica: Arc::clone(&replica),
        metrics: Arc::clone(&metrics),
        clock: Clock::System,
        max_ttl: Duration::from_secs(3600),
    };
    let store = Arc::new(Store::Embedded(Arc::new(EmbeddedStore::in_memory(around).unwrap())));
    let checker = checker::on(&with_health_path(), &replica, &metrics, &store);
    assert_eq!(reason(&checker.check(&alice()).await), "stale");
    assert_eq!(reason(&checker.check(&health()).await), "policy");
    replica.insert_lock(lock("l", on("user:alice"))).unwrap();
    assert_eq!(reason(&checker.check(&alice()).await), "locked");
    assert_eq!(reason(&checker.check(&health()).await), "locked");
    replica.insert_lock(lock("l", LockTarget::Everything)).unwrap();
    assert_eq!(reason(&checker.check(&alice()).await), "locked");
    assert_eq!(reason(&checker.check(&health()).await), "policy");
}

#[tokio::test]
async fn a_lock_written_by_anybody_denies_as_soon_as_a_revocation_does() {
    const ROUNDS: usize = 30;
    let Some(redis) = Redis::start(&[]) else { return };
    let sidecar = sidecar(&redis).await;
    let (mut locked, mut revoked) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let id = format!("g-{round}");
        redis.set(&id, ALICES_GRANT, 60_000);
        sidecar.until_reason("grant").await;
        set(&redis, "l", [ON_ALICE, ON_ALL][round % 2], Some(60_000));
        locked.push(sidecar.until_reason("locked").await);
        del(&redis, "l");
        sidecar.until_reason("grant").await;
        redis.del(&id);
        revoked.push(sidecar.until_reason("no_grant").await);
    }
    locked.sort_unstable();
    revoked.sort_unstable();
    let (locks, revocations) = (locked[ROUNDS / 2], revoked[ROUNDS / 2]);
    println!("SET of a lock acknowledged -> denied: {locks:?}; DEL of a grant: {revocations:?} (medians)");
    assert!(locked[ROUNDS - 1] < Settings::default().max_staleness);
    // Both wait for one push; what a busy machine adds is not the lock's doing.
    assert!(locks < revocations * 5 + Duration::from_millis(5), "{locks:?} {revocations:?}");
}

#[tokio::test]
async fn a_lock_beats_a_grant_that_is_written_after_it_and_ends_by_itself() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis::cmd("DEBUG").arg("SET-ACTIVE-EXPIRE").arg(0).query::<()>(&mut redis.connect()).unwrap();
    let sidecar = sidecar(&redis).await;
    set(&redis, "l", ON_ALICE, Some(700));
    let written = Instant::now();
    sidecar.until_reason("locked").await;
    redis.set("g", ALICES_GRANT, 60_000);
    let response = sidecar.checker.check(&alice()).await;
    assert!(denied_body(&response).contains("alice's laptop was stolen"), "{}", denied_body(&response));
    sidecar.until_reason("grant").await;
    assert!(written.elapsed() >= Duration::from_millis(690), "{:?}", written.elapsed());
    // The date in the value, where that is earlier; and an end that is put off.
    let soon = jiff::Timestamp::now() + Duration::from_millis(500);
    let dated = ON_ALICE.replace("\"v\":1", &format!("\"v\":1,\"expires_at\":\"{soon}\""));
    set(&redis, "l", &dated, None);
    sidecar.until_reason("locked").await;
    set(&redis, "l2", ON_ALICE, Some(150));
    set(&redis, "l2", ON_ALICE, Some(900));
    sidecar.until_reason("grant").await;
    assert!(jiff::Timestamp::now() >= soon);
    assert!(written.elapsed() >= Duration::from_millis(1_500));
}

#[tokio::test]
async fn a_lock_that_cannot_be_read_locks_everything_until_it_is_mended_or_removed() {
    let Some(redis) = Redis::start(&[]) else { return };
    let sidecar = sidecar(&redis).await;
    redis.set("g", ALICES_GRANT, 60_000);
    sidecar.until_reason("grant").await;
    let unreadable =
        |reason: &str| sidecar.metric(&format!("daypass_locks_unreadable_total{{reason=\"{reason}\"}}"));
    let large = format!(r#"{{"v":1,"principal":"user:bob","message":"{}"}}"#, "x".repeat(70_000));
    for (value, refusal) in [
        ("", "not_json"),
        ("{", "not_json"),
        (r#"{"v":2,"principal":"user:bob","message":"m"}"#, "bad_version"),
        (r#"{"v":1,"principal":"user:bob","message":"m","new":1}"#, "unknown_field"),
        (r#"{"v":1,"principal":"user:bob","everything":true,"message":"m"}"#, "bad_field"),
        (r#"{"v":1,"principal":"bob","message":"m"}"#, "bad_subject"),
        (r#"{"v":1,"id":"other","principal":"user:bob","message":"m"}"#, "bad_id"),
        (large.as_str(), "too_large"),
    ] {
        let before = unreadable(refusal);
        set(&redis, "bad", value, None);
        sidecar.until_reason("locked").await;
        let response = sidecar.checker.check(&alice()).await;
        let body = denied_body(&response);
        assert!(body.contains("{jit}:lock:bad") && body.contains(refusal), "{body}");
        assert_eq!(metadata(&response, "lock"), "bad");
        assert_eq!(unreadable(refusal), before + 1);
        // Mended: it is for somebody else.
        set(&redis, "bad", ON_BOB, None);
        sidecar.until_reason("grant").await;
    }
    redis.run::<()>("DEL {jit}:lock:bad");
    redis.run::<u64>("HSET {jit}:lock:bad a b");
    sidecar.until_reason("locked").await;
    // Also for whoever starts later.
    let other = self::sidecar(&redis).await;
    assert_eq!(other.reason().await, "locked");
    redis.run::<u64>("PEXPIRE {jit}:lock:bad 200");
    sidecar.until_reason("grant").await;
    other.until_reason("grant").await;
}

#[tokio::test]
async fn a_key_whose_name_is_no_id_locks_everything_as_long_as_it_is_there() {
    let Some(redis) = Redis::start(&[]) else { return };
    let sidecar = sidecar(&redis).await;
    redis.set("g", ALICES_GRANT, 60_000);
    sidecar.until_reason("grant").await;
    let binary = [b"{jit}:lock:\xff\xfe".to_vec(), vec![b'k'; 1_000]].concat();
    for key in [b"{jit}:lock:a b".to_vec(), b"{jit}:lock:".to_vec(), binary] {
        redis.query::<()>(redis::cmd("SET").arg(&key).arg(ON_BOB).arg("PX").arg(60_000));
        sidecar.until_reason("locked").await;
        let other = self::sidecar(&redis).await;
        assert_eq!(other.reason().await, "locked");
        redis.query::<()>(redis::cmd("DEL").arg(&key));
        sidecar.until_reason("grant").await;
        other.until_reason("grant").await;
    }
    assert!(sidecar.metric("daypass_locks_unreadable_total{reason=\"bad_id\"}") >= 3);
}

#[tokio::test]
async fn locks_are_known_before_the_first_check_and_after_every_reconnect() {
    let Some(redis) = Redis::start(&[]) else { return };
    redis.set("g", FROM_DB, 60_000);
    set(&redis, "db", ON_DB, Some(60_000));
    let sidecar = sidecar(&redis).await;
    let response = sidecar.checker.check(&alice()).await;
    assert_eq!((reason(&response).as_str(), metadata(&response, "lock").as_str()), ("locked", "db"));
    let mut connection = redis.connect();
    for round in 0..10 {
        // Set and ended while nobody listens.
        let (value, expected) = if round % 2 == 0 { (None, "grant") } else { (Some(ON_DB), "locked") };
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
        match value {
            Some(value) => pipeline.cmd("SET").arg("{jit}:lock:db").arg(value),
            None => pipeline.cmd("DEL").arg("{jit}:lock:db"),
        };
        pipeline.query::<redis::Value>(&mut connection).unwrap();
        sidecar.until_reason(expected).await;
    }
}

#[tokio::test]
async fn a_flush_ends_locks_as_it_ends_grants() {
    let Some(redis) = Redis::start(&[]) else { return };
    let sidecar = sidecar(&redis).await;
    redis.set("g", ALICES_GRANT, 60_000);
    set(&redis, "l", ON_ALL, None);
    sidecar.until_reason("locked").await;
    redis.run::<()>("FLUSHALL");
    sidecar.until_reason("no_grant").await;
    redis.set("g", ALICES_GRANT, 60_000);
    sidecar.until_reason("grant").await;
}

#[tokio::test]
async fn a_lock_that_a_server_lost_holds_where_it_was_seen() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let sidecar = self::sidecar(&redis).await;
    redis.set("g", FROM_DB, 600_000);
    sidecar.until_reason("grant").await;
    let began = Instant::now();
    set(&redis, "short", ON_DB, Some(3_000));
    set(&redis, "l", ON_ALICE, Some(600_000));
    sidecar.until_reason("locked").await;
    // The server comes back without what it acknowledged: another history, and neither lock nor grant.
    let copies = || sidecar.metric("daypass_replica_resyncs_total");
    let before = copies();
    redis.restart();
    until("the next copy", || copies() > before && sidecar.is_fresh()).await;
    redis.set("g", FROM_DB.replace("user:alice", "user:bob").as_str(), 600_000);
    redis.set("a", FROM_DB, 600_000);
    let other = self::sidecar(&redis).await;
    assert_eq!(other.reason().await, "grant", "who saw nothing cannot know");
    assert_eq!(metadata(&sidecar.checker.check(&alice()).await, "lock"), "l");
    let bob = request("bob", "GET", "orders.svc", "/db/rows");
    assert_eq!(metadata(&sidecar.checker.check(&bob).await, "lock"), "short");
    // Also through the next loss of a session.
    let before = copies();
    redis.run::<u64>("CLIENT KILL TYPE normal SKIPME yes");
    until("the next copy", || copies() > before && sidecar.is_fresh()).await;
    assert_eq!(sidecar.reason().await, "locked");
    // Somebody who ends it where everybody sees it ends it; the other one ends when it would have.
    set(&redis, "l", ON_ALICE, Some(600_000));
    other.until_reason("locked").await;
    del(&redis, "l");
    other.until_reason("grant").await;
    sidecar.until_reason("grant").await;
    assert!(began.elapsed() >= Duration::from_millis(2_990), "{:?}", began.elapsed());
}

#[tokio::test]
async fn more_locks_than_allowed_are_not_some_of_them() {
    let Some(redis) = Redis::start(&[]) else { return };
    let sidecar = sidecar(&redis).await;
    redis.set("g", ALICES_GRANT, 600_000);
    sidecar.until_reason("grant").await;
    let mut pipeline = redis::pipe();
    for number in 0..=MAX_LOCKS {
        pipeline.cmd("SET").arg(format!("{{jit}}:lock:l-{number}")).arg(ON_BOB).ignore();
    }
    pipeline.query::<()>(&mut redis.connect()).unwrap();
    sidecar.until_reason("stale").await;
    until("the reason", || sidecar.replica.trouble().is_some_and(|why| why.contains("locks"))).await;
    del(&redis, "l-0");
    sidecar.until_reason("grant").await;
    assert_eq!(sidecar.replica.lock_count(), MAX_LOCKS);
}

/// A use that was taken for a request that a lock then denies is a use too many, never the other way round.
#[tokio::test]
async fn a_lock_that_comes_while_uses_are_taken_counts() {
    let Some(redis) = Redis::start(&[]) else { return };
    let sidecar = Arc::new(sidecar(&redis).await);
    redis.set("g", &FROM_DB.replace("\"v\":1", "\"v\":1,\"max_uses\":1000"), 600_000);
    sidecar.until_reason("grant").await;
    // The server answers late: meanwhile the lock comes, by another way than the answer.
    redis::cmd("CLIENT").arg(&["PAUSE", "300", "WRITE"]).query::<()>(&mut redis.connect()).unwrap();
    let check = tokio::spawn({
        let sidecar = Arc::clone(&sidecar);
        async move { sidecar.reason().await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!check.is_finished(), "the server did not pause");
    sidecar.replica.insert_lock(lock("l", LockTarget::Entitlement("db".into()))).unwrap();
    assert_eq!(check.await.unwrap(), "locked");
}

fn asked(host: &str, method: &str, path: &str) -> Asked {
    Asked {
        host: host.to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        source: Some("10.1.2.3".parse().unwrap()),
    }
}

/// What is told, once a check of the same was seen to say the same.
async fn standing(checker: &Arc<Checker>, user: &str, host: &str, method: &str, path: &str) -> Standing {
    let caller = Caller::new(vec![format!("user:{user}").parse().unwrap()]);
    let response = checker.check(&request(user, method, host, path)).await;
    let counted = || {
        let text = checker.metrics.render().unwrap();
        text.lines().filter(|line| line.starts_with("daypass_")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = counted();
    let told = checker.standing(&caller, &asked(host, method, path)).await;
    assert_eq!(counted(), before, "it is no check");
    assert_eq!(told.allowed, is_allow(&response), "{told:?}");
    assert_eq!(told.reason, reason(&response), "{told:?}");
    assert_eq!(told.grant.as_deref().unwrap_or_default(), metadata(&response, "grant"));
    assert_eq!(told.lock.as_deref().unwrap_or_default(), metadata(&response, "lock"));
    told
}

#[tokio::test]
async fn a_standing_is_what_a_check_would_say() {
    let from_ten = ALICES_GRANT
        .replace("/db/**", "/near/**")
        .replace("\"v\":1", "\"v\":1,\"conditions\":{\"source_cidrs\":[\"10.0.0.0/8\"]}");
    let from_eleven = from_ten.replace("/near/", "/far/").replace("10.0", "11.0");
    let limited = ALICES_GRANT.replace("/db/**", "/few/**").replace("\"v\":1", "\"v\":1,\"max_uses\":1");
    let later = ALICES_GRANT.replace("\"v\":1", "\"v\":1,\"not_before\":\"2999-01-01T00:00:00Z\"");
    let grants = [FROM_DB, &from_ten, &from_eleven, &limited, &later];
    let checker = Arc::new(checker(&with_health_path(), &grants));
    let allowed = standing(&checker, "alice", "orders.svc", "GET", "/db/rows?x=1").await;
    assert!(allowed.allowed && allowed.expires_at.is_some() && allowed.message.contains("g-0"));
    let why: Vec<_> = allowed.grants.iter().map(|one| (one.grant.as_str(), one.covers)).collect();
    assert_eq!(why, [("g-0", true), ("g-1", false), ("g-2", false), ("g-3", false), ("g-4", false)]);
    let whys: Vec<_> = allowed.grants.iter().filter_map(|one| one.why_not.as_deref()).collect();
    assert!(whys[1].contains("source_cidrs") && whys[3] == "it has not begun", "{whys:?}");
    for (user, method, path, expected) in [
        ("alice", "GET", "/near/x", "grant"),
        ("alice", "GET", "/far/x", "not_covered"),
        ("alice", "POST", "/db/rows", "not_covered"),
        ("bob", "GET", "/db/rows", "no_grant"),
        ("bob", "GET", "/healthz", "policy"),
        ("alice", "GET", "/db/../rows", "not_covered"),
        ("alice", "GET", "/db/%2e%2e/rows", "not_covered"),
        ("alice", "GET", "/db/%zz", "bad_request"),
    ] {
        let told = standing(&checker, user, "orders.svc", method, path).await;
        assert_eq!(told.reason, expected, "{user} {method} {path}: {told:?}");
        assert!(!told.message.is_empty());
    }
    let ambiguous = standing(&checker, "alice", "orders.svc", "GET", "/db/../rows").await;
    assert!(ambiguous.grants[0].why_not.as_ref().unwrap().contains("two ways"), "{ambiguous:?}");
    // It takes no use, so the one there is remains for a check.
    let few = asked("orders.svc", "GET", "/few/x");
    let caller = Caller::new(vec!["user:alice".parse().unwrap()]);
    for _ in 0..3 {
        assert_eq!(checker.standing(&caller, &few).await.grant.as_deref(), Some("g-3"));
    }
    for (target, message) in [
        (LockTarget::Entitlement("db".into()), "entitlement is locked"),
        (on("user:alice"), ""),
        (LockTarget::Everything, ""),
    ] {
        checker.replica.insert_lock(lock("l", target)).unwrap();
        let locked = standing(&checker, "alice", "orders.svc", "GET", "/db/rows").await;
        assert_eq!((locked.reason, locked.message.as_str()), ("locked", "no \"entry\""));
        let why = locked.grants[0].why_not.clone().unwrap_or_default();
        assert!(why.contains(message), "{why}");
    }
    standing(&checker, "alice", "orders.svc", "GET", "/healthz").await;
}
