//! `daypass lock` and `unlock`: denials that beat every grant.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::output::{clean, width};
use super::settings::Connection;
use super::when::{both, length, parse_length};
use super::{Done, json, view};
use crate::api::v1;
use crate::api::v1::lock::Target;

#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub struct LockArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Option<LockCommand>,
    /// All requests of this principal: user:NAME, group:NAME or workload:NAME
    #[arg(value_name = "PRINCIPAL", group = "target")]
    named: Option<String>,
    /// The same
    #[arg(long, value_name = "PRINCIPAL", group = "target")]
    principal: Option<String>,
    /// All grants from this entitlement
    #[arg(long, value_name = "NAME", group = "target")]
    entitlement: Option<String>,
    /// All grants there are
    #[arg(long, group = "target")]
    everything: bool,
    /// Told to whoever is denied
    #[arg(long, required = true)]
    message: Option<String>,
    /// How long it holds, such as 15m, 10h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_length, required = true)]
    ttl: Option<Duration>,
    /// Its id; made by the server if left out
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
}

#[derive(Debug, Subcommand)]
enum LockCommand {
    /// List locks
    Ls,
}

#[derive(Debug, Args)]
pub struct UnlockArgs {
    #[command(flatten)]
    connection: Connection,
    /// As `daypass lock ls` lists it
    id: String,
}

pub async fn lock(args: LockArgs) -> anyhow::Result<Done> {
    let target = match (args.named.or(args.principal), args.entitlement, args.everything) {
        (Some(principal), _, _) => Some(Target::Principal(principal)),
        (_, Some(entitlement), _) => Some(Target::Entitlement(entitlement)),
        (_, _, true) => Some(Target::Everything(true)),
        _ => None,
    };
    let usage = |text: &str| Err(ClientError::usage(text.to_owned()).into());
    let json = args.connection.json;
    match (args.command, target) {
        // It would look as if it had locked.
        (Some(LockCommand::Ls), Some(_)) => usage("`lock ls` lists; it takes nothing to lock"),
        (Some(LockCommand::Ls), None) => {
            let client = Client::connect(&args.connection).await?;
            let locks = client.locks().await?;
            Ok(Done::either(
                json,
                || Value::Array(locks.iter().map(json::lock).collect()),
                || view::locks(&locks, width(), Timestamp::now()),
            ))
        }
        (None, None) => {
            usage("say what to lock: a principal such as user:alice, --entitlement NAME, or --everything")
        }
        (None, Some(target)) => {
            let client = Client::connect(&args.connection).await?;
            let message = args.message.unwrap_or_default();
            let lock = v1::Lock { id: args.id, target: Some(target), message, ..v1::Lock::default() };
            let message = v1::CreateLockRequest { lock: Some(lock), ttl: args.ttl.map(length) };
            let lock = client.create_lock(message).await?;
            let text = || {
                let ends = both(lock.expires_at, Timestamp::now());
                clean(&format!("locked {} by {}, ends {ends}", view::lock_target(&lock), lock.id)) + "\n"
            };
            Ok(Done::either(json, || json::lock(&lock), text))
        }
    }
}

pub async fn unlock(args: UnlockArgs) -> anyhow::Result<Done> {
    let client = Client::connect(&args.connection).await?;
    let lock = client.delete_lock(v1::DeleteLockRequest { id: args.id }).await?;
    let text = || clean(&format!("unlocked {} ({})", view::lock_target(&lock), lock.id)) + "\n";
    Ok(Done::either(args.connection.json, || json::lock(&lock), text))
}
