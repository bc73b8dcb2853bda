//! `daypass status`: what `/readyz` of a running sidecar says, for people.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::Value;

use super::output::say;
use super::report;

/// The sidecar is near; one that does not answer by then has trouble.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer. Statuses of a few bundles are some hundred bytes each.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The sidecar's ops listener
    #[arg(long, default_value = "http://127.0.0.1:9393", value_name = "URL", env = "DAYPASS_OPS")]
    ops: String,
    /// The document as it is
    #[arg(long)]
    json: bool,
}

/// 0 if it is ready, 1 if it is not or does not answer.
pub fn run(args: &StatusArgs) -> ExitCode {
    let document = match fetch(&args.ops) {
        Ok(document) => document,
        Err(error) => return report(&error),
    };
    if args.json {
        say!("{document:#}");
    } else {
        print(&document);
    }
    if document["ready"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One GET in the clear, which needs no client.
fn fetch(url: &str) -> anyhow::Result<Value> {
    let Some(address) = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else {
        bail!("{url}: the ops listener is http://HOST:PORT");
    };
    let mut stream = TcpStream::connect(address)
        .with_context(|| format!("no sidecar answers at {address} (--ops says where)"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer).with_context(|| address.to_owned())?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let document: Value = serde_json::from_str(body).with_context(|| format!("{address} is no sidecar"))?;
    ensure!(document["ready"].is_boolean(), "{address} is no sidecar");
    Ok(document)
}

fn print(document: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    say!("{}", if document["ready"] == true { "ready" } else { "not ready" });
    for reason in document["reasons"].as_array().into_iter().flatten() {
        say!("  {}: {}", text(&reason["component"]), text(&reason["message"]));
    }
    let policy = &document["policy"];
    say!("policy {} since {}", text(&policy["revision"]), text(&policy["loaded_at"]));
    if let Some(error) = policy["error"].as_str() {
        say!("  the last change was refused:");
        error.lines().for_each(|line| say!("    {line}"));
    }
    for bundle in policy["bundles"].as_array().into_iter().flatten() {
        let since = bundle["last_successful_activation"].as_str();
        say!(
            "bundle {} {} {}",
            text(&bundle["name"]),
            bundle["active_revision"].as_str().unwrap_or(if since.is_some() {
                "unnamed"
            } else {
                "none yet"
            }),
            since.map(|since| format!("since {since}")).unwrap_or_default()
        );
        if let Some(error) = bundle["error"]["message"].as_str() {
            say!("  {}: {error}", text(&bundle["error"]["code"]));
        }
    }
}
