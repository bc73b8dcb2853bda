//! The check path of the library, without a server around it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use daypass::authz::{
    BodyParsing, Checker, Config, Enforcement, IdentitySource, LiveRules, RequestIds, Rules, StreamLimits,
    Streams,
};
use daypass::clock::Clock;
use daypass::metrics::Metrics;
use daypass::policy::{DecisionPath, Policy, Sources};
use daypass::replica::{Limits, Replica, Staleness};
use daypass::store::record::{ReadAt, Ttl, decode};
use daypass::store::{EmbeddedStore, Store, Surroundings};

/// On grants that never change, whatever store there may be.
pub fn checker(sources: &Sources, grants: &[&str]) -> Checker {
    let metrics = Arc::new(Metrics::new().unwrap());
    let limits = Limits { grants: 100, grants_per_principal: 100 };
    let replica = Arc::new(Replica::new(Staleness::Local, limits));
    let around = Surroundings {
        replica: Arc::clone(&replica),
        metrics: Arc::clone(&metrics),
        clock: Clock::System,
        max_ttl: Duration::from_secs(86_400),
    };
    for (index, value) in grants.iter().enumerate() {
        let read_at = ReadAt { sent: Clock::System.now(), ttl: Ttl::Left(Duration::from_secs(80_000)) };
        replica
            .insert(decode(&format!("g-{index}"), value.as_bytes(), read_at, around.max_ttl).unwrap())
            .unwrap();
    }
    let store = Arc::new(Store::Embedded(Arc::new(EmbeddedStore::in_memory(around).unwrap())));
    Checker {
        config: Config { max_concurrent_checks: 1, ..config() },
        ..on(sources, &replica, &metrics, &store)
    }
}

/// On a store and the replica it keeps.
pub fn on(sources: &Sources, replica: &Arc<Replica>, metrics: &Arc<Metrics>, store: &Arc<Store>) -> Checker {
    let policy =
        Policy::compile(sources, &DecisionPath::new("envoy/authz/allow"), Duration::from_secs(5)).unwrap();
    Checker {
        config: config(),
        rules: Arc::new(LiveRules::new(Rules::new(policy, "test".into()))),
        replica: Arc::clone(replica),
        store: Arc::clone(store),
        metrics: Arc::clone(metrics),
        log: None,
        tracer: None,
        clock: Clock::System,
        in_flight: AtomicUsize::new(0),
        streams: Streams::default(),
    }
}

fn config() -> Config {
    Config {
        identity: vec![
            IdentitySource::defaults().remove(0),
            IdentitySource::Peer,
            IdentitySource::Xfcc { trusted_hops: 1 },
            IdentitySource::Header { name: "x-user".into(), kind: daypass::principal::Kind::User },
        ],
        body_parsing: BodyParsing::On,
        enforcement: Enforcement::Enforce,
        stream: StreamLimits { lease: None, retry_horizon: Duration::from_secs(60) },
        check_timeout: Duration::from_secs(10),
        settle_timeout: Duration::from_millis(100),
        max_concurrent_checks: 10_000,
        watched_streams: daypass::authz::watch::Room { all: 100, of_one_caller: 100 },
        request_ids: RequestIds::Ignored,
    }
}
