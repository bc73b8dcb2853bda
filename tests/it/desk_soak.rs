//! Reviewers, withdrawals and asks at the same time over two instances, one of which is killed: one outcome each, at
//! most one grant each, and a record without gap or change. `make soak` runs many rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use daypass::api::v1;
use daypass::api::v1::request_service_client::RequestServiceClient;
use daypass::store::journal;
use serde_json::Value;
use tonic::transport::Channel;

use crate::support::daypass::{Daypass, channel, write_file};
use crate::support::people::{by, write_tokens};
use crate::support::random::Random;
use crate::support::redis::Redis;

const REQUESTS: usize = 50;
const ACTORS: usize = 200;
const REVIEWERS: usize = 40;

const ENTITLEMENTS: &str = r#"
daypass:
  entitlements:
    orders:
      permissions: [{hosts: ["orders.svc"]}]
      eligible: ["group:dev"]
      approvers: ["group:leads"]
      approvals: 2
      justification: {required: false}
"#;

fn rounds() -> u64 {
    std::env::var("DESK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

struct Instance {
    args: Vec<String>,
    dir: Arc<tempfile::TempDir>,
    running: Daypass,
}

impl Instance {
    fn start(redis: &Redis, policies: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let names: Vec<String> = (0..REVIEWERS).map(|index| format!("lead-{index}")).collect();
        let mut people: Vec<(&str, &[&str])> =
            names.iter().map(|name| (name.as_str(), &["leads"][..])).collect();
        let asking: Vec<String> = (0..REQUESTS).map(|index| format!("dev-{index}")).collect();
        people.extend(asking.iter().map(|name| (name.as_str(), &["dev"][..])));
        write_tokens(&dir.path().join("data/tokens.yaml"), &people);
        let config = "api: {rate_limit: {per_second: 100000, burst: 100000}}\n";
        let config = write_file(dir.path(), "daypass.yaml", config);
        let args = ["--config", &config, "--store", &redis.url(), "--policy", policies];
        let args: Vec<String> = args.map(str::to_owned).into();
        let running = Self::run(&dir, &args);
        Self { args, dir, running }
    }

    fn run(dir: &Arc<tempfile::TempDir>, args: &[String]) -> Daypass {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Daypass::start_in(dir, &args)
    }

    fn kill_and_restart(&mut self) {
        self.running.process.signal("-KILL");
        // Its files are free again only when it is gone.
        self.running.process.0.wait().unwrap();
        self.running = Self::run(&self.dir, &self.args);
    }

    async fn client(&self) -> RequestServiceClient<Channel> {
        RequestServiceClient::new(channel(&self.running.api).await)
    }
}

async fn ask(
    client: &mut RequestServiceClient<Channel>,
    index: usize,
    round: u64,
) -> Option<v1::AccessRequest> {
    let asked = v1::CreateAccessRequest {
        entitlement: "orders".to_owned(),
        request_id: format!("round-{round}-{index}"),
        ..v1::CreateAccessRequest::default()
    };
    client.create_request(by(&format!("dev-{index}"), asked)).await.ok().map(tonic::Response::into_inner)
}

/// An instance that has just begun, or whose store was emptied, says for some milliseconds that it cannot tell who is
/// locked.
async fn asked_for_sure(client: &mut RequestServiceClient<Channel>, index: usize, round: u64) -> String {
    for _ in 0..200 {
        if let Some(request) = ask(client, index, round).await {
            return request.id;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nobody could ask in round {round}");
}

/// What somebody does, again for as long as nobody can know whether it was done.
async fn act(
    mut client: RequestServiceClient<Channel>,
    mut random: Random,
    ids: Arc<Vec<String>>,
    round: u64,
) {
    let index = below(&mut random, REQUESTS);
    let id = ids[index].clone();
    let lead = format!("lead-{}", random.below(REVIEWERS as u64));
    let reason = String::new();
    // What is refused is refused: somebody else was first.
    match random.below(10) {
        0..=5 => drop(
            client.approve_request(by(&lead, v1::ApproveAccessRequest { id, reason, duration: None })).await,
        ),
        6 => drop(client.deny_request(by(&lead, v1::DenyAccessRequest { id, reason })).await),
        7 => {
            drop(
                client.withdraw_request(by(&format!("dev-{index}"), v1::WithdrawAccessRequest { id })).await,
            );
        }
        _ => drop(ask(&mut client, index, round).await),
    }
}

/// Everything in the store that says something of the requests.
struct Truth {
    requests: BTreeMap<String, Value>,
    grants: BTreeMap<String, Value>,
    events: Vec<Value>,
}

type Entry = (String, BTreeMap<String, String>);

fn truth(redis: &Redis) -> Truth {
    let rows = |table: &str| {
        let prefix = format!("{{jit}}:{table}:");
        let keys: Vec<String> = redis.query(redis::cmd("KEYS").arg(format!("{prefix}*")));
        let read = |key: String| {
            let text: String = redis.query(redis::cmd("GET").arg(&key));
            (key[prefix.len()..].to_owned(), serde_json::from_str(&text).unwrap())
        };
        keys.into_iter().map(read).collect()
    };
    let entries: Vec<Entry> = redis.query(redis::cmd("XRANGE").arg("{jit}:events").arg("-").arg("+"));
    let (mut hash, mut events) = (journal::GENESIS.to_owned(), Vec::new());
    for (index, (id, fields)) in entries.into_iter().enumerate() {
        assert_eq!(id, format!("{}-0", index + 1), "a gap");
        hash = journal::chain(&hash, &fields["document"]);
        assert_eq!(hash, fields["hash"], "event {id} is not what follows on the one before");
        events.push(serde_json::from_str(&fields["document"]).unwrap());
    }
    Truth { requests: rows("request"), grants: rows("grant"), events }
}

impl Truth {
    fn check(&self, expected: usize) {
        assert_eq!(self.requests.len(), expected, "asks were lost, or done twice");
        let mut held = BTreeSet::new();
        for (id, request) in &self.requests {
            let of = |kind: &str| {
                self.events
                    .iter()
                    .filter(|event| event["request"] == id.as_str() && event["type"] == kind)
                    .count()
            };
            let state = request["state"].as_str().unwrap();
            let outcomes = ["request.approved", "request.denied", "request.withdrawn"].map(of);
            assert_eq!(
                outcomes.iter().sum::<usize>(),
                usize::from(state != "pending"),
                "{id} is {state}: {outcomes:?}"
            );
            assert_eq!(of("request.created"), 1);
            assert_eq!(of("grant.created"), usize::from(state == "approved"));
            let approved: BTreeSet<&str> =
                reviews(request).filter(|(_, said)| *said == "approved").map(|(by, _)| by).collect();
            assert_eq!(reviews(request).count(), of("request.reviewed"), "{id}: a review is lost or doubled");
            assert!(state != "approved" || approved.len() == 2, "{id}: {approved:?}");
            assert!(state != "pending" || approved.len() < 2, "{id}: {approved:?}");
            let grants: Vec<_> =
                self.grants.iter().filter(|(_, grant)| grant["request"] == id.as_str()).collect();
            assert_eq!(grants.len(), usize::from(state == "approved"), "{id} is {state}");
            for (grant, record) in grants {
                assert_eq!(request["grant"], grant.as_str());
                assert_eq!(record["approved_by"].as_array().unwrap().len(), 2);
                held.insert(grant);
            }
        }
        assert_eq!(held.len(), self.grants.len(), "a grant of nobody's");
    }
}

fn reviews(request: &Value) -> impl Iterator<Item = (&str, &str)> {
    let reviews = request["reviews"].as_array().unwrap().iter();
    reviews.map(|review| (review["reviewer"]["name"].as_str().unwrap(), review["decision"].as_str().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_outcome_whoever_is_killed() {
    let Some(redis) = Redis::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    write_file(dir.path(), "entitlements.yaml", ENTITLEMENTS);
    let policies = dir.path().display().to_string();
    let mut instances = [Instance::start(&redis, &policies), Instance::start(&redis, &policies)];
    for round in 0..rounds() {
        let mut random = seeded(round, 1_000_000);
        redis.run::<()>("FLUSHALL");
        let clients = [instances[0].client().await, instances[1].client().await];
        let mut ids = Vec::new();
        for index in 0..REQUESTS {
            let mut client = clients[index % 2].clone();
            ids.push(asked_for_sure(&mut client, index, round).await);
        }
        let ids = Arc::new(ids);
        let killed = below(&mut random, ACTORS);
        let mut tasks = Vec::new();
        for actor in 0..ACTORS {
            let client = clients[actor % 2].clone();
            let random = seeded(round, actor as u64);
            tasks.push(tokio::spawn(act(client, random, Arc::clone(&ids), round)));
            if actor == killed {
                // Whatever it is doing.
                let pause = seeded(round, 2_000_000).below(40);
                tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
                let victim = &mut instances[usize::from(round % 2 == 1)];
                tokio::task::block_in_place(|| victim.kill_and_restart());
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        truth(&redis).check(REQUESTS);
        if round % 100 == 99 {
            println!("desk: {} rounds", round + 1);
        }
    }
    println!(
        "desk: {} rounds of {ACTORS} actors on {REQUESTS} requests, an instance killed in each",
        rounds()
    );
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(u64::try_from(bound).unwrap())).unwrap()
}

/// Seeds that lie side by side must not begin alike.
fn seeded(round: u64, actor: u64) -> Random {
    Random::new((round * 1_000_003 + actor + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
