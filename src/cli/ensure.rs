//! `daypass ensure`: access, by the shortest way. A grant there is is used, a request there is is waited for, and only then
//! somebody is asked.

use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::client::Client;
use super::request::{AskArgs, ask, wait};
use super::settings::Connection;
use super::{Done, json, output, view, wait::Waited, when};
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
    if let Some(grant) = live(&client, &subject, &asked.entitlement, min_left).await? {
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

fn show(grant: &v1::Grant, json: bool) -> Done {
    Done::either(json, || json::grant(grant), || view::created("grant", grant, Timestamp::now()))
}

/// Of the subject's grants from the entitlement, the one that lasts longest, if that is long enough.
async fn live(
    client: &Client,
    subject: &str,
    entitlement: &str,
    min_left: Duration,
) -> anyhow::Result<Option<v1::Grant>> {
    let held = client
        .grants(v1::ListGrantsRequest {
            subject: subject.to_owned(),
            entitlement: entitlement.to_owned(),
            ..v1::ListGrantsRequest::default()
        })
        .await?;
    let now = Timestamp::now();
    let min_left = SignedDuration::try_from(min_left).unwrap_or(SignedDuration::MAX);
    let usable = held.into_iter().filter(|grant| {
        // An older server does not know the filter.
        let is_it = grant.subject == subject && grant.entitlement == entitlement;
        let counts = matches!(grant.state(), v1::GrantState::Active | v1::GrantState::Unspecified);
        let has_begun = when::from_proto(grant.not_before).is_none_or(|begin| begin <= now);
        let left = when::from_proto(grant.expires_at).map(|end| end.duration_since(now));
        is_it && counts && has_begun && left.is_some_and(|left| left >= min_left)
    });
    Ok(usable.max_by_key(|grant| when::from_proto(grant.expires_at)))
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
