//! `daypass doctor`: reads a configuration of Envoy from a file or a running one's admin port, and says what is wrong.

use std::fmt::Write as _;
use std::io::Read;
use std::time::Duration;

use clap::Args;
use http::HeaderMap;
use thiserror::Error;
use tokio::time::timeout;
use url::Url;

use super::{Done, Exit, output};
use crate::doctor::{self, Code, Finding, Report, Severity};
use crate::fetch::{self, tls::Tls};

/// A dump of a large mesh has some tens of megabytes.
const MAX_BYTES: u64 = 256 << 20;
/// Envoy writes the dump on its main thread, which may be busy.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Places that are listed of one code; `--json` lists all.
const MAX_PLACES: usize = 8;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A bootstrap (YAML or JSON), a saved /config_dump, `-` for standard input, or http://HOST:PORT of an admin listener
    #[arg(value_name = "CONFIG")]
    source: String,
    /// All findings as one document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Error)]
pub enum DoctorError {
    #[error("{source_name}: {why}")]
    Unreadable { source_name: String, why: String },
    #[error("{url}: {why}; is it the address of Envoy's admin listener?")]
    Unreachable { url: String, why: String },
}

impl DoctorError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreadable { .. } => Exit::Usage,
            Self::Unreachable { .. } => Exit::Unreachable,
        }
    }
}

pub async fn execute(args: DoctorArgs) -> anyhow::Result<Done> {
    let unreadable = |why: String| DoctorError::Unreadable { source_name: args.source.clone(), why };
    let text = if args.source.starts_with("http://") || args.source.starts_with("https://") {
        dump(&args.source).await?
    } else {
        read(&args.source).map_err(unreadable)?
    };
    let report = doctor::examine(&text).map_err(unreadable)?;
    let exit = if report.is_clean() { Exit::Done } else { Exit::Failed };
    Ok(Done::either(args.json, || report.json(&args.source), || show(&report)).exit(exit))
}

/// An address without its scheme looks like a file.
fn no_file(path: &str, error: &std::io::Error) -> String {
    let port = path.trim_end_matches('/').rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => format!("{error}; a running Envoy is given as http://{path}"),
        _ => error.to_string(),
    }
}

fn read(path: &str) -> Result<String, String> {
    let input: Box<dyn Read> = if path == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(|error| no_file(path, &error))?)
    };
    let mut bytes = Vec::new();
    input.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

/// What the running Envoy has. Endpoints are left out: there may be very many, and addresses that were discovered say little.
async fn dump(address: &str) -> Result<String, DoctorError> {
    let unreadable = |why: String| DoctorError::Unreadable { source_name: address.to_owned(), why };
    let mut url = Url::parse(address).map_err(|error| unreadable(error.to_string()))?;
    if !matches!(url.path(), "/" | "/config_dump") {
        return Err(unreadable("give the admin's address alone, as http://127.0.0.1:9901".to_owned()));
    }
    url.set_path("/config_dump");
    let unreachable = |why: String| DoctorError::Unreachable { url: url.to_string(), why };
    let asked = async {
        let answer =
            fetch::get(&url, HeaderMap::new(), Tls::default()).await.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("the answer is {}", answer.status()));
        }
        fetch::body(answer, MAX_BYTES).await.map_err(|error| error.to_string())
    };
    let bytes = timeout(TIMEOUT, asked)
        .await
        .map_err(|_| unreachable(format!("no whole answer within {TIMEOUT:?}")))?
        .map_err(unreachable)?;
    String::from_utf8(bytes).map_err(|_| unreadable("the answer is not UTF-8".to_owned()))
}

/// For people: each kind once, with all its places below.
fn show(report: &Report) -> String {
    let mut text = String::new();
    let findings = report.findings();
    let mut rest = findings;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|finding| finding.code == first.code).count();
        let (these, others) = rest.split_at(same);
        group(&mut text, first.code, these);
        rest = others;
    }
    let count = |severity: Severity, one: &str, many: &str| {
        let count = report.count(severity);
        format!("{count} {}", if count == 1 { one } else { many })
    };
    let _ = writeln!(
        text,
        "{}, {}, {}",
        count(Severity::Critical, "critical", "critical"),
        count(Severity::Warning, "warning", "warnings"),
        count(Severity::Note, "note", "notes"),
    );
    text
}

fn group(text: &mut String, code: Code, findings: &[Finding]) {
    let _ = writeln!(text, "{} {}: {}", code.severity().name(), code.name(), code.why());
    for finding in findings.iter().take(MAX_PLACES) {
        let parts = [finding.place.text(), finding.what.clone()];
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        if !parts.is_empty() {
            let _ = writeln!(text, "  at   {}", output::clean(&parts.join(": ")));
        }
    }
    if findings.len() > MAX_PLACES {
        let _ = writeln!(text, "  and  {} more; --json lists all", findings.len() - MAX_PLACES);
    }
    let _ = writeln!(text, "  fix  {}\n", code.fix());
}
