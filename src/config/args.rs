//! The flags of `daypass serve`, as they were typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ApiListen, Listen};

/// Flags win over the configuration file.
#[expect(clippy::struct_excessive_bools, reason = "one per switch of the command line")]
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// YAML file with these settings and those without a flag (see docs/configuration.md).
    #[arg(long, value_name = "FILE", env = "DAYPASS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where Envoy asks: an address, or `unix:///path` [default: 127.0.0.1:9191]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<Listen>,
    /// The grant API, or `off` where only checks are answered [default: 127.0.0.1:9292]
    #[arg(long, value_name = "ADDR")]
    pub api_listen: Option<ApiListen>,
    /// /livez, /readyz and /metrics [default: 127.0.0.1:9393]
    #[arg(long, value_name = "ADDR")]
    pub ops_listen: Option<SocketAddr>,
    /// embedded, embedded:memory, or a URL: redis, rediss, unix, redis+sentinel, redis+cluster [default: embedded]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Policy file or directory (.rego, .json, .yaml); may be repeated [default: the built-in policy]
    #[arg(long, value_name = "PATH")]
    pub policy: Vec<PathBuf>,
    /// Rule that decides, as a path [default: envoy/authz/allow]
    #[arg(long, value_name = "PATH")]
    pub decision: Option<String>,
    /// Let denials of policy pass, and report them
    #[arg(long)]
    pub dry_run: bool,
    /// Leave parsed_body and truncated_body out of the input
    #[arg(long)]
    pub skip_request_body_parse: bool,
    /// Where the embedded store and the API's token are kept [default: the user's data directory]
    #[arg(long, value_name = "DIR", env = "DAYPASS_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Serve gRPC reflection on the API and check listeners
    #[arg(long)]
    pub reflection: bool,
    /// One JSON line per decision, to a file or `-` for stdout
    #[arg(long, value_name = "FILE")]
    pub decision_log: Option<String>,
    /// Check configuration and policy, and exit
    #[arg(long)]
    pub validate: bool,
}
