//! `daypass audit`: the record of all that happened, verified, exported, followed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::events::{follow, last_number, pages};
use super::output::{clean, compact, print};
use super::settings::Connection;
use super::verify::{Anchor, Break, Report, Verifier};
use super::{Done, Exit, json};
use crate::api::v1;
use crate::store::journal::{MAX_DOCUMENT_BYTES, StoredEvent};

/// Documents may be long: a hundred of the longest are 25 MiB.
const PAGE_SIZE: u32 = 100;
/// Of a line of an export: the longest document with every byte escaped, and room for the rest.
const MAX_LINE_BYTES: usize = MAX_DOCUMENT_BYTES * 6 + 4096;

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check numbers and hashes of the whole record, or of an export
    Verify {
        /// An export (jsonl); `-` is standard input. Left out, the API's record
        file: Option<PathBuf>,
        /// An event that must be there with this hash, as an earlier `verify` printed its head; may be repeated
        #[arg(long = "anchor", value_name = "NUMBER:HASH", value_parser = Anchor::parse)]
        anchors: Vec<Anchor>,
    },
    /// Print the record, a line of JSON for each event
    Export {
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
        /// Only those after this number
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
        /// `source` of the CloudEvents [default: the API's URL]
        #[arg(long, value_name = "URI")]
        source: Option<String>,
    },
    /// Print the last events as `export` does, and go on with each as it happens
    Tail {
        /// How many of those that have happened
        #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
        lines: u32,
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
        /// End after those that have happened
        #[arg(long)]
        no_follow: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Number, hash and document exactly as they are kept; `audit verify` reads it
    Jsonl,
    /// CloudEvents 1.0
    Cloudevents,
}

impl Format {
    fn line(self, event: &v1::Event, source: &str) -> String {
        match self {
            Self::Jsonl => compact(&json::record(event)),
            Self::Cloudevents => compact(&json::cloud_event(event, source)),
        }
    }
}

pub async fn execute(args: AuditArgs) -> anyhow::Result<Done> {
    let AuditArgs { connection, command } = args;
    match command {
        AuditCommand::Verify { file: Some(file), anchors } => {
            let report = verify_file(&file, anchors)?;
            Ok(show(&report, &file.display().to_string(), "", connection.json))
        }
        AuditCommand::Verify { file: None, anchors } => {
            let client = Client::connect(&connection).await?;
            let report = verify_api(&client, anchors).await?;
            let hint = "; or this caller may not see every event (`daypass whoami`)";
            Ok(show(&report, &client.api, hint, connection.json))
        }
        AuditCommand::Export { format, after, source } => {
            let client = Client::connect(&connection).await?;
            let source = source.unwrap_or_else(|| client.api.clone());
            write_after(&client, after, &|event| format.line(event, &source)).await?;
            Ok(Done::text(""))
        }
        AuditCommand::Tail { lines, format, no_follow } => {
            let client = Client::connect(&connection).await?;
            let head = last_number(&client).await?;
            let source = client.api.clone();
            let line = |event: &v1::Event| format.line(event, &source);
            let after = head.saturating_sub(u64::from(lines));
            let (last, open) = write_after(&client, after, &line).await?;
            if !no_follow && open {
                let watch = |after| v1::WatchEventsRequest { after, ..v1::WatchEventsRequest::default() };
                follow(&client, &watch, last.max(head), &|event| print(&line(event))).await?;
            }
            Ok(Done::text(""))
        }
    }
}

/// The last number that was written, and whether anybody still reads.
async fn write_after(
    client: &Client,
    after: u64,
    line: &dyn Fn(&v1::Event) -> String,
) -> Result<(u64, bool), ClientError> {
    let (mut last, mut open) = (after, true);
    pages(client, all_after(after), |event| {
        last = event.number;
        open = print(&line(&event));
        if open { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .await?;
    Ok((last, open))
}

fn all_after(after: u64) -> v1::ListEventsRequest {
    v1::ListEventsRequest { after, page_size: PAGE_SIZE, ..v1::ListEventsRequest::default() }
}

async fn verify_api(client: &Client, anchors: Vec<Anchor>) -> Result<Report, ClientError> {
    let mut verifier = Verifier::new(anchors);
    let mut broken = None;
    pages(client, all_after(0), |event| {
        let v1::Event { number, hash, document, .. } = event;
        broken = verifier.next(StoredEvent { number, hash, document }).err();
        if broken.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .await?;
    Ok(verifier.finish(broken))
}

fn verify_file(path: &Path, anchors: Vec<Anchor>) -> anyhow::Result<Report> {
    let place = || path.display().to_string();
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).with_context(place)?)
    };
    let mut verifier = Verifier::new(anchors);
    let report = match read_all(BufReader::new(input), &mut verifier).with_context(place)? {
        Ok(()) => verifier.finish(None),
        Err(broken) => verifier.finish(Some(broken)),
    };
    // A file that was cut to nothing must not pass for a good one.
    anyhow::ensure!(report.first > 0 || report.broken.is_some(), "{} has no events", place());
    Ok(report)
}

/// The outer error is one of reading.
fn read_all(mut input: impl BufRead, verifier: &mut Verifier) -> std::io::Result<Result<(), Break>> {
    let limit = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        input.by_ref().take(limit).read_until(b'\n', &mut text)?;
        if text.is_empty() {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let found = match parse(&text) {
            Ok(event) => verifier.next(event),
            Err(why) => Err(Break::Line { line, why }),
        };
        if found.is_err() {
            return Ok(found);
        }
    }
    Ok(Ok(()))
}

fn parse(line: &[u8]) -> Result<StoredEvent, String> {
    if line.len() >= MAX_LINE_BYTES {
        return Err(format!("longer than {MAX_LINE_BYTES} bytes"));
    }
    let value: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = value.get("number").and_then(Value::as_u64);
    match (number, text("hash"), text("document")) {
        (Some(number), Some(hash), Some(document)) => Ok(StoredEvent { number, hash, document }),
        _ => Err("it has no `number`, `hash` and `document`; export with --format jsonl".to_owned()),
    }
}

fn show(report: &Report, place: &str, hint: &str, json: bool) -> Done {
    let exit = if report.broken.is_some() { Exit::Failed } else { Exit::Done };
    let value = || {
        let broken = report.broken.as_ref();
        json!({
            "ok": broken.is_none(),
            "first": report.first,
            "last": report.last,
            "good": report.good,
            "trimmed": report.is_trimmed,
            "head": if report.last == 0 { Value::Null } else { json!(format!("{}:{}", report.last, report.head)) },
            "break": broken.map(|broken| json!({
                "kind": broken.code(), "at": broken.place(), "message": broken.to_string(),
            })),
        })
    };
    Done::either(json, value, || page(report, place, hint)).exit(exit)
}

fn page(report: &Report, place: &str, hint: &str) -> String {
    let Report { first, last, good, head, is_trimmed, broken } = report;
    let mut parts = Vec::new();
    if let Some(broken) = broken {
        let hint = if matches!(broken, Break::Gap { .. }) { hint } else { "" };
        parts.push(format!("BROKEN: {}: {}{hint}\n", clean(place), clean(&broken.to_string())));
        if *good > 0 {
            parts.push(format!("the {good} before it, {first} to {last}, are good\n"));
        }
    } else if *good == 0 {
        parts.push(format!("good: {}: no events yet\n", clean(place)));
    } else {
        parts.push(format!("good: {}: {good} events, {first} to {last}\n", clean(place)));
    }
    if *is_trimmed {
        parts.push(format!(
            "the record begins at {first}: older events are not kept. Event {first} itself is taken on trust; an anchor of \
             event {} would prove it\n",
            first - 1
        ));
    }
    if *good > 0 {
        parts.push(format!(
            "head {last}:{head}\n(keep it elsewhere: --anchor {last}:{head} proves later that nothing up to here was changed)\n"
        ));
    }
    parts.concat()
}
