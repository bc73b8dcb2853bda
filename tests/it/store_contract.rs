//! What every store promises, run against each of them through the grant API and the check listener.

use crate::support::daypass::{Client, Daypass};
use crate::support::redis::{Cluster, Flavour, Redis, Replicated, Sentinel};
use crate::support::request::{alice, metadata, reason, upstream_header};
use crate::support::{PATIENCE, wait_for};

/// A store, and what keeps it alive.
struct Store {
    url: String,
    _servers: Box<dyn std::any::Any>,
}

fn embedded() -> Store {
    Store { url: "embedded".to_owned(), _servers: Box::new(()) }
}

fn single(flavour: Flavour) -> Option<Store> {
    let redis = Redis::start_as(flavour, &[])?;
    Some(Store { url: redis.url(), _servers: Box::new(redis) })
}

fn sentinel() -> Option<Store> {
    let pair = Replicated::start(&[])?;
    let sentinel = Sentinel::start(pair.master.port)?;
    Some(Store { url: sentinel.url(), _servers: Box::new((pair, sentinel)) })
}

fn cluster(flavour: Flavour) -> Option<Store> {
    let cluster = Cluster::start(flavour)?;
    Some(Store { url: cluster.url(), _servers: Box::new(cluster) })
}

async fn until(client: &mut Client, expected: &str) {
    let began = std::time::Instant::now();
    loop {
        let found = reason(&client.check(alice()).await);
        if found == expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "still {found}, not {expected}");
    }
}

async fn keeps_the_contract(store: Option<Store>) {
    let Some(store) = store else { return };
    let daypass = Daypass::start(&["--store", &store.url]);
    wait_for("readiness", || (daypass.ops("/readyz").0 == 200).then_some(()));
    let mut client = daypass.client().await;
    let create = |id: &str, more: &[&str]| {
        let words =
            ["create", "--id", id, "--subject", "user:alice", "--host", "orders.svc", "--path", "/db/**"];
        daypass.grant(&[&words[..], more].concat())
    };
    assert_eq!(reason(&client.check(alice()).await), "no_grant");

    // Given, shown, listed, named in the answer with its time.
    create("g1", &["--ttl", "1h", "--ticket", "T-1", "--approved-by", "user:bob"]).unwrap();
    until(&mut client, "grant").await;
    let answer = client.check(alice()).await;
    assert_eq!(
        (metadata(&answer, "grant"), metadata(&answer, "ticket")),
        ("g1".to_owned(), "T-1".to_owned())
    );
    let left: u64 = upstream_header(&answer, "x-envoy-upstream-stream-duration-ms").unwrap().parse().unwrap();
    assert!((3_500_000..=3_600_002).contains(&left), "{left}");
    assert!(daypass.grant(&["show", "g1"]).unwrap().contains("\"ticket\": \"T-1\""));
    assert!(daypass.grant(&["ls", "--subject", "user:alice"]).unwrap().contains("g1"));
    assert!(!daypass.grant(&["ls", "--subject", "user:bob"]).unwrap().contains("g1"));

    // Not twice, not for ever, not for nobody.
    assert!(create("g1", &["--ttl", "1h"]).unwrap_err().contains("exists"));
    assert!(create("g9", &["--ttl", "25h"]).unwrap_err().contains("ttl_too_long"));

    // Revoked, one and all; revoking what is not there is an error, revoking all of nothing is none.
    assert_eq!(daypass.grant(&["revoke", "g1"]).unwrap(), "revoked g1\n");
    until(&mut client, "no_grant").await;
    assert!(daypass.grant(&["revoke", "g1"]).unwrap_err().contains("revoked already"));
    assert!(daypass.grant(&["show", "g1"]).unwrap().contains("REVOKED"));
    assert!(daypass.grant(&["show", "never"]).unwrap_err().contains("no such grant"));
    create("g2", &["--ttl", "1h"]).unwrap();
    create("g3", &["--ttl", "1h"]).unwrap();
    assert_eq!(daypass.grant(&["revoke", "--subject", "user:alice"]).unwrap(), "revoked g2\nrevoked g3\n");
    assert_eq!(daypass.grant(&["revoke", "--subject", "user:alice"]).unwrap(), "nothing to revoke\n");
    until(&mut client, "no_grant").await;

    // Uses: counted, and an unlimited grant goes before.
    create("u1", &["--ttl", "1h", "--max-uses", "2"]).unwrap();
    until(&mut client, "grant").await;
    assert_eq!(reason(&client.check(alice()).await), "grant");
    assert_eq!(reason(&client.check(alice()).await), "uses_exhausted");
    create("u2", &["--ttl", "1h"]).unwrap();
    until(&mut client, "grant").await;
    daypass.grant(&["revoke", "u2"]).unwrap();
    until(&mut client, "uses_exhausted").await;
    daypass.grant(&["revoke", "u1"]).unwrap();
    until(&mut client, "no_grant").await;

    // Runs out by itself, everywhere.
    create("g4", &["--ttl", "400ms"]).unwrap();
    until(&mut client, "no_grant").await;
    wait_for("the end in the store", || {
        daypass.grant(&["show", "g4"]).unwrap().contains("ENDED").then_some(())
    });
}

/// Names the contract once for each store.
macro_rules! stores {
    ($($name:ident: $store:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            keeps_the_contract($store).await;
        }
    )*};
}

stores! {
    embedded_store: Some(embedded());
    redis_alone: single(Flavour::Redis);
    redis_by_sentinel: sentinel();
    redis_cluster: cluster(Flavour::Redis);
    valkey_alone: single(Flavour::Valkey);
    valkey_cluster: cluster(Flavour::Valkey);
}
