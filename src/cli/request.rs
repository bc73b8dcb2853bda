//! `daypass request`: to ask, to look, to decide.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::output::width;
use super::settings::Connection;
use super::wait::{DEFAULT_TIMEOUT, Waited, until_decided};
use super::when::{Start, length, parse_length, to_proto};
use super::{Done, Exit, json, output, view};
use crate::api::v1;
use crate::api::v1::search_access_requests::Relation;

#[derive(Debug, Args)]
pub struct RequestArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: RequestCommand,
}

#[derive(Debug, Subcommand)]
enum RequestCommand {
    /// Ask for an entitlement, and wait for the decision
    Create(Box<AskArgs>),
    /// List requests, the newest first
    Ls(LsArgs),
    /// Show one request
    Show { id: String },
    /// Agree
    Approve {
        id: String,
        /// Why, for the record
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// For less time than was asked
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_length)]
        length: Option<Duration>,
    },
    /// Refuse
    Deny {
        id: String,
        /// Why, for whoever asked
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Take back a request of one's own
    Withdraw { id: String },
    /// Wait until a request is decided
    Wait {
        id: String,
        /// How long to wait
        #[arg(long, value_name = "DURATION", value_parser = parse_length, default_value = DEFAULT_TIMEOUT)]
        timeout: Duration,
    },
}

/// What one says when one asks.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// What to ask for; `daypass entitlements` lists what there is
    pub entitlement: String,
    /// How long, such as 90s, 15m, 1h30m or 2d [default: as the entitlement says]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_length)]
    pub length: Option<Duration>,
    /// Why, for those who decide
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Ticket it belongs to
    #[arg(long, default_value = "", hide_default_value = true)]
    pub ticket: String,
    /// When access is to begin: +2h, or RFC 3339 [default: with the approval]
    #[arg(long, value_name = "WHEN", value_parser = Start::parse)]
    pub start: Option<Start>,
    /// Who is to have access, if not the caller: user:NAME or workload:NAME
    #[arg(long, value_name = "PRINCIPAL", default_value = "", hide_default_value = true)]
    pub subject: String,
    /// Name of this ask: a second one with the same name within a day gives the first one's request
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Do not wait for the decision
    #[arg(long)]
    pub no_wait: bool,
    /// Only say what would come of it
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", value_parser = parse_length, default_value = DEFAULT_TIMEOUT)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Asked by you or for you
    #[arg(long, group = "relation")]
    mine: bool,
    /// Pending, and your approval would count
    #[arg(long, group = "relation")]
    reviewable: bool,
    /// Decided on by you
    #[arg(long, group = "relation")]
    reviewed: bool,
    /// Only in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only for this entitlement
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    entitlement: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Pending,
    Approved,
    Denied,
    Withdrawn,
    Expired,
}

impl From<State> for v1::RequestState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Approved => Self::Approved,
            State::Denied => Self::Denied,
            State::Withdrawn => Self::Withdrawn,
            State::Expired => Self::Expired,
        }
    }
}

pub async fn execute(args: RequestArgs) -> anyhow::Result<Done> {
    let RequestArgs { connection, command } = args;
    let client = Client::connect(&connection).await?;
    let json = connection.json;
    let request = match command {
        RequestCommand::Create(ask) => return create(&client, *ask, json).await,
        RequestCommand::Ls(args) => return list(&client, args, json).await,
        RequestCommand::Wait { id, timeout } => {
            let request = client.get_request(v1::GetAccessRequest { id }).await?;
            return wait_and_show(&client, request, timeout, json).await;
        }
        RequestCommand::Show { id } => {
            let request = client.get_request(v1::GetAccessRequest { id }).await?;
            return Ok(Done::either(
                json,
                || json::request(&request),
                || view::request(&request, Timestamp::now()),
            ));
        }
        RequestCommand::Approve { id, reason, length: shorter } => {
            let duration = shorter.map(length);
            client.approve_request(v1::ApproveAccessRequest { id, reason, duration }).await?
        }
        RequestCommand::Deny { id, reason } => {
            client.deny_request(v1::DenyAccessRequest { id, reason }).await?
        }
        RequestCommand::Withdraw { id } => client.withdraw_request(v1::WithdrawAccessRequest { id }).await?,
    };
    let text = || format!("{}\n{}", view::outcome(&request), view::request(&request, Timestamp::now()));
    Ok(Done::either(json, || json::request(&request), text))
}

/// Sends what was asked. A name of the ask is made if there is none, so that one whose answer got lost can be repeated.
pub async fn ask(client: &Client, ask: &AskArgs) -> anyhow::Result<v1::AccessRequest> {
    let not_before = match ask.start {
        Some(start) => {
            let moment = start.moment(Timestamp::now());
            Some(to_proto(moment.ok_or_else(|| ClientError::usage("--start is too late".to_owned()))?))
        }
        None => None,
    };
    let request_id = ask.request_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string());
    let message = v1::CreateAccessRequest {
        entitlement: ask.entitlement.clone(),
        duration: ask.length.map(length),
        justification: ask.reason.clone(),
        ticket: ask.ticket.clone(),
        not_before,
        subject: ask.subject.clone(),
        request_id: request_id.clone(),
        validate_only: ask.dry_run,
    };
    match client.create_request(message).await {
        Ok(request) => Ok(request),
        Err(error) if error.is_passing() && !ask.dry_run => Err(error).context(format!(
            "it may or may not have been asked; the same command with `--request-id {request_id}` does not ask twice"
        )),
        Err(error) => Err(error.into()),
    }
}

async fn create(client: &Client, args: AskArgs, json: bool) -> anyhow::Result<Done> {
    let request = ask(client, &args).await?;
    let is_final = args.no_wait || args.dry_run || request.state() != v1::RequestState::Pending;
    if !is_final {
        if !json {
            output::print(&view::request(&request, Timestamp::now()))?;
        }
        return wait_and_show(client, request, args.timeout, json).await;
    }
    let exit = match request.state() {
        v1::RequestState::Pending if args.dry_run || args.no_wait => Exit::Done,
        _ => super::wait::decided(&request),
    };
    let text = if json {
        output::pretty(&json::request(&request))
    } else {
        let granted = if args.dry_run { String::new() } else { granted(client, &request).await };
        view::request(&request, Timestamp::now()) + &granted
    };
    Ok(Done::text(text).exit(exit))
}

/// Waits, and says what came of it.
pub async fn wait_and_show(
    client: &Client,
    request: v1::AccessRequest,
    timeout: Duration,
    json: bool,
) -> anyhow::Result<Done> {
    let waited = wait(client, request, timeout).await?;
    let request = waited.request();
    let text = if json {
        output::pretty(&json::request(request))
    } else {
        format!("{}\n{}", view::outcome(request), granted(client, request).await)
    };
    Ok(Done::text(text).exit(waited.exit()))
}

pub async fn wait(client: &Client, request: v1::AccessRequest, timeout: Duration) -> anyhow::Result<Waited> {
    let id = request.id.clone();
    until_decided(client, request, timeout)
        .await
        .with_context(|| format!("waiting for request {} ended before its decision", output::clean(&id)))
}

/// The grant in a line. That it cannot be shown does not undo the approval.
async fn granted(client: &Client, request: &v1::AccessRequest) -> String {
    if request.state() != v1::RequestState::Approved || request.grant.is_empty() {
        return String::new();
    }
    let found = client.get_grant(v1::GetGrantRequest { id: request.grant.clone() }).await;
    found.map(|grant| view::created("grant", &grant, Timestamp::now())).unwrap_or_default()
}

async fn list(client: &Client, args: LsArgs, json: bool) -> anyhow::Result<Done> {
    let enough = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let relation = match (args.mine, args.reviewable, args.reviewed) {
        (true, _, _) => Some(Relation::Mine),
        (_, true, _) => Some(Relation::CanReview),
        (_, _, true) => Some(Relation::Reviewed),
        _ => None,
    };
    let state = args.state.map(v1::RequestState::from);
    let (requests, more) = if let Some(relation) = relation {
        let wanted = |request: &v1::AccessRequest| {
            state.is_none_or(|state| request.state() == state)
                && (args.entitlement.is_empty() || request.entitlement == args.entitlement)
        };
        client.related_requests(relation, enough, wanted).await?
    } else {
        let ask = v1::ListAccessRequests {
            state: state.unwrap_or_default().into(),
            entitlement: args.entitlement,
            ..v1::ListAccessRequests::default()
        };
        client.requests(ask, enough).await?
    };
    if more {
        output::note(&format!("daypass: there are more than {enough}; --limit shows more"));
    }
    Ok(Done::either(
        json,
        || Value::Array(requests.iter().map(json::request).collect()),
        || view::requests(&requests, width(), Timestamp::now()),
    ))
}
