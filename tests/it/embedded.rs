//! The embedded store: one process, and nothing lost with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::daypass::Daypass;
use crate::support::request::{alice, is_allow, reason};

const CREATE: [&str; 8] =
    ["create", "--subject", "user:alice", "--host", "orders.svc", "--path", "/db/**", "--ttl"];

fn create(daypass: &Daypass, more: &[&str]) -> String {
    let output = daypass.grant(&[&CREATE[..], more].concat()).unwrap();
    output.split_whitespace().nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn survives_kill_9_with_grants_and_revocations() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let args = ["--store", "embedded"];
    let daypass = Daypass::start_in(&dir, &args);
    let kept = create(&daypass, &["10m"]);
    let revoked = create(&daypass, &["10m"]);
    daypass.grant(&["revoke", &revoked]).unwrap();
    daypass.process.signal("-KILL");
    drop(daypass);
    let daypass = Daypass::start_in(&dir, &args);
    let list = daypass.grant(&["ls"]).unwrap();
    assert!(list.contains(&kept) && !list.contains(&revoked), "{list}");
    assert_eq!(reason(&daypass.client().await.check(alice()).await), "grant");
    daypass.grant(&["revoke", &kept]).unwrap();
    assert_eq!(reason(&daypass.client().await.check(alice()).await), "no_grant");
}

#[tokio::test]
async fn a_revocation_holds_from_the_moment_it_is_answered() {
    let daypass = Daypass::start(&[]);
    let mut client = daypass.client().await;
    for _ in 0..5 {
        let id = create(&daypass, &["10m"]);
        assert!(is_allow(&client.check(alice()).await));
        daypass.grant(&["revoke", &id]).unwrap();
        assert_eq!(reason(&client.check(alice()).await), "no_grant");
    }
}

#[tokio::test]
async fn a_grant_runs_out_by_itself() {
    let daypass = Daypass::start(&[]);
    let mut client = daypass.client().await;
    let created = Instant::now();
    let id = create(&daypass, &["700ms"]);
    assert!(is_allow(&client.check(alice()).await));
    while is_allow(&client.check(alice()).await) {}
    let lasted = created.elapsed();
    assert!(lasted >= Duration::from_millis(600) && lasted < Duration::from_secs(2), "{lasted:?}");
    while reason(&client.check(alice()).await) != "no_grant" {}
    assert!(daypass.grant(&["show", &id]).unwrap().contains("ENDED"));
    assert!(!daypass.grant(&["ls"]).unwrap().contains(&id));
}

#[tokio::test]
async fn uses_are_counted() {
    let daypass = Daypass::start(&[]);
    create(&daypass, &["10m", "--max-uses", "3"]);
    let mut client = daypass.client().await;
    let mut reasons = Vec::new();
    for _ in 0..5 {
        reasons.push(reason(&client.check(alice()).await));
    }
    assert_eq!(reasons, ["grant", "grant", "grant", "uses_exhausted", "uses_exhausted"]);
}

#[test]
fn a_file_in_use_is_named() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let _first = Daypass::start_in(&dir, &["--store", "embedded"]);
    let log = Daypass::try_start(&dir, &["--store", "embedded"]).err().unwrap();
    assert!(log.contains("grants.redb"), "{log}");
}
