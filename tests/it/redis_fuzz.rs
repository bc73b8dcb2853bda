//! Whatever is written, and whatever happens to the connections: afterwards two sidecars know what the server knows.
//!
//! `REDIS_FUZZ_SEED` has a run again, `REDIS_FUZZ_SECONDS` makes it longer (`make soak`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use daypass::clock::Clock;
use daypass::principal::Caller;
use daypass::replica::Lookup;
use redis::Connection;

use crate::support::PATIENCE;
use crate::support::proxy::{Held, Proxy};
use crate::support::random::{Random, seconds};
use crate::support::redis::{Flavour, Redis};
use crate::support::sidecar::{Settings, Sidecar};

const KEYS: u64 = 50;
const WRITES_PER_ROUND: u64 = 200;
/// Keys of locks, and one whose name is no id.
const LOCKS: u64 = 6;
const MISNAMED: &str = "{jit}:lock:no id";

#[derive(Debug, Default)]
struct Done {
    rounds: u64,
    writes: u64,
    locks: u64,
    flushes: u64,
    kills: u64,
    holds: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_agree_with_redis() {
    agree_with(Flavour::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_agree_with_valkey() {
    agree_with(Flavour::Valkey).await;
}

async fn agree_with(flavour: Flavour) {
    let Some(redis) = Redis::start_as(flavour, &[]) else { return };
    let mut random = Random::from_env("REDIS_FUZZ_SEED");
    let proxies = [Proxy::to(redis.port), Proxy::to(redis.port)];
    let settings = Settings { max_staleness: Duration::from_millis(600), ..Settings::default() };
    let sidecars = proxies.each_ref().map(|proxy| Sidecar::start(&proxy.url(), settings));
    let mut connection = redis.connect();
    let mut done = Done::default();
    let end = Instant::now() + seconds("REDIS_FUZZ_SECONDS", 6);
    while Instant::now() < end {
        done.rounds += 1;
        for _ in 0..WRITES_PER_ROUND {
            write(&mut connection, &mut random, &mut done);
            if random.below(8) == 0 {
                write_lock(&mut connection, &mut random, &mut done);
            }
            disturb(&mut connection, &proxies, &mut random, &mut done);
        }
        for proxy in &proxies {
            proxy.release();
        }
        let quiet = Instant::now();
        let (truth, locks) = (grants_of(&mut connection), locks_of(&mut connection));
        for sidecar in &sidecars {
            agrees(sidecar, &truth, quiet, done.rounds).await;
            agrees_on_locks(sidecar, &locks, done.rounds).await;
        }
    }
    println!("{flavour:?}: {done:?}, all agreed");
    assert!(done.rounds >= 2, "{done:?}");
}

fn write(connection: &mut Connection, random: &mut Random, done: &mut Done) {
    done.writes += 1;
    let number = random.below(KEYS);
    let key = format!("{{jit}}:grant:g-{number}");
    let (nonce, ttl) = (random.below(u64::MAX), 20_000 + random.below(60_000));
    // Another subject now and then: a grant that moves must leave whoever had it.
    let subject = if random.below(10) == 0 { random.below(KEYS) } else { number };
    let value = format!(r#"{{"v":1,"subject":"user:u-{subject}","attributes":{{"n":{nonce}}}}}"#);
    let command = match random.below(100) {
        0..=54 => redis::cmd("SET").arg(&key).arg(value).arg("PX").arg(ttl).take(),
        55..=79 => redis::cmd("DEL").arg(&key).take(),
        80..=86 => redis::cmd("PEXPIRE").arg(&key).arg(ttl).take(),
        87..=89 => redis::cmd("PERSIST").arg(&key).take(),
        90..=92 => redis::cmd("SET").arg(&key).arg("{not json").arg("PX").arg(ttl).take(),
        93..=94 => {
            redis::cmd("RENAME").arg(&key).arg(format!("{{jit}}:grant:g-{}", random.below(KEYS))).take()
        }
        95..=96 => redis::cmd("SET").arg(&key).arg(value).take(),
        97 => redis::cmd("PEXPIRE").arg(&key).arg(1).take(),
        _ => {
            done.flushes += u64::from(random.below(4) == 0);
            redis::cmd(if random.below(4) == 0 { "FLUSHALL" } else { "TIME" }).take()
        }
    };
    // RENAME of what is not there is an error, and no matter.
    let _: redis::RedisResult<redis::Value> = command.query(connection);
}

fn write_lock(connection: &mut Connection, random: &mut Random, done: &mut Done) {
    done.locks += 1;
    let key = format!("{{jit}}:lock:l-{}", random.below(LOCKS));
    let ttl = 20_000 + random.below(60_000);
    let value = format!(r#"{{"v":1,"principal":"user:u-{}","message":"m"}}"#, random.below(KEYS));
    let command = match random.below(100) {
        0..=39 => redis::cmd("SET").arg(&key).arg(value).arg("PX").arg(ttl).take(),
        40..=49 => redis::cmd("SET").arg(&key).arg(value).take(),
        50..=84 => redis::cmd("DEL").arg(&key).arg(MISNAMED).take(),
        85..=89 => redis::cmd("PERSIST").arg(&key).take(),
        90..=92 => redis::cmd("SET").arg(&key).arg("{not json").arg("PX").arg(ttl).take(),
        93..=94 => redis::cmd("SET").arg(MISNAMED).arg(value).arg("PX").arg(ttl).take(),
        95..=96 => redis::cmd("SADD").arg(&key).arg("x").take(),
        _ => redis::cmd("RENAME").arg(&key).arg(format!("{{jit}}:lock:l-{}", random.below(LOCKS))).take(),
    };
    // RENAME of what is not there and SADD to text are errors, and no matter.
    let _: redis::RedisResult<redis::Value> = command.query(connection);
}

fn disturb(connection: &mut Connection, proxies: &[Proxy; 2], random: &mut Random, done: &mut Done) {
    let proxy = &proxies[usize::from(random.below(2) == 0)];
    match random.below(400) {
        0 => {
            done.kills += 1;
            redis::cmd("CLIENT")
                .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
                .query::<u64>(connection)
                .unwrap();
        }
        1 => {
            done.kills += 1;
            proxy.cut();
        }
        2 => {
            done.holds += 1;
            proxy.hold(&[Held::Replies]);
        }
        3 => {
            done.holds += 1;
            proxy.hold_all();
        }
        4..=9 => proxy.release(),
        10..=12 => std::thread::sleep(Duration::from_millis(random.below(20))),
        _ => {}
    }
}

/// Subject to the values of its grants, as the server has them.
type Grants = BTreeMap<String, Vec<String>>;

fn grants_of(connection: &mut Connection) -> Grants {
    let mut grants = Grants::new();
    for number in 0..KEYS {
        let key = format!("{{jit}}:grant:g-{number}");
        let (value, ttl): (Option<String>, i64) =
            redis::pipe().cmd("GET").arg(&key).cmd("PTTL").arg(&key).query(connection).unwrap();
        // What is about to run out may have done so by the time a sidecar is asked.
        let Some(value) = value.filter(|value| ttl > 1_000 && value != "{not json") else { continue };
        let record: serde_json::Value = serde_json::from_str(&value).unwrap();
        grants.entry(record["subject"].as_str().unwrap().to_owned()).or_default().push(value);
    }
    grants.values_mut().for_each(|values| values.sort());
    grants
}

/// From the moment a sidecar claims to know what was acknowledged when it became quiet, it says nothing else, or that
/// it cannot tell.
async fn agrees(sidecar: &Sidecar, truth: &Grants, quiet: Instant, round: u64) {
    let deadline = Instant::now() + PATIENCE;
    let is_up_to_date = || {
        let age = sidecar.replica.freshness(Clock::System.now());
        age.is_fresh() && age.age().is_some_and(|age| age < quiet.elapsed())
    };
    while !is_up_to_date() {
        assert!(
            Instant::now() < deadline,
            "round {round}: never up to date: {:?}",
            sidecar.replica.trouble()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for number in 0..KEYS {
        let subject = format!("user:u-{number}");
        let caller = Caller::new(vec![subject.parse().unwrap()]);
        let expected = truth.get(&subject).cloned().unwrap_or_default();
        loop {
            match sidecar.replica.lookup(&caller, Clock::System.now()) {
                Lookup::Settled(active) => {
                    let mut found: Vec<String> =
                        active.iter().map(|grant| grant.document.to_string()).collect();
                    found.sort();
                    // A grant that a flush of ours made new is unknown for the time of one read.
                    if found == expected {
                        break;
                    }
                    let extra: Vec<_> = found.iter().filter(|value| !expected.contains(value)).collect();
                    assert!(
                        extra.is_empty(),
                        "round {round}: {subject} has {extra:?}, which the server has not"
                    );
                }
                Lookup::Unsettled => {}
                Lookup::TooMany => panic!("no principal has a thousand grants"),
            }
            assert!(Instant::now() < deadline, "round {round}: {subject} lacks {expected:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Who is locked: subjects, and whether everybody is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Locked {
    subjects: BTreeSet<String>,
    everything: bool,
}

fn locks_of(connection: &mut Connection) -> Locked {
    let mut locked = Locked {
        everything: redis::cmd("EXISTS").arg(MISNAMED).query(connection).unwrap(),
        ..Locked::default()
    };
    for number in 0..LOCKS {
        let key = format!("{{jit}}:lock:l-{number}");
        let kind: String = redis::cmd("TYPE").arg(&key).query(connection).unwrap();
        let value = match kind.as_str() {
            "none" => continue,
            "string" => redis::cmd("GET").arg(&key).query::<String>(connection).unwrap(),
            _ => String::new(),
        };
        match serde_json::from_str::<serde_json::Value>(&value) {
            Ok(record) => drop(locked.subjects.insert(record["principal"].as_str().unwrap().to_owned())),
            Err(_) => locked.everything = true,
        }
    }
    locked
}

/// A sidecar that is up to date lacks no lock that it does not know to be in doubt, and soon has no other.
async fn agrees_on_locks(sidecar: &Sidecar, truth: &Locked, round: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let was_in_doubt = sidecar.replica.is_lock_in_doubt();
        let now = Clock::System.now();
        let is_locked = |subject: &String| {
            let caller = Caller::new(vec![subject.parse().unwrap()]);
            sidecar.replica.lock_on(&caller, now).is_some()
        };
        let subjects: BTreeSet<String> =
            (0..KEYS).map(|number| format!("user:u-{number}")).filter(is_locked).collect();
        let everything = sidecar.replica.lock_on_everything(now).is_some();
        let found = Locked { subjects, everything };
        if found == *truth && !was_in_doubt {
            return;
        }
        let lacks = !truth.subjects.is_subset(&found.subjects) || (truth.everything && !found.everything);
        assert!(was_in_doubt || !lacks, "round {round}: {found:?} lacks something of {truth:?}");
        assert!(Instant::now() < deadline, "round {round}: {found:?} is not {truth:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
