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
use super::output::{Reader, clean, compact, print};
use super::settings::Connection;
use super::verify::{Anchor, Break, Leniency, Report, Verifier};
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
        /// Let a record pass whose beginning is not kept; its first document is taken on trust
        #[arg(long)]
        allow_trimmed: bool,
        /// Let a record pass that has no events
        #[arg(long)]
        allow_empty: bool,
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
        AuditCommand::Verify { file, anchors, allow_trimmed, allow_empty } => {
            let leniency = Leniency { trimmed: allow_trimmed, empty: allow_empty };
            let verifier = Verifier::new(anchors, leniency).map_err(ClientError::usage)?;
            if let Some(file) = file {
                let report = verify_file(&file, verifier)?;
                return Ok(show(&report, &file.display().to_string(), "", connection.json));
            }
            let client = Client::connect(&connection).await?;
            let report = verify_api(&client, verifier).await?;
            let hint = "; you may not see all of it: ask an auditor (`daypass whoami` says who you are)";
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
            let (last, reader) = write_after(&client, after, &line).await?;
            if !no_follow && reader == Reader::There {
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
) -> Result<(u64, Reader), ClientError> {
    let (mut last, mut reader) = (after, Reader::There);
    pages(client, all_after(after), |event| {
        last = event.number;
        reader = print(&line(&event))?;
        Ok(match reader {
            Reader::There => ControlFlow::Continue(()),
            Reader::Gone => ControlFlow::Break(()),
        })
    })
    .await?;
    Ok((last, reader))
}

fn all_after(after: u64) -> v1::ListEventsRequest {
    v1::ListEventsRequest { after, page_size: PAGE_SIZE, ..v1::ListEventsRequest::default() }
}

/// To the end that the server says the record has. An older server does not say it.
async fn verify_api(client: &Client, mut verifier: Verifier) -> Result<Report, ClientError> {
    let (mut after, mut known_head) = (0, 0);
    loop {
        let page = client.list_events(all_after(after)).await?;
        let begin = after;
        for event in page.events {
            let v1::Event { number, hash, document, .. } = event;
            if let Err(broken) = verifier.next(StoredEvent { number, hash, document }) {
                return Ok(verifier.finish(Some(broken)));
            }
            after = number;
        }
        after = after.max(page.next_after);
        if page.next_after > begin {
            continue;
        }
        let reached = verifier.reached();
        if page.last_number <= reached {
            return Ok(verifier.finish(None));
        }
        // What was there before this page was asked for, and is not on it, is missing; what is newer is on the next.
        if after == begin && known_head > reached {
            let behind = Break::Behind { last: reached, head: known_head };
            return Ok(verifier.finish(Some(behind)));
        }
        known_head = page.last_number;
    }
}

fn verify_file(path: &Path, mut verifier: Verifier) -> anyhow::Result<Report> {
    let place = || path.display().to_string();
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).with_context(place)?)
    };
    let read = read_all(BufReader::new(input), &mut verifier).with_context(place)?;
    Ok(verifier.finish(read.err()))
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
            "anchored": report.anchored,
            "head": if report.last == 0 { Value::Null } else { json!(format!("{}:{}", report.last, report.head)) },
            "break": broken.map(|broken| json!({
                "kind": broken.code(), "at": broken.place(), "message": broken.to_string(),
            })),
        })
    };
    Done::either(json, value, || page(report, place, hint)).exit(exit)
}

fn page(report: &Report, place: &str, hint: &str) -> String {
    let Report { first, last, good, head, is_trimmed, anchored, broken } = report;
    if let Some(broken) = broken {
        let unseen =
            matches!(broken, Break::Gap { .. } | Break::Trimmed { .. } | Break::Empty | Break::Behind { .. });
        let hint = if unseen { hint } else { "" };
        let fit = if *good > 0 { format!("{first} to {last} fit each other\n") } else { String::new() };
        return format!("BROKEN: {}: {}{hint}\n{fit}", clean(place), clean(&broken.to_string()));
    }
    if *good == 0 {
        return format!("no events: {}: nothing is proven\n", clean(place));
    }
    let mut parts = vec![format!("good: {}: {good} events, {first} to {last}\n", clean(place))];
    if *is_trimmed {
        parts.push(format!(
            "the record begins at {first}: what was before it is not here, and the document of event {first} is taken on \
             trust; --anchor with the hash of event {} would prove it\n",
            first - 1
        ));
    }
    parts.push(if *anchored > 0 {
        format!("up to event {anchored} it is what it was when the anchor was written down\n")
    } else {
        "without an anchor, a record that was written anew as a whole looks the same\n".to_owned()
    });
    parts.push(format!(
        "head {last}:{head}\n(keep it elsewhere: with --anchor {last}:{head} a later `audit verify` finds any change of what \
         it has of the events up to here)\n"
    ));
    parts.concat()
}
