//! What was typed becomes what is needed, once, with all mistakes reported together.

mod api;
mod args;
mod file;
mod reader;
mod webhooks;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use thiserror::Error;

use crate::api::{GateConfig, RateLimit, tokens};
use crate::audit::LogTarget;
use crate::authz::watch::Room;
use crate::authz::{self, BodyParsing, Enforcement, IdentitySource, RequestIds, StreamLimits};
use crate::bundle;
use crate::policy::DecisionPath;
use crate::replica::Limits;
use crate::store::{RedisConfig, RedisTls, RedisUrl};
use crate::telemetry::{LogConfig, LogFormat};
use crate::trace::TraceConfig;
use crate::webhook::WebhookConfig;

pub use args::ServeArgs;
use file::FileSettings;

/// One mistake, with the place it was made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `daypass.yaml:7`, or the flag.
    pub place: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> =
            self.0.iter().map(|problem| format!("  {}: {}", problem.place, problem.message)).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Where the check listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err("a socket path is absolute: unix:///run/daypass.sock".to_owned())
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| "an address is IP:PORT, such as 127.0.0.1:9191".to_owned())
    }
}

/// Where the API is, if there is one. Sidecars that only answer checks have none, and need no right to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiListen {
    Off,
    At(SocketAddr),
}

impl FromStr for ApiListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => address
                .parse()
                .map(Self::At)
                .map_err(|_| "is IP:PORT, such as 127.0.0.1:9292, or off".to_owned()),
        }
    }
}

#[derive(Debug, Clone)]
pub enum StoreConfig {
    Embedded,
    Memory,
    Redis(Box<RedisConfig>),
}

#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// None: the built-in policy.
    pub paths: Vec<PathBuf>,
    pub decision: DecisionPath,
    pub evaluation_timeout: Duration,
    pub health_paths: Vec<String>,
    /// Whether a policy must pass its own tests to be used.
    pub run_tests: bool,
    /// Policies and data that come from servers.
    pub bundles: Option<bundle::Config>,
    /// Where people ask for an entitlement; `{entitlement}` stands for its name.
    pub request_url: Option<String>,
    /// No entitlement may give more.
    pub max_grant_ttl: Duration,
}

/// Whether callers of the API must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Optional,
    Required,
}

#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Who signs client certificates. None: nobody is asked for one.
    pub client_ca: Option<(PathBuf, ClientAuth)>,
}

#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Hashes of static tokens, made on first start.
    pub tokens_file: PathBuf,
    pub tls: Option<TlsFiles>,
    pub gate: GateConfig,
}

#[derive(Debug, Clone)]
pub struct DecisionLogConfig {
    pub target: LogTarget,
    /// Lines that may wait for the disk.
    pub queue: usize,
}

/// Everything `daypass serve` needs, known to fit together.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Listen,
    /// None: there is no API, and nothing that belongs to it.
    pub api_listen: Option<SocketAddr>,
    pub ops_listen: SocketAddr,
    pub data_dir: PathBuf,
    pub store: StoreConfig,
    pub policy: PolicyConfig,
    pub authz: authz::Config,
    pub api: ApiConfig,
    pub webhooks: Vec<WebhookConfig>,
    pub log: LogConfig,
    /// None: nothing is traced.
    pub trace: Option<TraceConfig>,
    pub decision_log: Option<DecisionLogConfig>,
    pub reflection: bool,
    pub max_message_bytes: usize,
    pub max_grant_ttl: Duration,
    pub replica_limits: Limits,
    pub drain_timeout: Duration,
}

const DEFAULT_DECISION: &str = "envoy/authz/allow";
const STALENESS_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);
/// Below Envoy's default of 200 ms and the 250 ms of the shipped configurations, so that the answer is ours.
const DEFAULT_CHECK_TIMEOUT: Duration = Duration::from_millis(150);
const DEFAULT_EVALUATION_TIMEOUT: Duration = Duration::from_millis(50);
const DEFAULT_SETTLE_TIMEOUT: Duration = Duration::from_millis(100);
/// Envoy's default circuit breaker lets 1024 requests through to a cluster at once.
const DEFAULT_MAX_CONCURRENT_CHECKS: usize = 1024;
/// At up to 20 KiB each, as much as the grants may take.
const DEFAULT_MAX_WATCHED_STREAMS: usize = 20_000;
/// One caller has one part of so many: enough for a program with many streams, and not all of them.
const DEFAULT_WATCHED_SHARE: usize = 4;
/// As OPA-Envoy's `grpc-max-recv-msg-size`.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
const DEFAULT_MAX_GRANT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longer than this, nothing is access for a time any more.
const MAX_GRANT_TTL: Duration = Duration::from_secs(14 * 24 * 3600);
const DEFAULT_MAX_GRANTS: usize = 100_000;
/// A check looks at each of them, at about a microsecond apiece.
const DEFAULT_MAX_GRANTS_PER_PRINCIPAL: usize = 1_000;
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// With a minute or less left a retry could outlive the grant by much of its own length.
const DEFAULT_RETRY_HORIZON: Duration = Duration::from_secs(60);
/// Far more than people and their programs need, and far less than would keep a store busy.
const DEFAULT_API_RATE_LIMIT: RateLimit = RateLimit { per_second: 500, burst: 1000 };
const DEFAULT_DECISION_LOG_QUEUE: usize = 10_000;

impl Config {
    /// # Errors
    /// Every mistake in flags and file, each with its place.
    pub fn load(args: &ServeArgs) -> Result<Self, Problems> {
        Self::load_with(args, &|name| std::env::var(name).ok())
    }

    /// As [`Self::load`], with the environment given.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(args: &ServeArgs, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let file = match &args.config {
            Some(path) => file::read(path, env, &mut problems),
            None => FileSettings::default(),
        };
        let config = assemble(args, file, &mut problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Problems(problems)),
        }
    }
}

fn assemble(args: &ServeArgs, mut file: FileSettings, problems: &mut Vec<Problem>) -> Option<Config> {
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let api_listen = match args.api_listen.or(file.api_listen) {
        Some(ApiListen::Off) => None,
        Some(ApiListen::At(address)) => Some(address),
        None => Some(loopback(9292)),
    };
    let data_dir = args.data_dir.clone().or(file.data_dir.take()).unwrap_or_else(default_data_dir);
    let check_timeout = file.check_timeout.unwrap_or(DEFAULT_CHECK_TIMEOUT);
    let evaluation_timeout = file.evaluation_timeout.unwrap_or(DEFAULT_EVALUATION_TIMEOUT);
    let settle_timeout = file.settle_timeout.unwrap_or(DEFAULT_SETTLE_TIMEOUT);
    let mut problem =
        |place: &str, message: String| problems.push(Problem { place: place.to_owned(), message });
    if evaluation_timeout + settle_timeout > check_timeout {
        problem(
            "limits",
            format!(
                "evaluation_timeout ({evaluation_timeout:?}) and settle_timeout ({settle_timeout:?}) together exceed \
                 check_timeout ({check_timeout:?})"
            ),
        );
    }
    if let Some(api_listen) =
        api_listen.filter(|address| !address.ip().is_loopback() && file.api.tls.is_none())
    {
        problem(
            "--api-listen",
            format!("{api_listen} is not on this machine alone; give `api.tls`, or listen on 127.0.0.1"),
        );
    }
    if let Some(max_grant_ttl) = file.max_grant_ttl.filter(|given| *given > MAX_GRANT_TTL) {
        problem("limits.max_grant_ttl", format!("{max_grant_ttl:?} is more than 14 days"));
    }
    let bundles = bundle_config(&file, &data_dir, &mut problem);
    check_store_settings(&file, &mut problem);
    let store = store_config(args.store.as_deref().or(file.store.as_deref()), &file, &mut problem);
    let authz = authz_config(args, &mut file, check_timeout, settle_timeout);
    let api = api_config(&mut file, &data_dir);
    let decision_log = args.decision_log.clone().or(file.decision_log).map(|target| DecisionLogConfig {
        target: match target.as_str() {
            "-" | "stdout" => LogTarget::Stdout,
            path => LogTarget::File(path.into()),
        },
        queue: file.decision_log_queue.unwrap_or(DEFAULT_DECISION_LOG_QUEUE),
    });
    let max_grant_ttl = file.max_grant_ttl.unwrap_or(DEFAULT_MAX_GRANT_TTL);
    let decision = args.decision.as_deref().or(file.decision.as_deref()).unwrap_or(DEFAULT_DECISION);
    Some(Config {
        listen: args.listen.clone().or(file.listen).unwrap_or_else(|| Listen::Tcp(loopback(9191))),
        api_listen,
        ops_listen: args.ops_listen.or(file.ops_listen).unwrap_or_else(|| loopback(9393)),
        store: store?,
        policy: PolicyConfig {
            paths: if args.policy.is_empty() { file.policy.unwrap_or_default() } else { args.policy.clone() },
            decision: DecisionPath::new(decision),
            evaluation_timeout,
            health_paths: file.health_paths.unwrap_or_default(),
            run_tests: file.policy_tests == Some(true),
            bundles,
            request_url: file.request_url.take(),
            max_grant_ttl,
        },
        authz,
        api,
        webhooks: file.webhooks,
        log: LogConfig {
            format: file.log_format.unwrap_or(LogFormat::Text),
            level: file.log_level.unwrap_or_else(|| "info".to_owned()),
        },
        decision_log,
        trace: file.trace,
        reflection: args.reflection || file.reflection == Some(true),
        max_message_bytes: file.max_message_bytes.unwrap_or(DEFAULT_MAX_MESSAGE_BYTES),
        max_grant_ttl,
        replica_limits: Limits {
            grants: file.max_grants.unwrap_or(DEFAULT_MAX_GRANTS),
            grants_per_principal: file.max_grants_per_principal.unwrap_or(DEFAULT_MAX_GRANTS_PER_PRINCIPAL),
        },
        drain_timeout: file.drain_timeout.unwrap_or(DEFAULT_DRAIN_TIMEOUT),
        data_dir,
    })
}

fn api_config(file: &mut FileSettings, data_dir: &Path) -> ApiConfig {
    let api = std::mem::take(&mut file.api);
    ApiConfig {
        tokens_file: api.tokens_file.unwrap_or_else(|| tokens::path_in(data_dir)),
        tls: api.tls,
        gate: GateConfig {
            issuers: api.issuers,
            rate_limit: api.rate_limit.unwrap_or(DEFAULT_API_RATE_LIMIT),
        },
    }
}

fn authz_config(
    args: &ServeArgs,
    file: &mut FileSettings,
    check_timeout: Duration,
    settle_timeout: Duration,
) -> authz::Config {
    authz::Config {
        identity: file.identity.take().unwrap_or_else(IdentitySource::defaults),
        body_parsing: if args.skip_request_body_parse || file.skip_request_body_parse == Some(true) {
            BodyParsing::Skip
        } else {
            BodyParsing::On
        },
        enforcement: if args.dry_run || file.dry_run == Some(true) {
            Enforcement::DryRun
        } else {
            Enforcement::Enforce
        },
        stream: StreamLimits {
            lease: file.lease,
            retry_horizon: file.retry_horizon.unwrap_or(DEFAULT_RETRY_HORIZON),
        },
        check_timeout,
        settle_timeout,
        max_concurrent_checks: file.max_concurrent_checks.unwrap_or(DEFAULT_MAX_CONCURRENT_CHECKS),
        watched_streams: watched_streams(file),
        request_ids: if file.trust_request_id == Some(true) {
            RequestIds::Trusted
        } else {
            RequestIds::Ignored
        },
    }
}

fn watched_streams(file: &FileSettings) -> Room {
    let all = file.max_watched_streams.unwrap_or(DEFAULT_MAX_WATCHED_STREAMS);
    let share = (all / DEFAULT_WATCHED_SHARE).max(1);
    Room { all, of_one_caller: file.max_watched_per_caller.unwrap_or(share) }
}

fn bundle_config(
    file: &FileSettings,
    data_dir: &Path,
    problem: &mut impl FnMut(&str, String),
) -> Option<bundle::Config> {
    match bundle::Config::parse(&file.bundles, &data_dir.join("bundles")) {
        Ok(config) => (!config.sources.is_empty()).then_some(config),
        Err(problems) => {
            problems.into_iter().for_each(|found| problem(&found.place, found.message));
            None
        }
    }
}

fn store_config(
    named: Option<&str>,
    file: &FileSettings,
    problem: &mut impl FnMut(&str, String),
) -> Option<StoreConfig> {
    let url = match store_kind(named) {
        Ok(StoreKind::Embedded) => return Some(StoreConfig::Embedded),
        Ok(StoreKind::Memory) => return Some(StoreConfig::Memory),
        Ok(StoreKind::Redis(url)) => url,
        Err(message) => {
            problem("--store", message);
            return None;
        }
    };
    if url.is_cluster() && !file.key_prefix.as_deref().is_none_or(has_hash_tag) {
        let prefix = file.key_prefix.as_deref().unwrap_or_default();
        problem("key_prefix", format!("{prefix:?} has no part in braces, which a cluster needs: {{jit}}"));
    }
    if !url.has_tls && file.redis.tls != RedisTls::default() {
        problem(
            "redis.tls",
            format!("{url} is in clear; write rediss:// (or rediss+...), or leave these settings out"),
        );
    }
    let defaults = RedisConfig::new(url);
    Some(StoreConfig::Redis(Box::new(RedisConfig {
        password_file: file.redis.password_file.clone(),
        sentinel: file.redis.sentinel.clone(),
        tls: file.redis.tls.clone(),
        key_prefix: file.key_prefix.clone().unwrap_or(defaults.key_prefix),
        max_staleness: file.max_staleness.unwrap_or(defaults.max_staleness),
        require_replicas: file.redis.require_replicas.unwrap_or(defaults.require_replicas),
        max_lag: file.redis.max_lag.unwrap_or(defaults.max_lag),
        url: defaults.url,
    })))
}

/// Of the settings that only some stores use: wrong is wrong for all.
fn check_store_settings(file: &FileSettings, problem: &mut impl FnMut(&str, String)) {
    if let Some(max_staleness) = file.max_staleness.filter(|given| !STALENESS_RANGE.contains(given)) {
        problem("max_staleness", format!("{max_staleness:?} is not between 100ms and 30s"));
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"{}_.:-".contains(&byte);
    if let Some(prefix) = file.key_prefix.as_deref().filter(|prefix| !prefix.bytes().all(is_allowed)) {
        problem("key_prefix", format!("{prefix:?} has other characters than A-Z, a-z, 0-9 and {{}}_.:-"));
    }
}

/// The part in braces keeps all keys in one cluster slot, without which no script could run there.
fn has_hash_tag(prefix: &str) -> bool {
    let tag = prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.is_some_and(|(tag, _)| !tag.is_empty())
}

enum StoreKind {
    Embedded,
    Memory,
    Redis(RedisUrl),
}

/// The seam for more: a new kind of store is a new arm here and in `server`.
fn store_kind(text: Option<&str>) -> Result<StoreKind, String> {
    match text {
        None | Some("embedded") => Ok(StoreKind::Embedded),
        Some("embedded:memory") => Ok(StoreKind::Memory),
        Some(url) => url
            .parse()
            .map(StoreKind::Redis)
            .map_err(|error| format!("{error}; a store is embedded, embedded:memory, or such a URL")),
    }
}

/// `$XDG_DATA_HOME/daypass`, `~/.local/share/daypass`, or for users without a home `/var/lib/daypass`.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    let dir = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    dir("XDG_DATA_HOME")
        .or_else(|| dir("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| "/var/lib/daypass".into(), |base| base.join("daypass"))
}

/// `150ms`, `90s`, `15m`, `1h30m`: more than nothing.
///
/// # Errors
/// The text is no duration, or not a positive one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed: Result<SignedDuration, _> = text.parse();
    parsed
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("{text:?} is not a duration; write 150ms, 90s, 15m, 8h or 1h30m"))
}

#[cfg(test)]
mod tests;
