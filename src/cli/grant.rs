//! `daypass grant`: to give, show, extend, end and give back access.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::output::{pretty, width};
use super::request::wait_and_show;
use super::settings::Connection;
use super::wait::DEFAULT_TIMEOUT;
use super::when::{length, parse_length};
use super::{Done, Exit, json, output, view};
use crate::api::v1;
use crate::api::v1::revoke_all_grants_request::Target;

#[derive(Debug, Args)]
pub struct GrantArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: GrantCommand,
}

#[derive(Debug, Subcommand)]
enum GrantCommand {
    /// Give access for a time, without a request
    Create(Box<CreateArgs>),
    /// List grants
    Ls {
        /// Only those of one principal
        #[arg(long, value_name = "PRINCIPAL", default_value = "", hide_default_value = true)]
        subject: String,
        /// Only those from one entitlement
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        entitlement: String,
        /// Also those that have ended
        #[arg(long)]
        all: bool,
    },
    /// Show one grant whole
    Show { id: String },
    /// Ask for more time, and wait for the decision
    Extend(ExtendArgs),
    /// End access now
    Revoke(RevokeArgs),
    /// Give access of one's own back
    Drop {
        /// One grant
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// All of one's own
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Who gets it: user:NAME, group:NAME or workload:NAME
    #[arg(long)]
    subject: String,
    /// How long, such as 90s, 15m or 8h
    #[arg(long, value_parser = parse_length)]
    ttl: Duration,
    /// Host it covers; may be repeated. `*` stands for one label, `**` for any
    #[arg(long = "host", value_name = "GLOB")]
    hosts: Vec<String>,
    /// Method it covers; may be repeated
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// Path it covers; may be repeated. `*` stands for one segment, `**` for any
    #[arg(long = "path", value_name = "GLOB")]
    paths: Vec<String>,
    /// gRPC method it covers, package.Service/Method; may be repeated
    #[arg(long = "grpc-method", value_name = "GLOB")]
    grpc_methods: Vec<String>,
    /// Role for policies; may be repeated
    #[arg(long = "role")]
    roles: Vec<String>,
    /// How many requests may rest on it
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    max_uses: u64,
    /// Address range the caller must connect from; may be repeated
    #[arg(long = "source-cidr", value_name = "CIDR")]
    source_cidrs: Vec<String>,
    /// Why, for those who read the log
    #[arg(long)]
    justification: Option<String>,
    /// Ticket it belongs to
    #[arg(long)]
    ticket: Option<String>,
    /// Who agreed; may be repeated
    #[arg(long = "approved-by")]
    approved_by: Vec<String>,
    /// Its id; made by the server if left out
    #[arg(long)]
    id: Option<String>,
}

#[derive(Debug, Args)]
struct ExtendArgs {
    id: String,
    /// How much longer, such as 30m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_length)]
    length: Duration,
    /// Why, for those who decide
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Ticket it belongs to
    #[arg(long, default_value = "", hide_default_value = true)]
    ticket: String,
    /// Name of this ask: a second one with the same name within a day does nothing
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Do not wait for the decision
    #[arg(long)]
    no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", value_parser = parse_length, default_value = DEFAULT_TIMEOUT)]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    which: Which,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Do not ask back
    #[arg(long)]
    yes: bool,
    /// Only say which would end
    #[arg(long, conflicts_with = "id")]
    dry_run: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// One grant
    id: Option<String>,
    /// All grants of a principal
    #[arg(long, value_name = "PRINCIPAL")]
    subject: Option<String>,
    /// All grants from an entitlement
    #[arg(long, value_name = "NAME")]
    entitlement: Option<String>,
    /// All grants there are
    #[arg(long)]
    everything: bool,
}

pub async fn execute(args: GrantArgs) -> anyhow::Result<Done> {
    let GrantArgs { connection, command } = args;
    let client = Client::connect(&connection).await?;
    let json = connection.json;
    match command {
        GrantCommand::Create(create) => {
            let grant = client.create_grant(create_request(*create)).await?;
            let text = || view::created("created", &grant, Timestamp::now());
            Ok(Done::either(json, || json::grant(&grant), text))
        }
        GrantCommand::Show { id } => {
            let grant = client.get_grant(v1::GetGrantRequest { id }).await?;
            Ok(Done::json(&json::grant(&grant)))
        }
        GrantCommand::Ls { subject, entitlement, all } => {
            let ask = v1::ListGrantsRequest {
                subject,
                entitlement,
                include_ended: all,
                ..v1::ListGrantsRequest::default()
            };
            let grants = client.grants(ask).await?;
            Ok(Done::either(
                json,
                || Value::Array(grants.iter().map(json::grant).collect()),
                || view::grants(&grants, width(), Timestamp::now()),
            ))
        }
        GrantCommand::Extend(args) => extend(&client, args, json).await,
        GrantCommand::Revoke(args) => revoke(&client, args, json).await,
        GrantCommand::Drop { id, .. } => relinquish(&client, id, json).await,
    }
}

fn create_request(args: CreateArgs) -> v1::CreateGrantRequest {
    let permission = v1::Permission {
        hosts: args.hosts,
        methods: args.methods,
        paths: args.paths,
        grpc_methods: args.grpc_methods,
    };
    let grant = v1::Grant {
        id: args.id.unwrap_or_default(),
        subject: args.subject,
        permissions: if permission == v1::Permission::default() { Vec::new() } else { vec![permission] },
        max_uses: args.max_uses,
        conditions: (!args.source_cidrs.is_empty())
            .then_some(v1::Conditions { source_cidrs: args.source_cidrs }),
        roles: args.roles,
        approved_by: args.approved_by,
        justification: args.justification.unwrap_or_default(),
        ticket: args.ticket.unwrap_or_default(),
        ..v1::Grant::default()
    };
    v1::CreateGrantRequest { grant: Some(grant), ttl: Some(length(args.ttl)) }
}

async fn extend(client: &Client, args: ExtendArgs, json: bool) -> anyhow::Result<Done> {
    let request_id = args.request_id.unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string());
    let message = v1::ExtendGrantRequest {
        id: args.id,
        duration: Some(length(args.length)),
        justification: args.reason,
        ticket: args.ticket,
        request_id: request_id.clone(),
    };
    let extended = client.extend_grant(message).await;
    let v1::ExtendGrantResponse { grant, request } = match extended {
        Err(error) if error.is_passing() => {
            return Err(error).context(format!(
                "it may or may not have been asked; the same command with `--request-id {request_id}` does not ask twice"
            ));
        }
        other => other?,
    };
    let grant = grant.unwrap_or_default();
    let now = Timestamp::now();
    match request {
        Some(request) if request.state() == v1::RequestState::Pending && !args.no_wait => {
            if !json {
                output::print(&view::request(&request, now))?;
            }
            wait_and_show(client, request, args.timeout, json).await
        }
        Some(request) => {
            let exit = match request.state() {
                v1::RequestState::Pending => Exit::Done,
                _ => super::wait::decided(&request),
            };
            let text = || match request.state() {
                v1::RequestState::Approved => view::created("extended", &grant, now),
                _ => view::request(&request, now),
            };
            Ok(Done::either(json, || json::request(&request), text).exit(exit))
        }
        None => Ok(Done::either(json, || json::grant(&grant), || view::created("extended", &grant, now))),
    }
}

async fn revoke(client: &Client, args: RevokeArgs, json: bool) -> anyhow::Result<Done> {
    let RevokeArgs { which, reason, yes, dry_run } = args;
    let target = match which {
        Which { id: Some(id), .. } => {
            let revoked = client.revoke_grant(v1::RevokeGrantRequest { id, reason }).await?;
            return Ok(show_revoked("revoked", &revoked, json));
        }
        Which { subject: Some(subject), .. } => Target::Subject(subject),
        Which { entitlement: Some(entitlement), .. } => Target::Entitlement(entitlement),
        Which { .. } => Target::Everything(true),
    };
    let what = match &target {
        Target::Subject(subject) => format!("of {subject}"),
        Target::Entitlement(entitlement) => format!("from entitlement {entitlement}"),
        Target::Everything(_) => "of everybody".to_owned(),
    };
    let is_narrow = matches!(target, Target::Subject(_));
    let message = v1::RevokeAllGrantsRequest { target: Some(target), reason, validate_only: false };
    let would =
        || client.revoke_all_grants(v1::RevokeAllGrantsRequest { validate_only: true, ..message.clone() });
    if dry_run {
        return Ok(show_revoked("would revoke", &would().await?, json));
    }
    let asks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !yes && asks {
        let count = would().await?.ids.len();
        if count == 0 {
            return Ok(show_revoked("revoked", &v1::RevokeGrantResponse::default(), json));
        }
        let grants = if count == 1 { "the 1 grant".to_owned() } else { format!("all {count} grants") };
        if !confirmed(&format!("revoke {grants} {what}?"))? {
            return Ok(Done::text("nothing was revoked\n").exit(Exit::Failed));
        }
    } else if !yes && !is_narrow {
        let text = format!("this would revoke all grants {what}; add --yes, or --dry-run to see which");
        return Err(ClientError::usage(text).into());
    }
    let revoked = client.revoke_all_grants(message).await?;
    Ok(show_revoked("revoked", &revoked, json))
}

/// Anything but a clear yes is a no.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stderr().lock();
    write!(out, "{} [y/N] ", output::clean(question)).and_then(|()| out.flush())?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn show_revoked(verb: &str, revoked: &v1::RevokeGrantResponse, json: bool) -> Done {
    Done::either(json, || json::revoked(revoked), || view::revoked(verb, revoked))
}

/// One grant, or all of the caller's own.
async fn relinquish(client: &Client, id: Option<String>, json: bool) -> anyhow::Result<Done> {
    if let Some(id) = id {
        let dropped = client.relinquish_grant(v1::RelinquishGrantRequest { id }).await?;
        return Ok(show_revoked("gave back", &dropped, json));
    }
    let subject = client.get_caller(v1::GetCallerRequest {}).await?.subject;
    let ask = v1::ListGrantsRequest { subject: subject.clone(), ..v1::ListGrantsRequest::default() };
    let own = client.grants(ask).await?.into_iter().filter(|grant| grant.subject == subject);
    let mut all = v1::RevokeGrantResponse::default();
    let mut failed = Vec::new();
    for grant in own {
        match client.relinquish_grant(v1::RelinquishGrantRequest { id: grant.id.clone() }).await {
            Ok(dropped) => {
                all.ids.extend(dropped.ids);
                all.replicas = all.replicas.max(dropped.replicas);
                all.replicated = dropped.replicated;
            }
            // It has ended meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                output::note(&format!("daypass: {}: {error}", grant.id));
                failed.push(grant.id);
            }
        }
    }
    let exit = if failed.is_empty() { Exit::Done } else { Exit::Failed };
    let text = if json {
        let mut value = json::revoked(&all);
        if let (Value::Object(members), false) = (&mut value, failed.is_empty()) {
            members.insert("failed".to_owned(), json!(failed));
        }
        pretty(&value)
    } else if all.ids.is_empty() {
        format!("nothing of {} to give back\n", output::clean(&subject))
    } else {
        view::revoked("gave back", &all)
    };
    Ok(Done::text(text).exit(exit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_grant_is_a_line_and_a_lack_of_replicas_is_said() {
        let mut revoked = v1::RevokeGrantResponse { ids: vec!["g".into()], replicas: 2, replicated: 2 };
        assert_eq!(view::revoked("revoked", &revoked), "revoked g\n");
        revoked.replicated = 1;
        assert!(view::revoked("revoked", &revoked).contains("1 of 2 replicas"));
    }
}
