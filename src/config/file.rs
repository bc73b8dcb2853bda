//! The configuration file: every key there is, and what its value must look like.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use saphyr::{LoadableYamlNode, MarkedYaml};
use serde_json::{Map, Value as Json};

use super::api::{self, ApiSettings};
use super::reader::{Section, Source};
use super::{ApiListen, Listen, Problem, parse_duration, webhooks};
use crate::authz::IdentitySource;
use crate::principal::Kind;
use crate::store::{ClientCertificate, RedisTls, SentinelLogin};
use crate::telemetry::LogFormat;
use crate::trace::TraceConfig;
use crate::webhook::WebhookConfig;

/// What the file says; `None` where it says nothing.
#[derive(Debug, Default)]
pub struct FileSettings {
    pub listen: Option<Listen>,
    pub api_listen: Option<ApiListen>,
    pub ops_listen: Option<SocketAddr>,
    pub data_dir: Option<PathBuf>,
    pub store: Option<String>,
    pub redis: RedisSettings,
    pub key_prefix: Option<String>,
    pub max_staleness: Option<Duration>,
    pub policy: Option<Vec<PathBuf>>,
    pub decision: Option<String>,
    pub health_paths: Option<Vec<String>>,
    pub request_url: Option<String>,
    pub policy_tests: Option<bool>,
    /// OPA's `services`, `bundles`, `keys` and `persistence_directory`, as they were written.
    pub bundles: Map<String, Json>,
    pub dry_run: Option<bool>,
    pub skip_request_body_parse: Option<bool>,
    pub reflection: Option<bool>,
    pub identity: Option<Vec<IdentitySource>>,
    pub check_timeout: Option<Duration>,
    pub evaluation_timeout: Option<Duration>,
    pub settle_timeout: Option<Duration>,
    pub drain_timeout: Option<Duration>,
    pub max_concurrent_checks: Option<usize>,
    pub max_watched_streams: Option<usize>,
    pub max_watched_per_caller: Option<usize>,
    pub max_message_bytes: Option<usize>,
    pub max_grant_ttl: Option<Duration>,
    pub max_grants: Option<usize>,
    pub max_grants_per_principal: Option<usize>,
    pub trust_request_id: Option<bool>,
    pub lease: Option<Duration>,
    pub retry_horizon: Option<Duration>,
    pub api: ApiSettings,
    pub webhooks: Vec<WebhookConfig>,
    pub log_format: Option<LogFormat>,
    pub log_level: Option<String>,
    pub trace: Option<TraceConfig>,
    pub decision_log: Option<String>,
    pub decision_log_queue: Option<usize>,
}

/// What a store in Redis may need beside its URL.
#[derive(Debug, Default)]
pub struct RedisSettings {
    pub password_file: Option<PathBuf>,
    pub sentinel: SentinelLogin,
    pub tls: RedisTls,
    pub require_replicas: Option<usize>,
    pub max_lag: Option<Duration>,
}

pub fn read(path: &Path, env: &dyn Fn(&str) -> Option<String>, problems: &mut Vec<Problem>) -> FileSettings {
    let file = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem { place: file, message: format!("cannot be read: {error}") });
            return FileSettings::default();
        }
    };
    let documents = match MarkedYaml::load_from_str(&text) {
        Ok(documents) => documents,
        Err(error) => {
            let place = format!("{file}:{}", error.marker().line());
            problems.push(Problem { place, message: format!("not YAML: {}", error.info()) });
            return FileSettings::default();
        }
    };
    let source = Source { file, env, problems: RefCell::default() };
    let settings = match documents.as_slice() {
        [] => FileSettings::default(),
        [document, ..] => Section::root(&source, document).map(settings).unwrap_or_default(),
    };
    problems.append(&mut source.problems.into_inner());
    settings
}

fn settings(mut root: Section<'_, '_>) -> FileSettings {
    let mut found = FileSettings {
        listen: root.get("listen", str::parse),
        api_listen: root.get("api_listen", str::parse),
        ops_listen: root.get("ops_listen", parsed),
        data_dir: root.get("data_dir", path),
        store: root.get("store", text),
        key_prefix: root.get("key_prefix", text),
        max_staleness: root.get("max_staleness", parse_duration),
        policy: root.list("policy", path),
        decision: root.get("decision", text),
        health_paths: root.list("health_paths", health_path),
        request_url: root.get("request_url", request_url),
        policy_tests: root.get("policy_tests", parsed),
        dry_run: root.get("dry_run", parsed),
        skip_request_body_parse: root.get("skip_request_body_parse", parsed),
        reflection: root.get("reflection", parsed),
        identity: root.sections("identity", identity),
        ..FileSettings::default()
    };
    for key in ["services", "bundles", "keys", "persistence_directory"] {
        found.bundles.extend(root.json(key).map(|json| (key.to_owned(), json)));
    }
    found.redis = root.section("redis", redis).unwrap_or_default();
    root.section("uses", |uses| {
        found.trust_request_id = uses.get("trust_request_id", parsed);
    });
    root.section("limits", |limits| {
        found.check_timeout = limits.get("check_timeout", parse_duration);
        found.evaluation_timeout = limits.get("evaluation_timeout", parse_duration);
        found.settle_timeout = limits.get("settle_timeout", parse_duration);
        found.drain_timeout = limits.get("drain_timeout", parse_duration);
        found.max_concurrent_checks = limits.get("max_concurrent_checks", positive);
        found.max_message_bytes = limits.get("max_message_bytes", positive);
        found.max_grant_ttl = limits.get("max_grant_ttl", parse_duration);
        found.max_grants = limits.get("max_grants", positive);
        found.max_grants_per_principal = limits.get("max_grants_per_principal", positive);
    });
    root.section("stream", |stream| {
        found.lease = stream.get("lease", parse_duration);
        found.retry_horizon = stream.get("retry_horizon", parse_duration);
        found.max_watched_streams = stream.get("max_watched", parsed);
        found.max_watched_per_caller = stream.get("max_watched_per_caller", positive);
    });
    found.api = root.section("api", api::read).unwrap_or_default();
    found.webhooks = webhooks::read(&mut root);
    root.section("log", |log| {
        found.log_format = log.get("format", log_format);
        found.log_level = log.get("level", log_level);
    });
    found.trace = root.section("tracing", tracing).flatten();
    root.section("decision_log", |log| {
        found.decision_log = log.get("to", text);
        found.decision_log_queue = log.get("queue", positive);
    });
    root.finish();
    found
}

/// What is traced where nothing is said.
const DEFAULT_SAMPLE: f64 = 0.01;

fn tracing(section: &mut Section<'_, '_>) -> Option<TraceConfig> {
    let endpoint = section.get("otlp_endpoint", |text| {
        // A collector elsewhere is fed by one beside: spans name hosts and grants, and go in clear.
        let is_url =
            text.starts_with("http://") && text.parse::<http::Uri>().is_ok_and(|url| url.host().is_some());
        if is_url {
            Ok(text.to_owned())
        } else {
            Err("is http://HOST:PORT of a collector (OTLP over gRPC)".to_owned())
        }
    });
    let sample = section.get("sample", |text| {
        let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
        share.ok_or_else(|| format!("{text:?} is not a share between 0 and 1"))
    });
    if endpoint.is_none() {
        section.complain("needs `otlp_endpoint`");
    }
    Some(TraceConfig { endpoint: endpoint?, sample: sample.unwrap_or(DEFAULT_SAMPLE) })
}

fn redis(section: &mut Section<'_, '_>) -> RedisSettings {
    let tls = section.section("tls", redis_tls).unwrap_or_default();
    RedisSettings {
        password_file: section.get("password_file", path),
        sentinel: SentinelLogin {
            user: section.get("sentinel_user", text),
            password_file: section.get("sentinel_password_file", path),
        },
        tls,
        require_replicas: section.get("require_replicas", parsed),
        max_lag: section.get("max_lag", parse_duration),
    }
}

fn redis_tls(section: &mut Section<'_, '_>) -> RedisTls {
    let client = match (section.get("cert_file", path), section.get("key_file", path)) {
        (Some(cert_file), Some(key_file)) => Some(ClientCertificate { cert_file, key_file }),
        (None, None) => None,
        _ => {
            section.complain("cert_file and key_file belong together");
            None
        }
    };
    RedisTls { ca_file: section.get("ca_file", path), client, server_name: section.get("server_name", text) }
}

/// What `envoy/tcp.yaml` calls it.
const DEFAULT_TUNNEL_HEADER: &str = "x-daypass-peer-uri-san";

/// `- source: jwt`, with the settings of that source beside it.
fn identity(section: &mut Section<'_, '_>) -> Option<IdentitySource> {
    let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
    match section.get("source", text).as_deref() {
        Some("jwt") => Some(IdentitySource::Jwt {
            filter: or(section.get("filter", text), "envoy.filters.http.jwt_authn"),
            payload: or(section.get("payload", text), "jwt_payload"),
            user_claim: or(section.get("user_claim", text), "sub"),
            groups_claim: or(section.get("groups_claim", text), "groups"),
        }),
        Some("peer") => Some(IdentitySource::Peer),
        Some("xfcc") => {
            Some(IdentitySource::Xfcc { trusted_hops: section.get("trusted_hops", positive).unwrap_or(1) })
        }
        Some("tunnel") => Some(IdentitySource::Tunnel {
            header: or(section.get("header", |text| Ok(text.to_ascii_lowercase())), DEFAULT_TUNNEL_HEADER),
        }),
        Some("header") => {
            let name = section.get("name", |text| Ok(text.to_ascii_lowercase()));
            let kind = section.get("kind", |text| {
                text.parse::<Kind>().map_err(|_| "is user, group or workload".to_owned())
            });
            if name.is_none() || kind.is_none() {
                section.complain("a header needs `name` and `kind`");
            }
            Some(IdentitySource::Header { name: name?, kind: kind? })
        }
        _ => {
            section.complain("`source` is jwt, peer, xfcc, tunnel or header");
            None
        }
    }
}

pub(super) fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) fn path(value: &str) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from)
}

pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|value| *value > 0)
        .ok_or_else(|| format!("{text:?} is not a whole number above 0"))
}

fn health_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err(format!("{text:?} does not begin with /")) }
}

/// Shown in denials, so nothing that a browser would not take for a link.
fn request_url(text: &str) -> Result<String, String> {
    const MAX_BYTES: usize = 2048;
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    if is_web && text.len() <= MAX_BYTES && !text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a URL; write it as https://access.example/ask?for={{entitlement}}"))
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is neither text nor json")),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{text:?}: {error}")),
    }
}
