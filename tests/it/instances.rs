//! Two instances of the API over one Redis, and a sidecar elsewhere that only answers checks.

use std::sync::Arc;
use std::time::Instant;

use daypass::api::v1;
use daypass::api::v1::grant_service_client::GrantServiceClient;
use daypass::api::v1::request_service_client::RequestServiceClient;
use tonic::Code;

use crate::documents::as_user;
use crate::support::daypass::{Daypass, channel, write_file};
use crate::support::people::{by, write_tokens};
use crate::support::redis::Redis;
use crate::support::request::{alice, reason};
use crate::support::wait_for;

const ENTITLEMENTS: &str = r#"
daypass:
  entitlements:
    orders:
      permissions: [{hosts: ["orders.svc"], paths: ["/db/**"]}]
      eligible: [user:alice]
      approvers: [user:bob]
      justification: {required: false}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_at_one_is_approved_at_the_other_and_used_at_a_third() {
    let Some(redis) = Redis::start(&[]) else { return };
    let policies = tempfile::tempdir().unwrap();
    let entitlements = write_file(policies.path(), "entitlements.yaml", ENTITLEMENTS);
    let office = || {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        write_tokens(&dir.path().join("data/tokens.yaml"), &[("alice", &[]), ("bob", &[])]);
        Daypass::start_in(&dir, &["--store", &redis.url(), "--policy", &entitlements])
    };
    let (first, second) = (office(), office());
    // With the permissions of a sidecar, which may not write.
    let sidecar = Daypass::start(&["--store", &as_user(&redis, "sidecar", 0), "--api-listen", "off"]);
    assert_eq!(sidecar.api, "off");
    for one in [&first, &second, &sidecar] {
        wait_for("the first copy", || (one.ops("/readyz").0 == 200).then_some(()));
    }
    let mut asking = RequestServiceClient::new(channel(&first.api).await);
    let mut deciding = RequestServiceClient::new(channel(&second.api).await);
    let mut client = sidecar.client().await;
    assert_eq!(reason(&client.check(alice()).await), "no_grant");

    let mut waits = Vec::new();
    for _ in 0..20 {
        let ask = v1::CreateAccessRequest { entitlement: "orders".into(), ..Default::default() };
        let id = asking.create_request(by("alice", ask)).await.unwrap().into_inner().id;
        let watch = v1::WatchAccessRequest { id: id.clone() };
        let mut watched = asking.watch_request(by("alice", watch)).await.unwrap().into_inner();
        assert_eq!(watched.message().await.unwrap().unwrap().state(), v1::RequestState::Pending);
        let approve = v1::ApproveAccessRequest { id, ..Default::default() };
        let approved = deciding.approve_request(by("bob", approve)).await.unwrap().into_inner();
        let answered = Instant::now();
        while reason(&client.check(alice()).await) != "grant" {
            assert!(answered.elapsed().as_secs() < 2, "approved, and not usable");
        }
        waits.push(answered.elapsed());
        // Whoever waits at the first instance hears of it, and the watch ends.
        let told = watched.message().await.unwrap().unwrap();
        assert_eq!((told.state(), &told.grant), (v1::RequestState::Approved, &approved.grant));
        assert!(watched.message().await.unwrap().is_none());
        // Given back at the first, gone at the sidecar.
        let mut grants = GrantServiceClient::new(channel(&first.api).await);
        let back = v1::RelinquishGrantRequest { id: approved.grant };
        grants.relinquish_grant(by("alice", back)).await.unwrap();
        while reason(&client.check(alice()).await) != "no_grant" {}
    }
    waits.sort();
    println!("approved at one, usable at a sidecar after {:?} (median), {:?} (worst)", waits[10], waits[19]);

    // A second decision at the other instance comes too late, whoever is asked.
    let ask = v1::CreateAccessRequest { entitlement: "orders".into(), ..Default::default() };
    let id = asking.create_request(by("alice", ask)).await.unwrap().into_inner().id;
    let approve = |id: &str| v1::ApproveAccessRequest { id: id.to_owned(), ..Default::default() };
    deciding.approve_request(by("bob", approve(&id))).await.unwrap();
    let late = asking.approve_request(by("bob", approve(&id))).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
}
