//! A desk over a store of its own, with entitlements that a test can change.

use std::sync::Arc;
use std::time::Duration;

use daypass::clock::Clock;
use daypass::desk::admission::{Admission, LiveAdmission};
use daypass::desk::model::Request;
use daypass::desk::{Ask, Desk, DeskError, EventFilter, Limits};
use daypass::entitlement;
use daypass::grant::GrantId;
use daypass::metrics::Metrics;
use daypass::policy::{Data, Sources};
use daypass::principal::{Caller, Evidence, Identity};
use daypass::replica::{self, Replica, Staleness};
use daypass::store::journal::{self, Row, StoredEvent, Table};
use daypass::store::{EmbeddedStore, Ledger, RedisConfig, RedisStore, Store, Surroundings};
use serde_json::{Value, json};

use super::redis::Redis;
use super::wait_for;

pub const MAX_TTL: Duration = Duration::from_secs(86_400);

pub struct Room {
    pub desk: Arc<Desk>,
    pub store: Arc<Store>,
    pub replica: Arc<Replica>,
    admission: Arc<LiveAdmission>,
    entitlements: std::sync::Mutex<Value>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// What the tests ask for unless they say otherwise.
pub fn entitlement(more: &Value) -> Value {
    let mut found = json!({
        "permissions": [{"hosts": ["orders.svc"], "paths": ["/db/**"]}],
        "eligible": ["user:alice", "user:agent-boss"],
        "approvers": ["group:leads"],
        "justification": {"required": false},
    });
    merge(&mut found, more);
    found
}

fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        into[name] = value.clone();
    }
}

fn admission(entitlements: &Value) -> Admission {
    let data = json!({"daypass": {"entitlements": entitlements, "auditors": ["user:auditor"]}});
    let sources = Sources::new(Vec::new(), Data::from_json(&data.to_string()).unwrap());
    let limits = entitlement::Limits { max_grant_ttl: MAX_TTL };
    Admission::compile(&sources, limits, Duration::from_secs(1)).unwrap_or_else(|error| panic!("{error}"))
}

impl Room {
    /// With entitlement `e`.
    pub fn open(redis: Option<&Redis>) -> Self {
        Self::with(redis, json!({"e": entitlement(&json!({}))}))
    }

    pub fn with(redis: Option<&Redis>, entitlements: Value) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let limits = replica::Limits { grants: 10_000, grants_per_principal: 1_000 };
        let staleness = match redis {
            None => Staleness::Local,
            Some(_) => Staleness::AtMost(Duration::from_secs(2)),
        };
        let replica = Arc::new(Replica::new(staleness, limits));
        let around =
            Surroundings { replica: Arc::clone(&replica), metrics, clock: Clock::System, max_ttl: MAX_TTL };
        let dir = tempfile::tempdir().unwrap();
        let mut tasks = Vec::new();
        let store = match redis {
            None => Store::Embedded(Arc::new(EmbeddedStore::open(dir.path(), around).unwrap())),
            Some(redis) => {
                let config = RedisConfig::new(redis.url().parse().unwrap());
                let store = Arc::new(RedisStore::new(config, Ledger::open(dir.path()).unwrap(), around));
                let following = Arc::clone(&store);
                tasks.push(tokio::spawn(async move { match following.follow().await {} }));
                Store::Redis(store)
            }
        };
        let store = Arc::new(store);
        let live = Arc::new(LiveAdmission::new(admission(&entitlements)));
        let desk = Arc::new(Desk::new(
            Arc::clone(&store),
            Arc::clone(&replica),
            Arc::clone(&live),
            Limits { max_grant_ttl: MAX_TTL },
        ));
        let keeping = Arc::clone(&desk);
        tasks.push(tokio::spawn(async move { match keeping.keep_time().await {} }));
        let entitlements = std::sync::Mutex::new(entitlements);
        let room = Self { desk, store, replica, admission: live, entitlements, tasks, _dir: dir };
        // Until then nobody knows who is locked.
        room.wait_for_replica();
        room
    }

    /// Another instance, at the same Redis and with the same entitlements.
    pub fn beside(&self, redis: &Redis) -> Self {
        Self::with(Some(redis), self.entitlements.lock().unwrap().clone())
    }

    /// Changes members of an entitlement, in force at once.
    pub fn change(&self, name: &str, more: &Value) {
        let mut entitlements = self.entitlements.lock().unwrap();
        merge(&mut entitlements[name], more);
        self.admission.replace(admission(&entitlements));
    }

    pub async fn ask(&self, who: &Identity) -> Request {
        self.ask_for(who, "e", |_| {}).await.unwrap()
    }

    pub async fn ask_for(
        &self,
        who: &Identity,
        entitlement: &str,
        change: impl FnOnce(&mut Ask),
    ) -> Result<Request, DeskError> {
        let mut ask = Ask {
            entitlement: entitlement.to_owned(),
            duration: Some(Duration::from_secs(600)),
            justification: "to look at the orders".to_owned(),
            ..Ask::default()
        };
        change(&mut ask);
        self.desk.ask(who, ask).await
    }

    pub async fn approve(&self, who: &Identity, id: &str) -> Result<Request, DeskError> {
        self.desk.approve(who, id, "", None).await
    }

    /// An approved grant of alice's.
    pub async fn granted(&self) -> String {
        let request = self.ask(&alice()).await;
        self.approve(&bob(), &request.id).await.unwrap().grant.unwrap()
    }

    /// Whether the key of a grant is there.
    pub async fn has_key(&self, id: &str) -> bool {
        let look = self.store.look(&[Row::new(Table::Grants, id)]).await.unwrap();
        look.values[0].is_some()
    }

    pub async fn events(&self) -> Vec<StoredEvent> {
        let mut all: Vec<StoredEvent> = Vec::new();
        loop {
            let more = self.store.events(all.last().map_or(0, |last| last.number), 1000).await.unwrap();
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// Types of the events about a request or grant, in their order.
    pub async fn history(&self, id: &str) -> Vec<String> {
        let of = |event: &StoredEvent| serde_json::from_str::<Value>(&event.document).unwrap();
        let about = |event: &Value| event["request"] == id || event["grant"] == id || event["lock"] == id;
        let events = self.events().await;
        let types = events.iter().map(of).filter(about);
        types.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    /// Numbers without a gap, and every hash follows from the one before.
    pub async fn check_chain(&self) {
        let (mut hash, mut number) = (journal::GENESIS.to_owned(), 0);
        for event in self.events().await {
            number += 1;
            hash = journal::chain(&hash, &event.document);
            assert_eq!((event.number, &event.hash), (number, &hash));
        }
        assert!(number > 0);
    }

    /// What an auditor sees of the record.
    pub async fn seen_by(&self, who: &Identity) -> usize {
        self.desk.events(who, 0, 1000, &EventFilter::default()).await.unwrap().events.len()
    }

    pub fn wait_for_replica(&self) {
        wait_for("the replica", || self.replica.freshness(Clock::System.now()).is_fresh().then_some(()));
    }

    /// The replica has the grant, or has it no longer.
    pub async fn wait_for_grant(&self, id: &str, is_there: bool) {
        let id: GrantId = id.parse().unwrap();
        for _ in 0..500 {
            if self.replica.get(id.as_str()).is_some() == is_there {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id}: still {}", if is_there { "not there" } else { "there" });
    }
}

/// Somebody of the groups.
pub fn person(name: &str, groups: &[&str]) -> Identity {
    let names = std::iter::once(name.to_owned()).chain(groups.iter().map(|group| format!("group:{group}")));
    let caller = Caller::new(names.map(|name| name.parse().unwrap()).collect());
    Identity::new(caller, Evidence::Jwt).unwrap()
}

pub fn alice() -> Identity {
    person("user:alice", &["dev"])
}

pub fn bob() -> Identity {
    person("user:bob", &["leads"])
}

pub fn carol() -> Identity {
    person("user:carol", &["leads"])
}

pub fn admin() -> Identity {
    person("user:admin", &["daypass-admins"])
}

pub fn stranger() -> Identity {
    person("user:mallory", &["dev"])
}
