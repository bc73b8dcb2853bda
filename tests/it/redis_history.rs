//! Writers, revokers, checkers and faults, each with its times; afterwards the history is judged.
//!
//! Two rules, for every allow that rests on a grant whose revocation Redis acknowledged:
//!
//! * the check did not begin later than `max_staleness` after the acknowledgement, and
//! * the sidecar did not claim to know anything as new as the acknowledgement. Freshness is a claim ("I know what was
//!   acknowledged before T"), and this is what it means.
//!
//! A checker that cannot fail proves nothing: `make sabotage` takes the heartbeat and the tokens out, one at a time, and
//! expects this to notice. `HISTORY_SECONDS` makes it longer, `HISTORY_SEED` has the same faults again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use daypass::clock::Clock;

use crate::support::proxy::{Held, Proxy};
use crate::support::random::{Random, seconds};
use crate::support::redis::Redis;
use crate::support::request::{ALICES_GRANT, metadata, reason, request};
use crate::support::sidecar::{Settings, Sidecar};
use crate::support::wait_for;

const STALENESS: Duration = Duration::from_millis(800);
/// Callers with a grant at a time.
const CALLERS: u64 = 12;

/// What a checker saw: an allow by this grant.
struct Allow {
    grant: String,
    began: Instant,
    /// Everything acknowledged before this the sidecar claimed to know.
    claimed: Instant,
}

#[derive(Default)]
struct History {
    /// Grant to when its revocation was acknowledged.
    revoked: Mutex<HashMap<String, Instant>>,
    allows: Mutex<Vec<Allow>>,
    checks: AtomicU64,
    is_over: AtomicBool,
}

impl History {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_allow_after_a_revocation_that_should_be_known() {
    let Some(redis) = Redis::start(&[]) else { return };
    let redis = Arc::new(redis);
    let mut random = Random::from_env("HISTORY_SEED");
    let proxies = Arc::new([Proxy::to(redis.port), Proxy::to(redis.port)]);
    let settings = Settings { max_staleness: STALENESS, ..Settings::default() };
    let mut sidecars = Vec::new();
    for proxy in proxies.iter() {
        sidecars.push(Arc::new(Sidecar::start(&proxy.url(), settings).in_step().await));
    }
    let history = Arc::new(History::default());
    let mut threads = Vec::new();
    for writer in 0..3 {
        let (redis, history) = (Arc::clone(&redis), Arc::clone(&history));
        let random = Random::new(random.below(u64::MAX));
        threads.push(std::thread::spawn(move || write_and_revoke(&redis, &history, writer, random)));
    }
    threads.push(std::thread::spawn({
        let (redis, proxies, history) = (Arc::clone(&redis), Arc::clone(&proxies), Arc::clone(&history));
        let random = Random::new(random.below(u64::MAX));
        move || disturb(&redis, &proxies, &history, random)
    }));
    let mut checkers = Vec::new();
    for (index, sidecar) in sidecars.iter().chain(&sidecars).enumerate() {
        let (sidecar, history) = (Arc::clone(sidecar), Arc::clone(&history));
        let random = Random::new(random.below(u64::MAX) + index as u64);
        checkers.push(tokio::spawn(check(sidecar, history, random)));
    }
    tokio::time::sleep(seconds("HISTORY_SECONDS", 12)).await;
    history.is_over.store(true, Ordering::Relaxed);
    for checker in checkers {
        checker.await.unwrap();
    }
    for thread in threads {
        thread.join().unwrap();
    }
    judge(&history);
}

/// Gives a caller a grant, renews it, and takes it away at a moment when the renewal may still be on its way.
fn write_and_revoke(redis: &Redis, history: &History, writer: u64, mut random: Random) {
    // Connections are being killed already.
    let mut connection = wait_for("a connection to write on", || redis.try_connect().ok());
    let mut serial = 0;
    while !history.is_over() {
        serial += 1;
        let caller = format!("u-{}", random.below(CALLERS));
        let id = format!("g-{writer}-{serial}");
        let key = format!("{{jit}}:grant:{id}");
        let set = |nonce: u64| {
            let value = ALICES_GRANT
                .replace("alice", &caller)
                .replace("\"v\":1", &format!("\"v\":1,\"ticket\":\"T-{nonce}\""));
            redis::cmd("SET").arg(&key).arg(value).arg("PX").arg(600_000).take()
        };
        let (given, renewed) = (set(0), set(1));
        insist(redis, &mut connection, &given);
        std::thread::sleep(Duration::from_millis(random.below(150)));
        insist(redis, &mut connection, &renewed);
        std::thread::sleep(Duration::from_millis(random.below(60)));
        insist(redis, &mut connection, redis::cmd("DEL").arg(&key));
        history.revoked.lock().unwrap().insert(id, Instant::now());
    }
}

/// Whoever writes is not spared: connections are killed, and what was not acknowledged is written again.
fn insist(redis: &Redis, connection: &mut redis::Connection, command: &redis::Cmd) {
    while command.query::<redis::Value>(connection).is_err() {
        if let Ok(next) = redis.try_connect() {
            *connection = next;
        }
    }
}

fn disturb(redis: &Redis, proxies: &[Proxy; 2], history: &History, mut random: Random) {
    let mut connection = redis.connect();
    while !history.is_over() {
        let proxy = &proxies[usize::from(random.below(2) == 0)];
        let pause = Duration::from_millis(random.below(1_200));
        match random.below(7) {
            // A network with a way to go: replies and pushes of the same moment arrive together.
            0 | 1 => proxy.delay(Duration::from_millis(random.below(35))),
            2 => proxy.hold(&[Held::Replies]),
            3 => proxy.hold_all(),
            4 => proxy.cut(),
            5 => insist(
                redis,
                &mut connection,
                redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]),
            ),
            _ => {
                redis.process.signal("-STOP");
                std::thread::sleep(Duration::from_millis(random.below(300)));
                redis.process.signal("-CONT");
            }
        }
        std::thread::sleep(pause);
        proxy.release();
        std::thread::sleep(Duration::from_millis(random.below(400)));
    }
    proxies.iter().for_each(Proxy::release);
}

async fn check(sidecar: Arc<Sidecar>, history: Arc<History>, mut random: Random) {
    while !history.is_over() {
        let check = request(&format!("u-{}", random.below(CALLERS)), "GET", "orders.svc", "/db/rows");
        let began = Instant::now();
        let age = sidecar.replica.freshness(Clock::System.now()).age();
        let answer = sidecar.checker.check(&check).await;
        history.checks.fetch_add(1, Ordering::Relaxed);
        if reason(&answer) == "grant" {
            let claimed = age.and_then(|age| began.checked_sub(age)).unwrap_or(began);
            history.allows.lock().unwrap().push(Allow { grant: metadata(&answer, "grant"), began, claimed });
        }
        tokio::task::yield_now().await;
    }
}

fn judge(history: &History) {
    let (revoked, allows) = (history.revoked.lock().unwrap(), history.allows.lock().unwrap());
    let mut after: Vec<Duration> = Vec::new();
    let (mut late, mut claimed) = (Vec::new(), Vec::new());
    for allow in allows.iter() {
        let Some(acknowledged) = revoked.get(&allow.grant) else { continue };
        if allow.began <= *acknowledged {
            continue;
        }
        let by = allow.began - *acknowledged;
        after.push(by);
        if by > STALENESS {
            late.push((&allow.grant, by));
        }
        if allow.claimed > *acknowledged {
            claimed.push((&allow.grant, by, allow.claimed - *acknowledged));
        }
    }
    after.sort_unstable();
    println!(
        "{} checks, {} allows, {} revocations; {} allows after an acknowledgement, the last {:?} after it (max_staleness {STALENESS:?})",
        history.checks.load(Ordering::Relaxed),
        allows.len(),
        revoked.len(),
        after.len(),
        after.last().copied().unwrap_or_default(),
    );
    assert!(
        late.is_empty(),
        "{} allows later than max_staleness: {:?}",
        late.len(),
        &late[..late.len().min(5)]
    );
    assert!(
        claimed.is_empty(),
        "{} allows of what the sidecar claimed to know was revoked: {:?}",
        claimed.len(),
        &claimed[..claimed.len().min(5)]
    );
    assert!(!after.is_empty() && revoked.len() > 20, "nothing was put to the test");
}
