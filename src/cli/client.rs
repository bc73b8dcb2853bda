//! The API as the commands see it: calls with messages in and out, and errors that say what to do next. The only file of
//! the command line that knows the transport.
//!
//! Nothing that a server says reaches an error's text with its control characters.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};

use super::Exit;
use super::credential::Credential;
use super::output::{PrintError, clean};
use super::settings::{Connection, Settings};
use crate::api::v1::access_service_client::AccessServiceClient;
use crate::api::v1::event_service_client::EventServiceClient;
use crate::api::v1::grant_service_client::GrantServiceClient;
use crate::api::v1::lock_service_client::LockServiceClient;
use crate::api::v1::request_service_client::RequestServiceClient;
use crate::api::{TokenError, v1};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A revocation may have to list a hundred thousand grants first.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A watch that says nothing is asked whether it lives, so that a dead network is noticed within 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one answer: a page of a hundred events with the longest documents there are.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Of lists of grants, requests and so on: as many as the server gives at once.
const PAGE_SIZE: u32 = 1000;
/// Of one list. Nobody reads more, and memory ends.
const MAX_LISTED: usize = 1_000_000;

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{0}")]
    Usage(String),
    #[error(
        "no token; name one with --token-file or DAYPASS_TOKEN, or `daypass login` first, or name the server's data \
         directory with --data-dir"
    )]
    NoToken,
    #[error(
        "no token; name one with --token-file or DAYPASS_TOKEN, or `daypass login` first, or name the server's data \
         directory with --data-dir ({} is not there)", .0.display()
    )]
    NoTokenIn(PathBuf),
    #[error(
        "no server runs on the data directory {}, and its token is for no other; start `daypass serve`, or name the token \
         with --token-file", .0.display()
    )]
    NoServerOf(PathBuf),
    #[error(
        "the server of {} is at {at}, and its token is not shown to {asked}; leave --api out, or name the token with \
         --token-file", .data_dir.display()
    )]
    ServerElsewhere { data_dir: PathBuf, at: String, asked: String },
    #[error(transparent)]
    Token(TokenError),
    #[error("{place}")]
    File { place: String, source: std::io::Error },
    #[error("{0} cannot be used")]
    Tls(&'static str, #[source] tonic::transport::Error),
    #[error("--api: {0} is not a URL")]
    NoUrl(String),
    #[error("no API at {api}; is `daypass serve` running there? (--api or DAYPASS_API)")]
    Unreachable { api: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{api} says: {message} ({})", .code.description())]
    Refused { api: String, code: Code, message: String },
    #[error("the token has characters that no header can carry")]
    TokenCharacters,
    /// The command that prints tokens.
    #[error("{0:#}")]
    Credential(anyhow::Error),
    #[error("{0} gave more than {MAX_LISTED} entries")]
    TooMany(String),
    #[error(transparent)]
    Print(#[from] PrintError),
}

impl ClientError {
    pub fn usage(text: String) -> Self {
        Self::Usage(text)
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::NoUrl(_) | Self::ServerElsewhere { .. } => Exit::Usage,
            Self::Unreachable { .. } | Self::NoServerOf(_) => Exit::Unreachable,
            Self::Refused { code, .. } if is_outage(*code) => Exit::Unreachable,
            _ => Exit::Failed,
        }
    }

    /// The same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => {
                is_outage(*code) || matches!(code, Code::Aborted | Code::Internal | Code::ResourceExhausted)
            }
            _ => false,
        }
    }

    /// A watch that ends so may begin anew: the token of its beginning has expired.
    pub fn ends_a_watch(&self) -> bool {
        !self.is_passing() && !matches!(self, Self::Refused { code: Code::Unauthenticated, .. })
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Code::NotFound, .. })
    }

    /// The server does not know the call.
    pub fn is_unknown_call(&self) -> bool {
        matches!(self, Self::Refused { code: Code::Unimplemented, .. })
    }
}

/// Nobody who could decide was there.
fn is_outage(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

#[derive(Debug)]
pub struct Client {
    channel: Channel,
    credential: Credential,
    pub api: String,
}

/// Calls with one answer. A token that a command has printed before may have been revoked: the command runs again, once.
macro_rules! calls {
    ($($service:ident: $($name:ident($input:ident) -> $output:ident),+;)+) => {
        impl Client {
            $($(
                pub async fn $name(&self, message: v1::$input) -> Result<v1::$output, ClientError> {
                    let mut retried = false;
                    loop {
                        let mut service = $service::new(self.channel.clone())
                            .max_decoding_message_size(MAX_ANSWER_BYTES);
                        match service.$name(self.authorized(message.clone())?).await {
                            Ok(answer) => return Ok(answer.into_inner()),
                            Err(status) if !retried && self.may_retry(&status) => retried = true,
                            Err(status) => return Err(self.refused(&status)),
                        }
                    }
                }
            )+)+
        }
    };
}

calls! {
    RequestServiceClient:
        create_request(CreateAccessRequest) -> AccessRequest,
        get_request(GetAccessRequest) -> AccessRequest,
        list_requests(ListAccessRequests) -> ListAccessRequestsResponse,
        search_requests(SearchAccessRequests) -> ListAccessRequestsResponse,
        approve_request(ApproveAccessRequest) -> AccessRequest,
        deny_request(DenyAccessRequest) -> AccessRequest,
        withdraw_request(WithdrawAccessRequest) -> AccessRequest;
    GrantServiceClient:
        create_grant(CreateGrantRequest) -> Grant,
        get_grant(GetGrantRequest) -> Grant,
        list_grants(ListGrantsRequest) -> ListGrantsResponse,
        extend_grant(ExtendGrantRequest) -> ExtendGrantResponse,
        revoke_grant(RevokeGrantRequest) -> RevokeGrantResponse,
        relinquish_grant(RelinquishGrantRequest) -> RevokeGrantResponse,
        revoke_all_grants(RevokeAllGrantsRequest) -> RevokeGrantResponse;
    LockServiceClient:
        create_lock(CreateLockRequest) -> Lock,
        list_locks(ListLocksRequest) -> ListLocksResponse,
        delete_lock(DeleteLockRequest) -> Lock;
    AccessServiceClient:
        list_entitlements(ListEntitlementsRequest) -> ListEntitlementsResponse,
        get_entitlement(GetEntitlementRequest) -> Entitlement,
        break_glass(BreakGlassRequest) -> Grant,
        explain_access(ExplainAccessRequest) -> ExplainAccessResponse,
        get_caller(GetCallerRequest) -> CallerIdentity;
    EventServiceClient:
        list_events(ListEventsRequest) -> ListEventsResponse;
}

/// Calls with answers as they come.
macro_rules! watches {
    ($($service:ident: $name:ident($input:ident) -> $output:ident;)+) => {
        impl Client {
            $(
                pub async fn $name(&self, message: v1::$input) -> Result<Watch<v1::$output>, ClientError> {
                    let mut retried = false;
                    loop {
                        let mut service = $service::new(self.channel.clone())
                            .max_decoding_message_size(MAX_ANSWER_BYTES);
                        match service.$name(self.authorized(message.clone())?).await {
                            Ok(answer) => {
                                return Ok(Watch { stream: answer.into_inner(), api: self.api.clone() });
                            }
                            Err(status) if !retried && self.may_retry(&status) => retried = true,
                            Err(status) => return Err(self.refused(&status)),
                        }
                    }
                }
            )+
        }
    };
}

watches! {
    RequestServiceClient: watch_request(WatchAccessRequest) -> AccessRequest;
    EventServiceClient: watch_events(WatchEventsRequest) -> Event;
}

/// Answers as they come.
pub struct Watch<T> {
    stream: Streaming<T>,
    api: String,
}

impl<T> Watch<T> {
    /// None when the server has nothing more to say.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        self.stream.message().await.map_err(|status| refused(&self.api, &status))
    }
}

impl Client {
    pub async fn connect(connection: &Connection) -> Result<Self, ClientError> {
        Self::open(Settings::load(connection)?).await
    }

    pub async fn open(settings: Settings) -> Result<Self, ClientError> {
        let Settings { api, credential, ca_file, identity } = settings;
        let mut endpoint = Endpoint::from_shared(api.clone())
            .map_err(|_| ClientError::NoUrl(api.clone()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        if api.starts_with("https://") {
            let mut tls = ClientTlsConfig::new();
            tls = match &ca_file {
                Some(path) => tls.ca_certificate(Certificate::from_pem(read("--ca-file", path)?)),
                None => tls.with_native_roots(),
            };
            if let Some((cert, key)) = &identity {
                let (cert, key) = (read("--cert-file", cert)?, read("--key-file", key)?);
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            let named = if identity.is_some() { "--ca-file, --cert-file or --key-file" } else { "--ca-file" };
            endpoint = endpoint.tls_config(tls).map_err(|error| ClientError::Tls(named, error))?;
        }
        let channel = endpoint
            .connect()
            .await
            .map_err(|source| ClientError::Unreachable { api: api.clone(), source: Box::new(source) })?;
        Ok(Self { channel, credential, api })
    }

    fn authorized<T>(&self, message: T) -> Result<Request<T>, ClientError> {
        let mut request = Request::new(message);
        if let Some(token) = self.credential.token().map_err(ClientError::Credential)? {
            let value: Result<AsciiMetadataValue, _> = token.bearer().parse();
            let mut value = value.map_err(|_| ClientError::TokenCharacters)?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }

    /// Another token may do.
    fn may_retry(&self, status: &Status) -> bool {
        status.code() == Code::Unauthenticated && self.credential.renew()
    }

    fn refused(&self, status: &Status) -> ClientError {
        refused(&self.api, status)
    }

    pub async fn grants(&self, mut ask: v1::ListGrantsRequest) -> Result<Vec<v1::Grant>, ClientError> {
        ask.page_size = PAGE_SIZE;
        let mut found = Vec::new();
        loop {
            let page = self.list_grants(ask.clone()).await?;
            let more = self.extend(&mut found, page.grants, &mut ask.page_token, page.next_page_token)?;
            if !more {
                return Ok(found);
            }
        }
    }

    pub async fn locks(&self) -> Result<Vec<v1::Lock>, ClientError> {
        let mut ask = v1::ListLocksRequest { page_size: PAGE_SIZE, page_token: String::new() };
        let mut found = Vec::new();
        loop {
            let page = self.list_locks(ask.clone()).await?;
            if !self.extend(&mut found, page.locks, &mut ask.page_token, page.next_page_token)? {
                return Ok(found);
            }
        }
    }

    pub async fn entitlements(&self) -> Result<Vec<v1::Entitlement>, ClientError> {
        let mut ask = v1::ListEntitlementsRequest { page_size: PAGE_SIZE, page_token: String::new() };
        let mut found = Vec::new();
        loop {
            let page = self.list_entitlements(ask.clone()).await?;
            if !self.extend(&mut found, page.entitlements, &mut ask.page_token, page.next_page_token)? {
                return Ok(found);
            }
        }
    }

    /// Requests of one state and entitlement, the newest first, until there are enough. Also whether there are more.
    pub async fn requests(
        &self,
        mut ask: v1::ListAccessRequests,
        enough: usize,
    ) -> Result<(Vec<v1::AccessRequest>, bool), ClientError> {
        let mut found = Vec::new();
        loop {
            ask.page_size = page_size(enough - found.len().min(enough));
            let page = self.list_requests(ask.clone()).await?;
            let more = self.extend(&mut found, page.requests, &mut ask.page_token, page.next_page_token)?;
            if !more || found.len() >= enough {
                return Ok((found, more));
            }
        }
    }

    /// The same by what the caller has to do with them. `wanted` says which count.
    pub async fn related_requests(
        &self,
        relation: v1::search_access_requests::Relation,
        enough: usize,
        wanted: impl Fn(&v1::AccessRequest) -> bool,
    ) -> Result<(Vec<v1::AccessRequest>, bool), ClientError> {
        let mut ask = v1::SearchAccessRequests {
            relation: relation.into(),
            page_size: PAGE_SIZE,
            page_token: String::new(),
        };
        let mut found = Vec::new();
        loop {
            let page = self.search_requests(ask.clone()).await?;
            let requests = page.requests.into_iter().filter(&wanted).collect();
            let more = self.extend(&mut found, requests, &mut ask.page_token, page.next_page_token)?;
            if !more || found.len() >= enough {
                let more = more || found.len() > enough;
                found.truncate(enough);
                return Ok((found, more));
            }
        }
    }

    /// Whether there is another page. A server that names the same page again, or never ends, is not followed.
    fn extend<T>(
        &self,
        found: &mut Vec<T>,
        page: Vec<T>,
        token: &mut String,
        next: String,
    ) -> Result<bool, ClientError> {
        found.extend(page);
        if found.len() > MAX_LISTED || (!next.is_empty() && next == *token) {
            return Err(ClientError::TooMany(self.api.clone()));
        }
        *token = next;
        Ok(!token.is_empty())
    }
}

fn page_size(wanted: usize) -> u32 {
    u32::try_from(wanted).map_or(PAGE_SIZE, |wanted| wanted.clamp(1, PAGE_SIZE))
}

fn read(flag: &str, path: &std::path::Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path)
        .map_err(|source| ClientError::File { place: format!("{flag}: {}", path.display()), source })
}

fn refused(api: &str, status: &Status) -> ClientError {
    let broken = std::error::Error::source(status).is_some();
    if broken && (is_outage(status.code()) || status.code() == Code::Unknown) {
        // The transport's words, which the status repeats.
        return ClientError::Unreachable { api: api.to_owned(), source: clean(status.message()).into() };
    }
    ClientError::Refused { api: api.to_owned(), code: status.code(), message: clean(status.message()) }
}
