//! The rules of requests, grants and locks: each one a case that breaks without it, on both stores.

use std::sync::Arc;
use std::time::Duration;

use daypass::desk::model::{Request, Standing, State};
use daypass::desk::{DeskError, Ending, Extend, Relation, Target};
use daypass::principal::Identity;
use daypass::store::GrantRecord;
use jiff::Timestamp;
use serde_json::json;

use crate::support::desk::{Room, admin, alice, bob, carol, entitlement, person, stranger};
use crate::support::redis::Redis;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Each case once for each store.
macro_rules! cases {
    ($($case:ident;)*) => {
        mod embedded {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(None).await;
            }
        )*}

        mod redis {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let Some(redis) = super::Redis::start(&[]) else { return };
                super::$case(Some(&redis)).await;
            }
        )*}
    };
}

cases! {
    the_clock_starts_at_the_approval;
    the_clock_starts_at_not_before;
    reviewers_narrow_and_never_widen;
    every_person_counts_once;
    nobody_approves_their_own;
    one_denial_ends_it;
    a_decided_request_stays_decided;
    eligibility_is_judged_again_at_the_decision;
    a_reviewer_who_is_none_any_more_does_not_count;
    what_was_decided_is_looked_at_again_at_the_start;
    nobody_decides_after_the_deadline;
    overlapping_grants_end_each_for_itself;
    an_extension_is_reviewed_and_capped_in_total;
    no_grant_outlives_the_hard_cap;
    a_repeated_call_makes_one_request;
    what_an_entitlement_gives_is_what_was_asked_for;
    a_lock_stops_the_desk_too;
    the_approval_of_somebody_who_is_locked_by_now_does_not_count;
    what_a_stranger_may_not_see_is_not_found;
    an_emergency_is_short_and_flagged;
    only_holders_give_back_and_only_some_revoke;
    all_grants_of_somebody_end_at_once;
    natural_ends_are_recorded_once;
    a_trial_leaves_nothing;
    lists_are_by_relation_and_in_pages;
    racing_reviewers_have_one_outcome;
}

fn denied<T: std::fmt::Debug>(result: Result<T, DeskError>) -> String {
    match result.unwrap_err() {
        DeskError::Denied(reasons) => reasons.join("; "),
        other => panic!("not a denial: {other:?}"),
    }
}

fn state<T: std::fmt::Debug>(result: Result<T, DeskError>) -> String {
    match result.unwrap_err() {
        DeskError::State(text) => text,
        other => panic!("not about its state: {other:?}"),
    }
}

fn length(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap()
}

async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

async fn standing(room: &Room, id: &str) -> Standing {
    room.desk.grant(&admin(), id).await.unwrap().grant.standing
}

async fn until_standing(room: &Room, id: &str, wanted: Standing) {
    for _ in 0..800 {
        if standing(room, id).await == wanted {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("still {:?}", standing(room, id).await);
}

async fn the_clock_starts_at_the_approval(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let request = room.ask(&alice()).await;
    assert_eq!(request.state, State::Pending);
    sleep(SECOND).await;
    let request = room.approve(&bob(), &request.id).await.unwrap();
    let grant = room.desk.grant(&alice(), &request.grant.unwrap()).await.unwrap().grant;
    assert_eq!(length(request.decided.unwrap(), grant.expires), 10 * MINUTE);
    assert!(room.has_key(&grant.id).await);
    let expected = ["request.created", "request.reviewed", "request.approved", "grant.created"];
    assert_eq!(room.history(&request.id).await, expected);
    room.check_chain().await;
}

async fn the_clock_starts_at_not_before(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let start = Timestamp::now() + SECOND * 2;
    let request = room.ask_for(&alice(), "e", |ask| ask.not_before = Some(start)).await.unwrap();
    let id = room.approve(&bob(), &request.id).await.unwrap().grant.unwrap();
    assert!(!room.has_key(&id).await, "it began before its time");
    assert_eq!(standing(&room, &id).await, Standing::Scheduled);
    until_standing(&room, &id, Standing::Active).await;
    assert!(Timestamp::now() >= start && room.has_key(&id).await);
    let grant = room.desk.grant(&alice(), &id).await.unwrap().grant;
    assert_eq!(length(grant.starts, grant.expires), 10 * MINUTE);
    assert!(room.history(&id).await.ends_with(&["grant.scheduled".into(), "grant.activated".into()]));

    let far = Timestamp::now() + MINUTE * 60 * 24 * 8;
    let far = room.ask_for(&alice(), "e", |ask| ask.not_before = Some(far)).await;
    assert!(matches!(far, Err(DeskError::Invalid(_))));
}

async fn reviewers_narrow_and_never_widen(redis: Option<&Redis>) {
    let two = entitlement(&json!({"approvals": 2}));
    let room = Room::with(redis, json!({"e": two}));
    let request = room.ask(&alice()).await;
    let widened = room.desk.approve(&bob(), &request.id, "", Some(MINUTE * 11)).await;
    assert!(matches!(widened, Err(DeskError::Invalid(_))), "{widened:?}");
    room.desk.approve(&bob(), &request.id, "", Some(MINUTE * 3)).await.unwrap();
    let approved = room.desk.approve(&carol(), &request.id, "", Some(MINUTE * 5)).await.unwrap();
    assert_eq!((approved.state, approved.granted), (State::Approved, Some(MINUTE * 3)));
    assert_eq!(approved.duration, Some(MINUTE * 10), "what was asked for is kept");
    let grant = room.desk.grant(&alice(), &approved.grant.unwrap()).await.unwrap().grant;
    assert_eq!(length(approved.decided.unwrap(), grant.expires), MINUTE * 3);
}

async fn every_person_counts_once(redis: Option<&Redis>) {
    let two = entitlement(&json!({"approvals": 2}));
    let room = Room::with(redis, json!({"e": two}));
    let request = room.ask(&alice()).await;
    assert_eq!(room.approve(&bob(), &request.id).await.unwrap().state, State::Pending);
    let again = room.approve(&bob(), &request.id).await;
    assert!(matches!(again, Err(DeskError::State(_) | DeskError::Denied(_))), "{again:?}");
    // Somebody who acts for bob, and has acted, is not a second person.
    let mut for_carol = carol();
    for_carol.delegate = Some("user:bob".parse().unwrap());
    if let Ok(request) = room.approve(&for_carol, &request.id).await {
        assert_eq!(request.state, State::Pending);
    }
    let dave = person("user:dave", &["leads"]);
    let approved = room.approve(&dave, &request.id).await.unwrap();
    assert_eq!((approved.state, approved.approvals_required), (State::Approved, 2));
    let grant = room.desk.grant(&alice(), &approved.grant.unwrap()).await.unwrap().grant;
    assert_eq!(grant.record.approved_by.to_vec(), ["user:bob", "user:dave"]);
}

async fn nobody_approves_their_own(redis: Option<&Redis>) {
    let others = json!({"ask_for_others": ["user:boss"], "approvers": ["group:leads", "user:alice"]});
    let room = Room::with(redis, json!({"e": entitlement(&others)}));
    let own = room.ask(&alice()).await;
    denied(room.approve(&alice(), &own.id).await);
    // Nor what was asked on one's behalf, nor what one asked for another.
    let boss = person("user:boss", &["leads"]);
    let subject = "user:alice".parse().unwrap();
    let request = room.ask_for(&boss, "e", |ask| ask.subject = Some(subject)).await.unwrap();
    assert_eq!((request.subject.as_str(), request.requester.name.as_str()), ("user:alice", "user:boss"));
    denied(room.approve(&boss, &request.id).await);
    denied(room.approve(&alice(), &request.id).await);
    // Nor what one's own program asked for, or approves.
    let mut through_bob = alice();
    through_bob.delegate = Some("user:bob".parse().unwrap());
    let delegated = room.ask(&through_bob).await;
    denied(room.approve(&bob(), &delegated.id).await);
    let mut through_alice = carol();
    through_alice.delegate = Some("user:alice".parse().unwrap());
    denied(room.approve(&through_alice, &own.id).await);
    assert_eq!(room.approve(&carol(), &own.id).await.unwrap().state, State::Approved);
    // Only where the entitlement says so.
    room.change("e", &json!({"allow_self_approval": true}));
    let own = room.ask(&alice()).await;
    assert_eq!(room.approve(&alice(), &own.id).await.unwrap().state, State::Approved);
}

async fn one_denial_ends_it(redis: Option<&Redis>) {
    let room = Room::with(redis, json!({"e": entitlement(&json!({"approvals": 2}))}));
    let request = room.ask(&alice()).await;
    room.approve(&bob(), &request.id).await.unwrap();
    denied(room.desk.deny(&alice(), &request.id, "no").await);
    let ended = room.desk.deny(&carol(), &request.id, "not today").await.unwrap();
    assert_eq!((ended.state, ended.reason.as_str(), ended.grant), (State::Denied, "not today", None));
    let dave = person("user:dave", &["leads"]);
    assert!(state(room.approve(&dave, &request.id).await).contains("denied already"));
    assert!(room.history(&request.id).await.ends_with(&["request.denied".to_owned()]));
}

async fn a_decided_request_stays_decided(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let withdrawn = room.ask(&alice()).await;
    denied(room.desk.withdraw(&bob(), &withdrawn.id).await);
    assert_eq!(room.desk.withdraw(&alice(), &withdrawn.id).await.unwrap().state, State::Withdrawn);
    assert!(state(room.approve(&bob(), &withdrawn.id).await).contains("withdrawn"));
    let approved = room.ask(&alice()).await;
    room.approve(&bob(), &approved.id).await.unwrap();
    assert!(state(room.approve(&carol(), &approved.id).await).contains("approved already"));
    assert!(state(room.desk.deny(&carol(), &approved.id, "").await).contains("approved already"));
    assert!(state(room.desk.withdraw(&alice(), &approved.id).await).contains("approved already"));
    room.check_chain().await;
}

async fn eligibility_is_judged_again_at_the_decision(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let request = room.ask(&alice()).await;
    room.change("e", &json!({"eligible": ["user:somebody-else"]}));
    denied(room.approve(&bob(), &request.id).await);
    let look = room.desk.request(&admin(), &request.id).await.unwrap().request;
    assert_eq!((look.state, look.reviews.len()), (State::Pending, 0));
}

async fn a_reviewer_who_is_none_any_more_does_not_count(redis: Option<&Redis>) {
    let two = json!({"approvals": 2, "approvers": ["user:bob", "user:carol", "user:dave"]});
    let room = Room::with(redis, json!({"e": entitlement(&two)}));
    let request = room.ask(&alice()).await;
    room.approve(&bob(), &request.id).await.unwrap();
    room.change("e", &json!({"approvers": ["user:carol", "user:dave"]}));
    assert_eq!(room.approve(&carol(), &request.id).await.unwrap().state, State::Pending);
    let approved = room.approve(&person("user:dave", &[]), &request.id).await.unwrap();
    assert_eq!(approved.state, State::Approved);
    let grant = room.desk.grant(&alice(), &approved.grant.unwrap()).await.unwrap().grant;
    assert_eq!(grant.record.approved_by.to_vec(), ["user:carol", "user:dave"]);
}

async fn what_was_decided_is_looked_at_again_at_the_start(redis: Option<&Redis>) {
    for change in [
        json!({"eligible": ["user:somebody-else"]}),
        json!({"approvers": ["user:somebody-else"]}),
        json!({"permissions": [{"hosts": ["all.svc"]}]}),
    ] {
        let room = Room::open(redis);
        room.change("e", &entitlement(&json!({})));
        let start = Timestamp::now() + SECOND * 3;
        let request = room.ask_for(&alice(), "e", |ask| ask.not_before = Some(start)).await.unwrap();
        let id = room.approve(&bob(), &request.id).await.unwrap().grant.unwrap();
        room.change("e", &change);
        until_standing(&room, &id, Standing::Cancelled).await;
        assert!(!room.has_key(&id).await, "{change}");
        let history = room.history(&id).await;
        assert_eq!(history.iter().filter(|kind| *kind == "grant.cancelled").count(), 1, "{history:?}");
    }
}

async fn nobody_decides_after_the_deadline(redis: Option<&Redis>) {
    let room = Room::with(redis, json!({"e": entitlement(&json!({"approve_within": "1s"}))}));
    let request = room.ask(&alice()).await;
    sleep(Duration::from_millis(1050)).await;
    assert!(state(room.approve(&bob(), &request.id).await).contains("expired"));
    let shown = room.desk.request(&alice(), &request.id).await.unwrap().request;
    assert_eq!(shown.state, State::Expired);
    for _ in 0..300 {
        if room.history(&request.id).await.len() == 2 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(room.history(&request.id).await, ["request.created", "request.expired"]);
}

async fn overlapping_grants_end_each_for_itself(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let (first, second) = (room.granted().await, room.granted().await);
    assert_ne!(first, second);
    room.desk.end(&bob(), &first, Ending::Revoked, "done").await.unwrap();
    assert!(!room.has_key(&first).await && room.has_key(&second).await);
    assert_eq!(standing(&room, &first).await, Standing::Revoked);
    assert_eq!(standing(&room, &second).await, Standing::Active);
}

fn longer(id: &str, duration: Duration) -> Extend {
    Extend {
        id: id.to_owned(),
        duration,
        justification: "it takes longer than thought".to_owned(),
        ticket: String::new(),
        call: None,
    }
}

async fn an_extension_is_reviewed_and_capped_in_total(redis: Option<&Redis>) {
    let capped = json!({"max_ttl": "10m", "default_ttl": "10m", "max_total_ttl": "25m", "max_extensions": 5});
    let room = Room::with(redis, json!({"e": entitlement(&capped)}));
    let id = room.granted().await;
    let before = room.desk.grant(&alice(), &id).await.unwrap().grant.expires;
    let asked = room.desk.extend(&alice(), longer(&id, MINUTE * 10)).await.unwrap();
    let request = asked.request.unwrap();
    assert_eq!((request.state, asked.grant.expires), (State::Pending, before), "not without a review");
    denied(room.approve(&alice(), &request.id).await);
    room.approve(&bob(), &request.id).await.unwrap();
    let extended = room.desk.grant(&alice(), &id).await.unwrap().grant;
    assert_eq!((extended.expires, extended.extensions), (before + MINUTE * 10, 1));
    room.wait_for_grant(&id, true).await;
    assert!(room.history(&id).await.contains(&"grant.extended".to_owned()));
    // Twenty of twenty-five minutes are used up.
    let more = room.desk.extend(&alice(), longer(&id, MINUTE * 6)).await;
    assert!(matches!(more, Err(DeskError::Denied(_) | DeskError::State(_))), "{more:?}");
    let request = room.desk.extend(&alice(), longer(&id, MINUTE * 5)).await.unwrap().request.unwrap();
    room.desk.end(&alice(), &id, Ending::Relinquished, "").await.unwrap();
    assert!(state(room.approve(&bob(), &request.id).await).contains("has ended"));
    assert!(!room.has_key(&id).await, "an extension brought it back");
    room.check_chain().await;
}

async fn no_grant_outlives_the_hard_cap(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let day = MINUTE * 1440;
    let asked = room.ask_for(&alice(), "e", |ask| ask.duration = Some(day + SECOND)).await;
    assert!(matches!(asked, Err(DeskError::Invalid(_))), "{asked:?}");
    let record = GrantRecord { v: 1, subject: "user:zoe".to_owned(), ..GrantRecord::default() };
    let direct = room.desk.give(&admin(), None, record.clone(), day + SECOND).await;
    assert!(matches!(direct, Err(DeskError::Store(_))), "{direct:?}");
    let grant = room.desk.give(&admin(), None, record.clone(), MINUTE * 1439).await.unwrap();
    let more = room.desk.extend(&admin(), longer(&grant.id, MINUTE * 2)).await;
    assert!(matches!(more, Err(DeskError::Denied(_) | DeskError::State(_))), "{more:?}");
    let extended = room.desk.extend(&admin(), longer(&grant.id, MINUTE)).await.unwrap();
    assert_eq!(length(extended.grant.starts, extended.grant.expires), day);
    denied(room.desk.give(&alice(), None, record, MINUTE).await);
}

async fn a_repeated_call_makes_one_request(redis: Option<&Redis>) {
    let room = Arc::new(Room::open(redis));
    let ask = |room: Arc<Room>, call: &'static str, why: &'static str| async move {
        room.ask_for(&alice(), "e", |ask| {
            ask.call = Some(call.to_owned());
            why.clone_into(&mut ask.justification);
        })
        .await
    };
    let calls = (0..8).map(|_| tokio::spawn(ask(Arc::clone(&room), "c-1", "one and the same")));
    let calls: Vec<_> = calls.collect();
    let mut ids = std::collections::BTreeSet::new();
    for call in calls {
        ids.insert(call.await.unwrap().unwrap().id);
    }
    assert_eq!(ids.len(), 1);
    let other = ask(Arc::clone(&room), "c-1", "something else").await;
    assert!(matches!(other, Err(DeskError::AlreadyExists(_))), "{other:?}");
    // Another caller's call of the same name is another call.
    room.change("e", &json!({"eligible": ["user:alice", "user:bob"]}));
    let bobs = room.ask_for(&bob(), "e", |ask| ask.call = Some("c-1".to_owned())).await.unwrap();
    assert!(!ids.contains(&bobs.id));
    let id = ids.first().unwrap().clone();
    let grant = room.approve(&carol(), &id).await.unwrap().grant;
    // The repeat is told how it stands now.
    let again = ask(Arc::clone(&room), "c-1", "one and the same").await.unwrap();
    assert_eq!((again.id, again.state, again.grant), (id, State::Approved, grant));
}

async fn what_an_entitlement_gives_is_what_was_asked_for(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let request = room.ask(&alice()).await;
    room.change("e", &json!({"permissions": [{"hosts": ["**"]}]}));
    assert!(state(room.approve(&bob(), &request.id).await).contains("has changed"));
    room.change("e", &entitlement(&json!({"description": "the same, better described"})));
    assert_eq!(room.approve(&bob(), &request.id).await.unwrap().state, State::Approved);
}

async fn a_lock_stops_the_desk_too(redis: Option<&Redis>) {
    let room = Room::open(redis);
    room.wait_for_replica();
    let request = room.ask(&alice()).await;
    let target = Target::Principal("user:alice".parse().unwrap());
    denied(room.desk.lock(&bob(), None, &target, "lost laptop", MINUTE).await);
    let lock = room.desk.lock(&admin(), None, &target, "lost laptop", MINUTE).await.unwrap();
    for _ in 0..200 {
        if room.replica.lock_count() == 1 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert!(denied(room.approve(&bob(), &request.id).await).contains("lost laptop"));
    assert!(denied(room.ask_for(&alice(), "e", |_| {}).await).contains("lost laptop"));
    assert_eq!(room.desk.locks(&admin()).await.unwrap().len(), 1);
    room.desk.unlock(&admin(), &lock.id).await.unwrap();
    assert!(matches!(room.desk.unlock(&admin(), &lock.id).await, Err(DeskError::NotFound(_))));
    for _ in 0..200 {
        if room.replica.lock_count() == 0 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(room.approve(&bob(), &request.id).await.unwrap().state, State::Approved);
    assert_eq!(room.history(&lock.id).await, ["lock.created", "lock.deleted"]);
}

async fn the_approval_of_somebody_who_is_locked_by_now_does_not_count(redis: Option<&Redis>) {
    let room = Room::with(redis, json!({"e": entitlement(&json!({"approvals": 2}))}));
    room.wait_for_replica();
    let request = room.ask(&alice()).await;
    assert_eq!(room.approve(&bob(), &request.id).await.unwrap().state, State::Pending);
    let target = Target::Principal("user:bob".parse().unwrap());
    room.desk.lock(&admin(), None, &target, "lost laptop", MINUTE).await.unwrap();
    for _ in 0..200 {
        if room.replica.lock_count() == 1 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(room.approve(&carol(), &request.id).await.unwrap().state, State::Pending);
    let dave = person("user:dave", &["leads"]);
    let approved = room.approve(&dave, &request.id).await.unwrap();
    let grant = room.desk.grant(&alice(), &approved.grant.unwrap()).await.unwrap().grant;
    assert_eq!(grant.record.approved_by.to_vec(), ["user:carol", "user:dave"]);
}

async fn what_a_stranger_may_not_see_is_not_found(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let request = room.ask(&alice()).await;
    let id = room.granted().await;
    let not_found = |error: DeskError| assert!(matches!(error, DeskError::NotFound(_)), "{error:?}");
    let mallory = stranger();
    not_found(room.desk.request(&mallory, &request.id).await.unwrap_err());
    not_found(room.approve(&mallory, &request.id).await.unwrap_err());
    not_found(room.desk.deny(&mallory, &request.id, "").await.unwrap_err());
    not_found(room.desk.withdraw(&mallory, &request.id).await.unwrap_err());
    not_found(room.desk.grant(&mallory, &id).await.unwrap_err());
    not_found(room.desk.end(&mallory, &id, Ending::Revoked, "").await.unwrap_err());
    not_found(room.desk.extend(&mallory, longer(&id, MINUTE)).await.unwrap_err());
    not_found(room.ask_for(&mallory, "e", |_| {}).await.unwrap_err());
    assert!(room.desk.grants(&mallory, None, "", true).await.unwrap().is_empty());
    assert!(room.desk.requests(&mallory, (100, ""), |_| true).await.unwrap().items.is_empty());
    assert_eq!(room.seen_by(&mallory).await, 0);
    assert!(room.seen_by(&alice()).await > 0);
    let auditor = person("user:auditor", &[]);
    assert_eq!(room.seen_by(&auditor).await, room.events().await.len());
    room.desk.request(&auditor, &request.id).await.unwrap();
    denied(room.approve(&auditor, &request.id).await);
}

async fn an_emergency_is_short_and_flagged(redis: Option<&Redis>) {
    let glass = json!({"break_glass": {"eligible": ["group:dev"], "max_ttl": "5m"}});
    let room = Room::with(redis, json!({"e": entitlement(&glass), "plain": entitlement(&json!({}))}));
    let call = |who: Identity, name: &'static str, reason: &'static str, ttl: Option<Duration>| {
        let desk = Arc::clone(&room.desk);
        async move { desk.break_glass(&who, name, reason, ttl, "").await }
    };
    assert!(
        matches!(call(alice(), "e", "", None).await, Err(DeskError::Invalid(_))),
        "a reason is mandatory"
    );
    denied(call(alice(), "plain", "production is down", None).await);
    let long = call(alice(), "e", "production is down", Some(MINUTE * 60)).await.unwrap();
    assert_eq!(length(long.starts, long.expires), MINUTE * 5);
    assert!(long.record.break_glass && room.has_key(&long.id).await);
    let first = room.history(&long.id).await;
    assert_eq!(first, ["breakglass.activated", "grant.created"]);
    let event = room.events().await.into_iter().find(|event| event.document.contains("breakglass")).unwrap();
    assert!(event.document.contains("group:leads") && event.document.contains("\"break_glass\":true"));
    assert!(state(room.desk.extend(&alice(), longer(&long.id, MINUTE)).await).contains("emergency"));
}

async fn only_holders_give_back_and_only_some_revoke(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let id = room.granted().await;
    denied(room.desk.end(&bob(), &id, Ending::Relinquished, "").await);
    // Who asked for it may also take it back as its requester.
    room.desk.end(&alice(), &id, Ending::Revoked, "").await.unwrap();
    assert_eq!(standing(&room, &id).await, Standing::Revoked);
    let other = room.granted().await;
    room.desk.end(&alice(), &other, Ending::Relinquished, "").await.unwrap();
    assert_eq!(standing(&room, &other).await, Standing::Relinquished);
    assert!(
        state(room.desk.end(&admin(), &other, Ending::Revoked, "").await).contains("relinquished already")
    );
    assert!(room.history(&other).await.ends_with(&["grant.relinquished".to_owned()]));
    room.wait_for_grant(&other, false).await;
}

async fn all_grants_of_somebody_end_at_once(redis: Option<&Redis>) {
    let room = Room::with(redis, json!({"e": entitlement(&json!({})), "f": entitlement(&json!({}))}));
    let record = |subject: &str| GrantRecord { v: 1, subject: subject.to_owned(), ..GrantRecord::default() };
    let mut ids = vec![room.granted().await];
    ids.push(room.desk.give(&admin(), None, record("user:alice"), MINUTE).await.unwrap().id);
    let start = Timestamp::now() + MINUTE;
    let request = room.ask_for(&alice(), "f", |ask| ask.not_before = Some(start)).await.unwrap();
    ids.push(room.approve(&bob(), &request.id).await.unwrap().grant.unwrap());
    let zoe = room.desk.give(&admin(), None, record("user:zoe"), MINUTE).await.unwrap().id;
    ids.sort();
    let target = Target::Principal("user:alice".parse().unwrap());
    let all = |who: Identity, target: Target, trial| {
        let desk = Arc::clone(&room.desk);
        async move { desk.end_all(&who, &target, "offboarding", trial).await }
    };
    denied(all(bob(), target.clone(), false).await);
    let names = |revoked: daypass::store::Revoked| -> Vec<String> {
        revoked.ids.iter().map(ToString::to_string).collect()
    };
    let counted = names(all(admin(), target.clone(), true).await.unwrap());
    assert_eq!(counted, ids);
    assert!(room.has_key(&ids[0]).await || room.has_key(&ids[1]).await, "counting ended one");
    assert_eq!(names(all(admin(), Target::Entitlement("f".into()), true).await.unwrap()).len(), 1);
    assert_eq!(names(all(admin(), target.clone(), false).await.unwrap()), ids);
    for id in &ids {
        assert!(!room.has_key(id).await);
        assert_eq!(standing(&room, id).await, Standing::Revoked);
        assert_eq!(room.history(id).await.iter().filter(|kind| *kind == "grant.revoked").count(), 1);
    }
    assert!(room.has_key(&zoe).await);
    assert_eq!(names(all(admin(), target, false).await.unwrap()), Vec::<String>::new());
    assert_eq!(names(all(admin(), Target::Everything, false).await.unwrap()), [zoe]);
    room.check_chain().await;
}

async fn natural_ends_are_recorded_once(redis: Option<&Redis>) {
    let room = Room::open(redis);
    // Two more that keep time beside it.
    let others: Vec<Room> =
        redis.into_iter().flat_map(|redis| [room.beside(redis), room.beside(redis)]).collect();
    let record = GrantRecord { v: 1, subject: "user:zoe".to_owned(), ..GrantRecord::default() };
    let mut ids = Vec::new();
    for index in 0..20 {
        let ttl = Duration::from_millis(300 + 20 * index);
        ids.push(room.desk.give(&admin(), None, record.clone(), ttl).await.unwrap().id);
    }
    for id in &ids {
        until_standing(&room, id, Standing::Ended).await;
    }
    for _ in 0..500 {
        let ended = room.events().await.iter().filter(|event| event.document.contains("grant.ended")).count();
        if ended >= ids.len() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(700)).await;
    for id in &ids {
        assert_eq!(room.history(id).await, ["grant.created", "grant.ended"]);
    }
    room.check_chain().await;
    drop(others);
}

async fn a_trial_leaves_nothing(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let trial = room.ask_for(&alice(), "e", |ask| ask.validate_only = true).await.unwrap();
    assert_eq!((trial.state, trial.approvals_required), (State::Pending, 1));
    assert!(matches!(room.desk.request(&alice(), &trial.id).await, Err(DeskError::NotFound(_))));
    assert!(room.history(&trial.id).await.is_empty());
    let too_long = |ask: &mut daypass::desk::Ask| {
        ask.validate_only = true;
        ask.duration = Some(MINUTE * 60 * 9);
    };
    denied(room.ask_for(&alice(), "e", too_long).await);
}

async fn lists_are_by_relation_and_in_pages(redis: Option<&Redis>) {
    let room = Room::open(redis);
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(room.ask(&alice()).await.id);
    }
    ids.reverse();
    room.approve(&bob(), &ids[2]).await.unwrap();
    let search = |who: Identity, relation, size| {
        let desk = Arc::clone(&room.desk);
        async move {
            let (mut found, mut token) = (Vec::new(), String::new());
            loop {
                let page = desk.search(&who, relation, (size, &token)).await.unwrap();
                assert!(page.items.len() <= size);
                found.extend(page.items.into_iter().map(|request: Request| request.id));
                match page.next {
                    Some(next) => token = next,
                    None => return found,
                }
            }
        }
    };
    assert_eq!(search(alice(), Relation::Mine, 3).await, ids);
    assert_eq!(search(bob(), Relation::Reviewed, 3).await, [ids[2].clone()]);
    let mut open = ids.clone();
    open.remove(2);
    assert_eq!(search(carol(), Relation::CanReview, 2).await, open);
    assert!(search(alice(), Relation::CanReview, 2).await.is_empty());
    let bad = room.desk.search(&alice(), Relation::Mine, (3, "nonsense")).await;
    assert!(matches!(bad, Err(DeskError::Invalid(_))));
}

/// Approvals, denials, withdrawals and asks at the same instant, through two instances where the store is shared.
async fn racing_reviewers_have_one_outcome(redis: Option<&Redis>) {
    let room = Arc::new(Room::open(redis));
    let other = Arc::new(redis.map_or_else(|| None, |redis| Some(room.beside(redis))));
    for round in 0..6 {
        let request = room.ask(&alice()).await;
        let mut tasks = Vec::new();
        for index in 0..12 {
            let (room, other) = (Arc::clone(&room), Arc::clone(&other));
            let id = request.id.clone();
            tasks.push(tokio::spawn(async move {
                let reviewer = person(&format!("user:lead-{index}"), &["leads"]);
                let desk = match &*other {
                    Some(other) if index % 2 == 1 => &other.desk,
                    _ => &room.desk,
                };
                match (index + round) % 4 {
                    0 | 1 => desk.approve(&reviewer, &id, "", None).await,
                    2 => desk.deny(&reviewer, &id, "").await,
                    _ => desk.withdraw(&alice(), &id).await,
                }
            }));
        }
        let mut decided = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(request) => {
                    assert_ne!(request.state, State::Pending);
                    decided += 1;
                }
                Err(DeskError::State(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(decided, 1, "decided {decided} times");
        let now = room.desk.request(&alice(), &request.id).await.unwrap().request;
        assert_eq!(now.state == State::Approved, now.grant.is_some());
        let history = room.history(&request.id).await;
        let outcomes = ["request.approved", "request.denied", "request.withdrawn"];
        assert_eq!(history.iter().filter(|kind| outcomes.contains(&kind.as_str())).count(), 1, "{history:?}");
        let grants = history.iter().filter(|kind| *kind == "grant.created").count();
        assert_eq!(grants, usize::from(now.state == State::Approved));
    }
    room.check_chain().await;
}
