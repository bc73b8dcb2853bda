//! `daypass ensure`: access, by the shortest way. A grant there is is used, a request there is is waited for, and only then
//! somebody is asked.

use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::client::Client;
use super::request::{AskArgs, ask, wait};
use super::settings::Connection;
use super::{Done, Exit, json, output, view, wait::Waited, when};
use crate::api::v1;
use crate::api::v1::search_access_requests::Relation;

#[derive(Debug, Args)]
pub struct EnsureArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    ask: AskArgs,
    /// A grant that ends sooner than this does not do
    #[arg(long, value_name = "DURATION", value_parser = when::parse_length, default_value = "5m")]
    min_left: Duration,
}

pub async fn execute(args: EnsureArgs) -> anyhow::Result<Done> {
    let EnsureArgs { connection, ask: asked, min_left } = args;
    let client = Client::connect(&connection).await?;
    let json = connection.json;
    let subject = if asked.subject.is_empty() {
        client.get_caller(v1::GetCallerRequest {}).await?.subject
    } else {
        asked.subject.clone()
    };
    let held = held(&client, &subject, &asked.entitlement).await?;
    // Whoever names a beginning may have asked before, and then there is nothing to ask again.
    let may_begin_later = asked.start.is_some();
    if let Some(grant) = usable(held, min_left, may_begin_later) {
        return Ok(show(&grant, json));
    }
    let request = match pending(&client, &subject, &asked.entitlement).await? {
        Some(request) => request,
        None => ask(&client, &asked).await?,
    };
    if asked.dry_run {
        let text = || view::request(&request, Timestamp::now());
        return Ok(Done::either(json, || json::request(&request), text));
    }
    let waited = if asked.no_wait && request.state() == v1::RequestState::Pending {
        Waited::TimedOut(request)
    } else {
        wait(&client, request, asked.timeout).await?
    };
    let request = waited.request();
    let is_approved = matches!(&waited, Waited::Decided(_)) && request.state() == v1::RequestState::Approved;
    if is_approved && !request.grant.is_empty() {
        let grant = client.get_grant(v1::GetGrantRequest { id: request.grant.clone() }).await?;
        return Ok(show(&grant, json));
    }
    let text =
        if json { output::pretty(&json::request(request)) } else { format!("{}\n", view::outcome(request)) };
    Ok(Done::text(text).exit(waited.exit()))
}

/// Success is access, and nothing less: a grant that does not count yet, or any more, is not.
fn show(grant: &v1::Grant, json: bool) -> Done {
    let now = Timestamp::now();
    let text = || {
        if counts(grant, now) {
            return view::created("grant", grant, now);
        }
        let why = match when::from_proto(grant.not_before).filter(|begin| *begin > now) {
            Some(_) => format!("no access yet: it begins {}", when::both(grant.not_before, now)),
            None => format!("no access: the grant is {}", view::grant_state(grant)),
        };
        format!("{}{why}\n", view::created("grant", grant, now))
    };
    let exit = if counts(grant, now) { Exit::Done } else { Exit::StillPending };
    Done::either(json, || json::grant(grant), text).exit(exit)
}

fn counts(grant: &v1::Grant, now: Timestamp) -> bool {
    let is_active = matches!(grant.state(), v1::GrantState::Active | v1::GrantState::Unspecified);
    is_active && when::from_proto(grant.not_before).is_none_or(|begin| begin <= now)
}

/// The subject's grants from the entitlement.
async fn held(client: &Client, subject: &str, entitlement: &str) -> anyhow::Result<Vec<v1::Grant>> {
    let mut held = client
        .grants(v1::ListGrantsRequest {
            subject: subject.to_owned(),
            entitlement: entitlement.to_owned(),
            ..v1::ListGrantsRequest::default()
        })
        .await?;
    // An older server does not know the filter.
    held.retain(|grant| grant.subject == subject && grant.entitlement == entitlement);
    Ok(held)
}

/// The one that lasts longest, if that is long enough; else, if that will do, one that begins later.
fn usable(held: Vec<v1::Grant>, min_left: Duration, may_begin_later: bool) -> Option<v1::Grant> {
    let now = Timestamp::now();
    let min_left = SignedDuration::try_from(min_left).unwrap_or(SignedDuration::MAX);
    let is_long_enough = |grant: &v1::Grant| {
        let left = when::from_proto(grant.expires_at).map(|end| end.duration_since(now));
        left.is_some_and(|left| left >= min_left)
    };
    let (live, others): (Vec<_>, Vec<_>) = held.into_iter().partition(|grant| counts(grant, now));
    let live = live.into_iter().filter(is_long_enough);
    let found = live.max_by_key(|grant| when::from_proto(grant.expires_at));
    let later = || others.into_iter().find(|grant| grant.state() == v1::GrantState::Scheduled);
    found.or_else(|| if may_begin_later { later() } else { None })
}

async fn pending(
    client: &Client,
    subject: &str,
    entitlement: &str,
) -> anyhow::Result<Option<v1::AccessRequest>> {
    let wanted = |request: &v1::AccessRequest| {
        request.state() == v1::RequestState::Pending
            && request.entitlement == entitlement
            && request.subject == subject
    };
    let (found, _) = client.related_requests(Relation::Mine, 1, wanted).await?;
    Ok(found.into_iter().next())
}
