//! What a check does while a grant of its caller is being read again.

use std::sync::Arc;
use std::time::Duration;

use daypass::clock::Clock;
use daypass::policy::Sources;
use daypass::store::record::{ReadAt, Ttl, decode};

use crate::support::checker::checker;
use crate::support::request::{ALICES_GRANT, alice, denied_status, reason};

#[tokio::test]
async fn waits_for_a_changed_grant_and_no_longer_than_configured() {
    let checker = checker(&Sources::built_in(), &[ALICES_GRANT]);
    checker.replica.suspect("g-0");
    let response = checker.check(&alice()).await;
    assert_eq!((reason(&response).as_str(), denied_status(&response)), ("stale", 503));
    let read_at = ReadAt { sent: Clock::System.now(), ttl: Ttl::Left(Duration::from_secs(60)) };
    let grant = decode("g-0", ALICES_GRANT.as_bytes(), read_at, Duration::from_secs(60)).unwrap();
    checker.replica.suspect("g-0");
    let answered = async { reason(&checker.check(&alice()).await) };
    let read_again = async {
        tokio::task::yield_now().await;
        checker.replica.insert(grant).unwrap();
    };
    assert_eq!(tokio::join!(answered, read_again).0, "grant");
}

#[tokio::test]
async fn more_checks_at_once_than_allowed_are_denied() {
    let checker = Arc::new(checker(&Sources::built_in(), &[ALICES_GRANT]));
    assert_eq!(checker.config.max_concurrent_checks, 1);
    checker.replica.suspect("g-0");
    let waiting = async { reason(&checker.check(&alice()).await) };
    let second = async {
        tokio::task::yield_now().await;
        let response = checker.check(&alice()).await;
        (reason(&response), denied_status(&response))
    };
    let (first, second) = tokio::join!(waiting, second);
    assert_eq!((first.as_str(), second.0.as_str(), second.1), ("stale", "overloaded", 503));
    checker.replica.remove("g-0");
    assert_eq!(reason(&checker.check(&alice()).await), "no_grant");
}
