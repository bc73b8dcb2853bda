//! `daypass grant`: a client of the grant API.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use super::report;
use crate::api::Token;
use crate::api::v1;
use crate::api::v1::grant_service_client::GrantServiceClient;
use crate::api::v1::revoke_all_grants_request::Target;
use crate::config::{default_data_dir, parse_duration};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A revocation may have to list a hundred thousand grants first.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const PAGE_SIZE: u32 = 1000;

#[derive(Debug, Args)]
pub struct GrantArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: GrantCommand,
}

#[derive(Debug, Args)]
struct Connection {
    /// The grant API
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DAYPASS_API",
        default_value = "http://127.0.0.1:9292"
    )]
    api: String,
    /// File with the API's token [default: $DAYPASS_TOKEN, else `token` in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The server's data directory, if it is on this machine
    #[arg(long, global = true, value_name = "DIR", env = "DAYPASS_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// PEM file of the authority that signed the server's certificate
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum GrantCommand {
    /// Give access for a time
    Create(Box<CreateArgs>),
    /// List grants
    Ls {
        /// Only those of one principal
        #[arg(long)]
        subject: Option<String>,
    },
    /// Show one grant whole
    Show { id: String },
    /// End access now
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Who gets it: user:NAME, group:NAME or workload:NAME
    #[arg(long)]
    subject: String,
    /// How long, such as 90s, 15m or 8h
    #[arg(long, value_parser = parse_duration)]
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
#[group(required = true, multiple = false)]
struct RevokeArgs {
    /// One grant
    id: Option<String>,
    /// All grants of a principal
    #[arg(long)]
    subject: Option<String>,
}

pub fn run(args: GrantArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error).context("no async runtime")),
    };
    match runtime.block_on(execute(args)) {
        Ok(text) => {
            // A closed pipe is the reader's wish, not a failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => report(&error),
    }
}

async fn execute(args: GrantArgs) -> anyhow::Result<String> {
    let GrantArgs { connection, command } = args;
    let mut client = Client::connect(&connection).await?;
    match command {
        GrantCommand::Create(create) => {
            let grant = client.create(create_request(*create)).await?;
            Ok(if connection.json { pretty(&grant_json(&grant)) } else { created(&grant) })
        }
        GrantCommand::Show { id } => {
            let grant = client.get(id).await?;
            Ok(pretty(&grant_json(&grant)))
        }
        GrantCommand::Ls { subject } => {
            let grants = client.list(subject.unwrap_or_default()).await?;
            Ok(if connection.json {
                pretty(&Value::Array(grants.iter().map(grant_json).collect()))
            } else {
                table(&grants)
            })
        }
        GrantCommand::Revoke(RevokeArgs { id, subject }) => {
            let revoked = match (id, subject) {
                (Some(id), _) => client.revoke(id).await?,
                (None, Some(subject)) => client.revoke_all(Target::Subject(subject)).await?,
                (None, None) => bail!("say which: an id, or --subject"),
            };
            Ok(if connection.json { pretty(&revoked_json(&revoked)) } else { revoked_text(&revoked) })
        }
    }
}

struct Client {
    service: GrantServiceClient<Channel>,
    token: Token,
    api: String,
}

impl Client {
    async fn connect(connection: &Connection) -> anyhow::Result<Self> {
        let token = token(connection)?;
        if !connection.api.starts_with("https://") && !is_on_this_machine(&connection.api) {
            bail!("--api: {} would carry the token in clear; use https://", connection.api);
        }
        let mut endpoint = Endpoint::from_shared(connection.api.clone())
            .with_context(|| format!("--api: {} is not a URL", connection.api))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        if connection.api.starts_with("https://") {
            let mut tls = ClientTlsConfig::new();
            if let Some(path) = &connection.ca_file {
                let pem = std::fs::read(path).with_context(|| format!("--ca-file: {}", path.display()))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).context("--ca-file")?;
        }
        let channel = endpoint.connect().await.with_context(|| {
            format!(
                "no grant API at {}; is `daypass serve` running there? (--api or DAYPASS_API)",
                connection.api
            )
        })?;
        Ok(Self { service: GrantServiceClient::new(channel), token, api: connection.api.clone() })
    }

    fn authorized<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        let value =
            self.token.bearer().parse().context("the token has characters that no header can carry")?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }

    async fn create(&mut self, request: v1::CreateGrantRequest) -> anyhow::Result<v1::Grant> {
        let request = self.authorized(request)?;
        let answer = self.service.create_grant(request).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    async fn get(&mut self, id: String) -> anyhow::Result<v1::Grant> {
        let request = self.authorized(v1::GetGrantRequest { id })?;
        let answer = self.service.get_grant(request).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    async fn list(&mut self, subject: String) -> anyhow::Result<Vec<v1::Grant>> {
        let mut grants = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = v1::ListGrantsRequest {
                subject: subject.clone(),
                page_size: PAGE_SIZE,
                page_token,
                ..v1::ListGrantsRequest::default()
            };
            let request = self.authorized(page)?;
            let answer = self.service.list_grants(request).await;
            let answer = answer.map_err(|status| self.explain(&status))?.into_inner();
            grants.extend(answer.grants);
            if answer.next_page_token.is_empty() {
                return Ok(grants);
            }
            page_token = answer.next_page_token;
        }
    }

    async fn revoke(&mut self, id: String) -> anyhow::Result<v1::RevokeGrantResponse> {
        let request = self.authorized(v1::RevokeGrantRequest { id, ..v1::RevokeGrantRequest::default() })?;
        let answer = self.service.revoke_grant(request).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    async fn revoke_all(&mut self, target: Target) -> anyhow::Result<v1::RevokeGrantResponse> {
        let message =
            v1::RevokeAllGrantsRequest { target: Some(target), ..v1::RevokeAllGrantsRequest::default() };
        let request = self.authorized(message)?;
        let answer = self.service.revoke_all_grants(request).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    fn explain(&self, status: &Status) -> anyhow::Error {
        anyhow::anyhow!("{} says: {} ({})", self.api, status.message(), status.code().description())
    }
}

fn is_on_this_machine(url: &str) -> bool {
    let uri: Option<tonic::transport::Uri> = url.parse().ok();
    uri.as_ref().and_then(|uri| uri.host()).is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

fn token(connection: &Connection) -> anyhow::Result<Token> {
    if let Some(path) = &connection.token_file {
        return Ok(Token::read(path)?);
    }
    if let Ok(text) = std::env::var("DAYPASS_TOKEN") {
        return Ok(Token::new(&text));
    }
    let data_dir = connection.data_dir.clone().unwrap_or_else(default_data_dir);
    Token::read(&Token::path_in(&data_dir)).context(
        "no token; name one with --token-file or DAYPASS_TOKEN, or the server's data directory with --data-dir",
    )
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
    v1::CreateGrantRequest { grant: Some(grant), ttl: prost_types::Duration::try_from(args.ttl).ok() }
}

fn created(grant: &v1::Grant) -> String {
    format!("created {} for {}: {}, ends {}\n", grant.id, grant.subject, reach(grant), ends(grant))
}

fn revoked_text(revoked: &v1::RevokeGrantResponse) -> String {
    let v1::RevokeGrantResponse { ids, replicas, replicated } = revoked;
    if ids.is_empty() {
        return "nothing to revoke\n".to_owned();
    }
    let lines: String = ids.iter().flat_map(|id| ["revoked ", id, "\n"]).collect();
    if replicated >= replicas {
        return lines;
    }
    format!(
        "{lines}{replicated} of {replicas} replicas of the store have it; if one without it takes over, the revocation is \
         asked for again\n"
    )
}

fn revoked_json(revoked: &v1::RevokeGrantResponse) -> Value {
    json!({"revoked": revoked.ids, "replicas": revoked.replicas, "replicated": revoked.replicated})
}

fn table(grants: &[v1::Grant]) -> String {
    let mut rows = vec![["ID", "SUBJECT", "COVERS", "ENDS"].map(str::to_owned)];
    rows.extend(
        grants.iter().map(|grant| [grant.id.clone(), grant.subject.clone(), reach(grant), ends(grant)]),
    );
    let widths: Vec<usize> =
        (0..4).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |[id, subject, covers, ends]: &[String; 4]| {
        format!("{id:0$}  {subject:1$}  {covers:2$}  {ends}\n", widths[0], widths[1], widths[2])
    };
    rows.iter().map(line).collect::<Vec<_>>().concat()
}

fn reach(grant: &v1::Grant) -> String {
    let list = |items: &[String]| if items.is_empty() { "any".to_owned() } else { items.join(",") };
    let permission = |permission: &v1::Permission| {
        if permission.grpc_methods.is_empty() {
            format!("{} {} {}", list(&permission.methods), list(&permission.hosts), list(&permission.paths))
        } else {
            format!("gRPC {} {}", list(&permission.hosts), list(&permission.grpc_methods))
        }
    };
    if grant.permissions.is_empty() {
        format!("roles {}", list(&grant.roles))
    } else {
        grant.permissions.iter().map(permission).collect::<Vec<_>>().join(" or ")
    }
}

/// "in 14m 59s", which a person reads, and the moment, which a person copies.
fn ends(grant: &v1::Grant) -> String {
    let Some(end) = grant.expires_at.and_then(timestamp) else { return "unknown".to_owned() };
    // Rounded, or what was just given 15 minutes would have 14m 59s.
    let left = end.duration_since(Timestamp::now()) + SignedDuration::from_millis(500);
    let left = SignedDuration::from_secs(left.as_secs());
    format!("in {left:#} ({end:.0})")
}

fn timestamp(moment: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(moment.seconds, moment.nanos).ok()
}

/// The grant in the form of the key contract.
fn grant_json(grant: &v1::Grant) -> Value {
    let mut members = Map::new();
    let mut set = |name: &str, value: Value| {
        let is_empty = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(found) => found.is_empty(),
            Value::Number(number) => number.as_u64() == Some(0),
            Value::Bool(true) => false,
        };
        if !is_empty {
            members.insert(name.to_owned(), value);
        }
    };
    let moment =
        |moment: Option<prost_types::Timestamp>| moment.and_then(timestamp).map(|moment| moment.to_string());
    let permission = |permission: &v1::Permission| {
        let lists = [
            ("hosts", &permission.hosts),
            ("methods", &permission.methods),
            ("paths", &permission.paths),
            ("grpc_methods", &permission.grpc_methods),
        ];
        let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
        Value::Object(given.map(|(name, list)| (name.to_owned(), json!(list))).collect())
    };
    set("id", json!(grant.id));
    set("subject", json!(grant.subject));
    set("permissions", Value::Array(grant.permissions.iter().map(permission).collect()));
    set("not_before", json!(moment(grant.not_before)));
    set("expires_at", json!(moment(grant.expires_at)));
    set("max_uses", json!(grant.max_uses));
    set(
        "conditions",
        grant.conditions.as_ref().map_or(Value::Null, |found| json!({"source_cidrs": found.source_cidrs})),
    );
    set("roles", json!(grant.roles));
    set("entitlement", json!(grant.entitlement));
    set("request", json!(grant.request));
    set("approved_by", json!(grant.approved_by));
    set("justification", json!(grant.justification));
    set("ticket", json!(grant.ticket));
    set("break_glass", json!(grant.break_glass));
    Value::Object(members)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
