//! `daypass entitlements`, `break-glass` and `whoami`: what there is, in an emergency, and who asks.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::client::Client;
use super::output::{Block, Table, column, width};
use super::settings::Connection;
use super::when::{both, length, parse_length, spelled};
use super::{Done, json, view};
use crate::api::v1;

#[derive(Debug, Args)]
pub struct EntitlementsArgs {
    #[command(flatten)]
    connection: Connection,
    /// Only this one, whole
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct BreakGlassArgs {
    #[command(flatten)]
    connection: Connection,
    entitlement: String,
    /// Why; those who were not asked will read it
    #[arg(long)]
    reason: String,
    /// How long [default: the most that is allowed in an emergency]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_length)]
    length: Option<Duration>,
    /// Ticket it belongs to
    #[arg(long, default_value = "", hide_default_value = true)]
    ticket: String,
}

#[derive(Debug, Args)]
pub struct WhoamiArgs {
    #[command(flatten)]
    connection: Connection,
}

pub async fn entitlements(args: EntitlementsArgs) -> anyhow::Result<Done> {
    let client = Client::connect(&args.connection).await?;
    let json = args.connection.json;
    if let Some(name) = args.name {
        let found = client.get_entitlement(v1::GetEntitlementRequest { name }).await?;
        return Ok(Done::either(json, || json::entitlement(&found), || whole(&found)));
    }
    let found = client.entitlements().await?;
    Ok(Done::either(
        json,
        || Value::Array(found.iter().map(json::entitlement).collect()),
        || table(&found, width()),
    ))
}

/// What the caller may do with it.
fn may(entitlement: &v1::Entitlement) -> String {
    let all = [
        (entitlement.can_request, "request"),
        (entitlement.can_review, "review"),
        (entitlement.can_break_glass, "break-glass"),
    ];
    let may: Vec<&str> = all.into_iter().filter(|(can, _)| *can).map(|(_, name)| name).collect();
    if may.is_empty() { "nothing".to_owned() } else { may.join(", ") }
}

fn table(entitlements: &[v1::Entitlement], width: Option<usize>) -> String {
    let mut table = Table::new([
        column("NAME", 9),
        column("YOU MAY", 6),
        column("AT MOST", 5),
        column("APPROVALS", 3),
        column("COVERS", 1),
        column("DESCRIPTION", 2),
    ]);
    for found in entitlements {
        table.row([
            found.name.clone(),
            may(found),
            spelled(found.max_ttl),
            found.approvals_required.to_string(),
            view::reach(&found.permissions, &found.roles),
            found.description.clone(),
        ]);
    }
    table.render(width, "no entitlements")
}

fn whole(found: &v1::Entitlement) -> String {
    let mut block = Block::new(&found.name);
    block
        .field("description", &found.description)
        .field("you may", may(found))
        .field("covers", view::reach(&found.permissions, &found.roles))
        .field("roles", if found.permissions.is_empty() { String::new() } else { found.roles.join(", ") })
        .field("for", spelled(found.default_ttl))
        .field("at most", spelled(found.max_ttl))
        .field("uses", if found.max_uses == 0 { String::new() } else { found.max_uses.to_string() })
        .field("may ask", found.eligible.join(", "))
        .field("may approve", found.approvers.join(", "))
        .field("approvals", found.approvals_required.to_string())
        .field("decided within", spelled(found.approve_within))
        .field("reason", if found.justification_required { "required" } else { "" })
        .field("ticket", &found.ticket_pattern)
        .field("revision", &found.revision);
    block.render()
}

pub async fn break_glass(args: BreakGlassArgs) -> anyhow::Result<Done> {
    let client = Client::connect(&args.connection).await?;
    let message = v1::BreakGlassRequest {
        entitlement: args.entitlement,
        reason: args.reason,
        duration: args.length.map(length),
        ticket: args.ticket,
    };
    let grant = client.break_glass(message).await?;
    let text = || {
        let told = "those who were not asked are told, and every use is recorded; `daypass grant drop` when you are done\n";
        view::created("grant", &grant, Timestamp::now()) + told
    };
    Ok(Done::either(args.connection.json, || json::grant(&grant), text))
}

pub async fn whoami(args: WhoamiArgs) -> anyhow::Result<Done> {
    let client = Client::connect(&args.connection).await?;
    let caller = client.get_caller(v1::GetCallerRequest {}).await?;
    let text = || {
        let mut block = Block::new(&caller.subject);
        block
            .field("principals", caller.principals.join(", "))
            .field("acting through", &caller.delegate)
            .field("by", &caller.source)
            .field("ends", both(caller.expires_at, Timestamp::now()))
            .field("at", &client.api);
        block.render()
    };
    Ok(Done::either(args.connection.json, || json::caller(&caller), text))
}
