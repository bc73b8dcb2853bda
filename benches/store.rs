//! What Redis costs, and how soon it tells: a copy of all grants, a revocation under load, a change with many sidecars
//! listening, a use of a limited grant.
//!
//! Real servers, all in one run. The sidecars that only listen are in this process; the one that is measured is the
//! built binary.

mod common;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Redis, Server, cpu, daypass, find, load_grants, mib};
use daypass::clock::Clock;
use daypass::metrics::Metrics;
use daypass::replica::{Limits, Replica, Staleness};
use daypass::store::{Ledger, Limited, RedisConfig, RedisStore, Store, Surroundings, Use};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tonic::transport::Channel;

const LISTENERS: usize = 50;
const CHANGES: u32 = 500;
const USES: u32 = 5_000;
const REVOCATIONS: usize = 2_000;
const CHECKS_PER_SECOND: u32 = 1_000;

fn main() {
    // `cargo test --benches` and the like must not start a load test.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    if find("redis-server").is_none() {
        println!("redis-server is not installed; nothing measured");
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "REQUIRE_ALL=1");
        return;
    }
    copies();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(revocations());
    runtime.block_on(changes());
    runtime.block_on(uses());
}

/// Time of a complete copy, and memory with it.
fn copies() {
    println!("a copy of all grants:");
    for (subjects, per_subject) in [(3_334, 3), (10_000, 1), (33_333, 3), (100_000, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let redis = Redis::start(dir.path());
        let start = || Server::start(&mut daypass(dir.path(), &redis.url), "in step with the store");
        let empty = start().rss_kib();
        load_grants(&redis, subjects, per_subject);
        let server = start();
        let took = server.ready.split("took=").nth(1).unwrap();
        let grants = subjects * per_subject;
        let rss = server.rss_kib();
        println!(
            "  {grants:>7} grants, {per_subject} a subject: {took:>12}   RSS {:.1} MiB, {:.1} without; {} bytes a grant",
            mib(rss),
            mib(empty),
            rss.saturating_sub(empty) * 1024 / grants
        );
    }
}

fn check_of(user: &str, host: &str, path: &str) -> CheckRequest {
    let http = HttpRequest {
        method: "GET".to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        headers: [("x-user".to_owned(), user.to_owned())].into(),
        ..HttpRequest::default()
    };
    let request = Request { http: Some(http), ..Request::default() };
    CheckRequest {
        attributes: Some(AttributeContext { request: Some(request), ..AttributeContext::default() }),
    }
}

async fn is_allowed(client: &mut AuthorizationClient<Channel>, check: CheckRequest) -> bool {
    client.check(check).await.unwrap().into_inner().status.unwrap().code == 0
}

/// From the acknowledged `DEL` to the first denial, while others ask.
async fn revocations() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    load_grants(&redis, 10_000, 1);
    let config = dir.path().join("d.yaml");
    std::fs::write(&config, "identity: [{source: header, name: x-user, kind: user}]\n").unwrap();
    let mut command = daypass(dir.path(), &redis.url);
    command.arg("--config").arg(&config);
    let server = Server::start(&mut command, "in step with the store");
    let connect = || AuthorizationClient::connect(format!("http://{}", server.check));
    let mut client = connect().await.unwrap();
    let mut others = connect().await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let load = tokio::spawn({
        let (is_over, asked) = (Arc::clone(&is_over), Arc::clone(&asked));
        async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHECKS_PER_SECOND);
            let mut user = 0;
            while !is_over.load(Ordering::Relaxed) {
                ticks.tick().await;
                user = (user + 7) % 10_000;
                let check = check_of(&format!("user-{user}@corp.example"), "service-0.prod.svc", "/api/v0/x");
                let _ = is_allowed(&mut others, check).await;
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let began = Instant::now();
    let mut connection = redis.connect();
    let mut took = Vec::with_capacity(REVOCATIONS);
    for user in 0..REVOCATIONS {
        let check = || check_of(&format!("user-{user}@corp.example"), "service-0.prod.svc", "/api/v0/x");
        assert!(is_allowed(&mut client, check()).await, "user {user} before the revocation");
        redis::cmd("DEL").arg(format!("{{jit}}:grant:g-{user}-0")).query::<()>(&mut connection).unwrap();
        let acknowledged = Instant::now();
        while is_allowed(&mut client, check()).await {}
        took.push(acknowledged.elapsed());
    }
    is_over.store(true, Ordering::Relaxed);
    let rate = asked.load(Ordering::Relaxed) * 1000 / u64::try_from(began.elapsed().as_millis()).unwrap();
    load.await.unwrap();
    println!(
        "\n{REVOCATIONS} revocations with 10,000 grants while {rate} checks a second run, DEL acknowledged to first denial:\n  {}",
        quantiles(took)
    );
}

fn quantiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |permille: usize| took[(took.len() - 1) * permille / 1000];
    format!("p50 {:?}   p99 {:?}   max {:?}", at(500), at(990), at(1000))
}

fn seconds_of_cpu(redis: &Redis) -> f64 {
    cpu(&redis.process).as_secs_f64()
}

/// The store and its replica, as a sidecar has them.
fn sidecar(url: &str, dir: &std::path::Path) -> (Arc<Replica>, Arc<RedisStore>) {
    let limits = Limits { grants: 100_000, grants_per_principal: 1_000 };
    let replica = Arc::new(Replica::new(Staleness::AtMost(Duration::from_secs(2)), limits));
    let around = Surroundings {
        replica: Arc::clone(&replica),
        metrics: Arc::new(Metrics::new().unwrap()),
        clock: Clock::System,
        max_ttl: Duration::from_secs(86_400),
    };
    let config = RedisConfig::new(url.parse().unwrap());
    (replica, Arc::new(RedisStore::new(config, Ledger::open(dir).unwrap(), around)))
}

async fn in_step(replica: &Replica) {
    while !replica.freshness(Clock::System.now()).is_fresh() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// One change, told to all and read again by all.
async fn changes() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    load_grants(&redis, 1_000, 1);
    let mut replicas = Vec::new();
    for number in 0..LISTENERS {
        let own = dir.path().join(number.to_string());
        std::fs::create_dir(&own).unwrap();
        let (replica, store) = sidecar(&redis.url, &own);
        tokio::spawn(store.follow());
        replicas.push(replica);
    }
    for replica in &replicas {
        in_step(replica).await;
    }
    let mut connection = redis.connect();
    let (idle_from, idle_began) = (seconds_of_cpu(&redis), Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = (seconds_of_cpu(&redis) - idle_from) / idle_began.elapsed().as_secs_f64();
    let (cpu_before, began) = (seconds_of_cpu(&redis), Instant::now());
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let id = format!("c-{change}");
        let value = format!(r#"{{"v":1,"subject":"user:u-{change}"}}"#);
        let key = format!("{{jit}}:grant:{id}");
        redis::cmd("SET").arg(key).arg(value).arg("PX").arg(600_000).query::<()>(&mut connection).unwrap();
        let acknowledged = Instant::now();
        while replicas.iter().any(|replica| replica.get(&id).is_none()) {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        took.push(acknowledged.elapsed());
    }
    let spent = seconds_of_cpu(&redis) - cpu_before - idle * began.elapsed().as_secs_f64();
    println!(
        "\n{CHANGES} changes with {LISTENERS} sidecars connected: {:.2} ms of Redis' CPU a change ({:.1} us a sidecar; heartbeats alone {:.1} % of a core)",
        spent * 1e3 / f64::from(CHANGES),
        spent * 1e6 / f64::from(CHANGES) / f64::from(u32::try_from(LISTENERS).unwrap()),
        idle * 100.0,
    );
    println!("  acknowledged until all have it: {}", quantiles(took));
}

/// One use: a round trip, and the script.
async fn uses() {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let value = format!(r#"{{"v":1,"subject":"user:alice","max_uses":{}}}"#, u32::MAX);
    let mut set = redis::cmd("SET");
    set.arg("{jit}:grant:g").arg(value).arg("PX").arg(600_000).query::<()>(&mut redis.connect()).unwrap();
    let (replica, store) = sidecar(&redis.url, dir.path());
    tokio::spawn(Arc::clone(&store).follow());
    in_step(&replica).await;
    let store = Store::Redis(store);
    let grant = replica.get("g").unwrap();
    let use_of_it = || vec![Limited { grant: Arc::clone(&grant), max_uses: NonZeroU64::MAX }];
    let take = async |check: u32| {
        let taken = store.take_uses(use_of_it(), &format!("check-{check}"), Duration::from_secs(3)).await;
        assert_eq!(taken.unwrap(), Use::Taken);
    };
    take(0).await;
    let cpu_before = seconds_of_cpu(&redis);
    let mut took = Vec::new();
    for check in 1..=USES {
        let began = Instant::now();
        take(check).await;
        took.push(began.elapsed());
    }
    let spent = seconds_of_cpu(&redis) - cpu_before;
    println!(
        "\n{USES} uses, one after the other: {:.0} us of Redis' CPU each; {}",
        spent * 1e6 / f64::from(USES),
        quantiles(took)
    );
}
