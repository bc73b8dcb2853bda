//! `daypass events`: what happened, for people. Also how events are fetched, page by page.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::output::{PrintError, Reader, Table, column, compact, note, open_row, print, width};
use super::settings::Connection;
use super::{Done, json, when};
use crate::api::v1;

/// Documents may be long: a hundred of the longest are 25 MiB.
const PAGE_SIZE: u32 = 100;
/// Between tries to follow again after the connection was lost, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Columns of a table that grows.
const WIDTHS: [usize; 7] = [8, 20, 18, 16, 16, 24, 0];

#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    filter: Filter,
    /// Go on with each event as it happens
    #[arg(long, short = 'f')]
    follow: bool,
    /// Those after this number
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Only the last so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    last: u32,
}

#[derive(Debug, Clone, Default, Args)]
struct Filter {
    /// Only of this type, such as grant.revoked, or of this family: grant.*
    #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
    kind: String,
    /// Only about this principal
    #[arg(long, value_name = "PRINCIPAL", default_value = "", hide_default_value = true)]
    subject: String,
    /// Only about this request
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request: String,
    /// Only about this grant
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    grant: String,
    /// Only about this entitlement
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    entitlement: String,
}

impl Filter {
    fn list(&self, after: u64) -> v1::ListEventsRequest {
        v1::ListEventsRequest {
            after,
            page_size: PAGE_SIZE,
            r#type: self.kind.clone(),
            subject: self.subject.clone(),
            request: self.request.clone(),
            grant: self.grant.clone(),
            entitlement: self.entitlement.clone(),
        }
    }

    fn watch(&self, after: u64) -> v1::WatchEventsRequest {
        v1::WatchEventsRequest {
            after,
            r#type: self.kind.clone(),
            subject: self.subject.clone(),
            request: self.request.clone(),
            grant: self.grant.clone(),
            entitlement: self.entitlement.clone(),
        }
    }
}

pub async fn execute(args: EventsArgs) -> anyhow::Result<Done> {
    let EventsArgs { connection, filter, follow, after, last } = args;
    let client = Client::connect(&connection).await?;
    let json = connection.json;
    // Taken before the list, so that what happens meanwhile is not lost.
    let head = if follow && after.is_none() { last_number(&client).await? } else { 0 };
    let found = recent(&client, &filter, after, last).await?;
    let from = found.back().map_or(0, |event| event.number).max(head).max(after.unwrap_or(0));
    if !follow {
        return Ok(Done::either(
            json,
            || Value::Array(found.iter().map(json::event).collect()),
            || table(&found),
        ));
    }
    let show = |event: &v1::Event| {
        print(&if json { compact(&json::event(event)) } else { open_row(&row(event), WIDTHS, width()) })
    };
    for event in &found {
        if show(event)? == Reader::Gone {
            return Ok(Done::text(""));
        }
    }
    self::follow(&client, &|after| filter.watch(after), from, &show).await?;
    Ok(Done::text(""))
}

/// What is named after `after`, or the last that match.
async fn recent(
    client: &Client,
    filter: &Filter,
    after: Option<u64>,
    last: u32,
) -> Result<VecDeque<v1::Event>, ClientError> {
    let enough = usize::try_from(last).unwrap_or(usize::MAX);
    let is_all =
        filter.list(0) == v1::ListEventsRequest { page_size: PAGE_SIZE, ..v1::ListEventsRequest::default() };
    let from = match after {
        Some(after) => after,
        // Events that match may lie anywhere.
        None if !is_all => 0,
        None => last_number(client).await?.saturating_sub(u64::from(last)),
    };
    let mut found = VecDeque::new();
    pages(client, filter.list(from), |event| {
        found.push_back(event);
        // What follows `after` is wanted from its beginning, as one pages.
        if after.is_none() && found.len() > enough {
            found.pop_front();
        }
        let is_enough = after.is_some() && found.len() >= enough;
        Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .await?;
    Ok(found)
}

/// Every event after the one that is asked for, in order, until there is no more.
pub async fn pages(
    client: &Client,
    mut ask: v1::ListEventsRequest,
    mut each: impl FnMut(v1::Event) -> Result<ControlFlow<()>, PrintError>,
) -> Result<(), ClientError> {
    loop {
        let page = client.list_events(ask.clone()).await?;
        for event in page.events {
            if each(event)?.is_break() {
                return Ok(());
            }
        }
        // A page that leads back would be read for ever.
        if page.next_after <= ask.after {
            return Ok(());
        }
        ask.after = page.next_after;
    }
}

/// The number of the last event the caller may see; 0 if there is none. Found by halving, as only what comes after a number
/// can be asked for.
pub async fn last_number(client: &Client) -> Result<u64, ClientError> {
    let next = async |after: u64| {
        let mut found = None;
        let ask = v1::ListEventsRequest { after, page_size: 1, ..v1::ListEventsRequest::default() };
        pages(client, ask, |event| {
            found = Some(event.number);
            Ok(ControlFlow::Break(()))
        })
        .await
        .map(|()| found)
    };
    let Some(mut low) = next(0).await? else { return Ok(0) };
    let mut step = 1u64;
    // `low` is an event; the first that is none lies below `high`.
    let mut high = loop {
        let probe = low.saturating_add(step);
        match next(probe).await? {
            Some(number) => low = number.max(probe),
            None => break probe,
        }
        step = step.saturating_mul(2);
        if probe == u64::MAX {
            return Ok(low);
        }
    };
    while low < high {
        let middle = low + (high - low) / 2;
        match next(middle).await? {
            Some(number) => low = number.max(middle + 1),
            None => high = middle,
        }
    }
    Ok(low)
}

/// Each event as it happens; comes back when the connection is lost, and goes on where it was. Ends when `show` says that
/// nobody reads any more.
pub async fn follow(
    client: &Client,
    watch: &dyn Fn(u64) -> v1::WatchEventsRequest,
    from: u64,
    show: &dyn Fn(&v1::Event) -> Result<Reader, PrintError>,
) -> Result<(), ClientError> {
    let mut last = from;
    let mut pause = FIRST_PAUSE;
    let mut said = false;
    loop {
        let broken = match client.watch_events(watch(last)).await {
            Err(error) if !error.is_passing() => return Err(error),
            Err(error) => Some(error),
            Ok(mut stream) => loop {
                match stream.next().await {
                    // One that was shown already, as after `from` 0 there is no "from now on" twice.
                    Ok(Some(event)) if event.number <= last => {}
                    Ok(Some(event)) => {
                        last = event.number;
                        (pause, said) = (FIRST_PAUSE, false);
                        if show(&event)? == Reader::Gone {
                            return Ok(());
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
        };
        match broken {
            Some(error) if error.ends_a_watch() => return Err(error),
            Some(error) if !std::mem::replace(&mut said, true) => {
                note(&format!("daypass: {error}; following again"));
            }
            _ => {}
        }
        tokio::time::sleep(pause.mul_f64(1.0 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What an event is about, beside its subject.
fn about(event: &v1::Event) -> String {
    let parts = [
        ("request", &event.request),
        ("grant", &event.grant),
        ("lock", &event.lock),
        ("entitlement", &event.entitlement),
    ];
    let named = parts.iter().filter(|(_, id)| !id.is_empty()).map(|(name, id)| format!("{name} {id}"));
    let flag = event.break_glass.then(|| "break-glass".to_owned());
    flag.into_iter().chain(named).collect::<Vec<_>>().join(", ")
}

fn row(event: &v1::Event) -> [String; 7] {
    let actor = if event.actor.is_empty() { "-" } else { &event.actor };
    [
        event.number.to_string(),
        when::from_proto(event.time).map(|time| format!("{time:.0}")).unwrap_or_default(),
        event.r#type.clone(),
        actor.to_owned(),
        event.subject.clone(),
        about(event),
        event.reason.clone(),
    ]
}

fn table(events: &VecDeque<v1::Event>) -> String {
    let now = Timestamp::now();
    let mut table = Table::new([
        column("NUMBER", 9),
        column("TIME", 4),
        column("TYPE", 8),
        column("BY", 6),
        column("SUBJECT", 5),
        column("ABOUT", 2),
        column("REASON", 1),
    ]);
    for event in events {
        let [number, _, kind, actor, subject, about, reason] = row(event);
        table.row([number, when::short(event.time, now), kind, actor, subject, about, reason]);
    }
    table.render(width(), "no events")
}
