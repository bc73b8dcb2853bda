//! Waiting for a decision: who may give it, how many have, and how long it may take, on standard error.
//!
//! Waiting never changes the request: whoever stops waiting leaves it pending.

use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::client::{Client, ClientError, Watch};
use super::output::{self, clean, cut, terminal_width};
use super::{Exit, view, when};
use crate::api::v1;

/// How long to wait if nobody says.
pub const DEFAULT_TIMEOUT: &str = "1h";
/// Between tries to watch again: the first, and the longest. Each is up to half as long again, by chance, so that many who
/// lost the same server do not come back at once.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Of the line on a terminal.
const TICK: Duration = Duration::from_secs(1);

pub enum Waited {
    Decided(v1::AccessRequest),
    TimedOut(v1::AccessRequest),
    Interrupted(v1::AccessRequest),
}

impl Waited {
    pub fn request(&self) -> &v1::AccessRequest {
        match self {
            Self::Decided(request) | Self::TimedOut(request) | Self::Interrupted(request) => request,
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Decided(request) => decided(request),
            Self::TimedOut(_) => Exit::StillPending,
            Self::Interrupted(_) => Exit::Interrupted,
        }
    }
}

/// How the state of a request reads as an exit status.
pub fn decided(request: &v1::AccessRequest) -> Exit {
    match request.state() {
        v1::RequestState::Approved => Exit::Done,
        v1::RequestState::Denied => Exit::Denied,
        v1::RequestState::Withdrawn | v1::RequestState::Expired => Exit::NotDecided,
        v1::RequestState::Pending => Exit::StillPending,
        v1::RequestState::Unspecified => Exit::Failed,
    }
}

fn is_pending(request: &v1::AccessRequest) -> bool {
    matches!(request.state(), v1::RequestState::Pending | v1::RequestState::Unspecified)
}

/// Waits until the request is decided, watching again when the watch breaks.
pub async fn until_decided(
    client: &Client,
    request: v1::AccessRequest,
    timeout: Duration,
) -> Result<Waited, ClientError> {
    if !is_pending(&request) {
        return Ok(Waited::Decided(request));
    }
    let mut progress = Progress::new();
    let mut last = request;
    progress.show(&last);
    // A time too long for the clock is none at all.
    let deadline = Instant::now().checked_add(timeout);
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut expired = pin!(async move {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    });
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // A channel between the two: a call that takes longer than a tick must not begin anew at each.
    let (sender, mut news) = mpsc::channel(1);
    let mut follow = pin!(Follower::new(client, &last.id).run(sender));
    let waited = loop {
        tokio::select! {
            () = &mut follow => {}
            Some(found) = news.recv() => match found? {
                News::Request(request) => {
                    last = *request;
                    if !is_pending(&last) {
                        break Waited::Decided(last);
                    }
                    progress.show(&last);
                }
                News::Lost(why) => progress.note(&format!("{why}; watching again")),
            },
            () = &mut expired => break Waited::TimedOut(last),
            _ = &mut interrupted => break Waited::Interrupted(last),
            _ = tick.tick() => progress.tick(&last),
        }
    };
    progress.end();
    match &waited {
        Waited::Decided(_) => {}
        Waited::TimedOut(last) => progress.note(&format!("gave up waiting; {}", go_on(&last.id))),
        Waited::Interrupted(last) => progress.note(&go_on(&last.id)),
    }
    Ok(waited)
}

fn go_on(id: &str) -> String {
    format!(
        "request {id} stays pending: `daypass request wait {id}` waits on, `daypass request withdraw {id}` takes it back"
    )
}

enum News {
    Request(Box<v1::AccessRequest>),
    Lost(ClientError),
}

/// A watch that comes back.
struct Follower<'a> {
    client: &'a Client,
    id: String,
    watch: Option<Watch<v1::AccessRequest>>,
    pause: Duration,
    wake: Option<Instant>,
    /// Said once for each outage.
    said: bool,
}

impl<'a> Follower<'a> {
    fn new(client: &'a Client, id: &str) -> Self {
        Self { client, id: id.to_owned(), watch: None, pause: FIRST_PAUSE, wake: None, said: false }
    }

    /// Never returns: an error is the last it says.
    async fn run(mut self, sender: mpsc::Sender<Result<News, ClientError>>) {
        loop {
            let found = self.next().await;
            let is_last = found.is_err();
            if sender.send(found).await.is_err() || is_last {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn next(&mut self) -> Result<News, ClientError> {
        loop {
            if let Some(wake) = self.wake {
                sleep_until(wake).await;
                self.wake = None;
            }
            let was_open = self.watch.is_some();
            let found = match &mut self.watch {
                Some(watch) => watch.next().await,
                None => match self.client.watch_request(v1::WatchAccessRequest { id: self.id.clone() }).await
                {
                    Ok(watch) => {
                        self.watch = Some(watch);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match found {
                Ok(Some(request)) => {
                    self.pause = FIRST_PAUSE;
                    self.said = false;
                    return Ok(News::Request(Box::new(request)));
                }
                // The server ended it, as one does that shuts down.
                Ok(None) => self.rest(),
                Err(error) if error.is_passing() || (was_open && !error.ends_a_watch()) => {
                    self.rest();
                    if !std::mem::replace(&mut self.said, true) {
                        return Ok(News::Lost(error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn rest(&mut self) {
        self.watch = None;
        let pause = self.pause.mul_f64(1.0 + fastrand::f64() / 2.0);
        self.wake = Some(Instant::now() + pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// A line that lives on a terminal; elsewhere a line whenever something has changed.
struct Progress {
    terminal: bool,
    shown: String,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: String::new() }
    }

    fn show(&mut self, request: &v1::AccessRequest) {
        if self.terminal {
            self.tick(request);
            return;
        }
        let line = format!("waiting: {}", standing(request, None));
        if line != self.shown {
            output::note(&line);
            self.shown = line;
        }
    }

    fn tick(&mut self, request: &v1::AccessRequest) {
        if !self.terminal {
            return;
        }
        let line = format!("waiting: {}", standing(request, Some(Timestamp::now())));
        let mut out = std::io::stderr().lock();
        let line = terminal_width(&out).map_or_else(|| line.clone(), |width| cut(&line, width - 1));
        // A terminal that has gone is no reason to stop waiting.
        let _ = write!(out, "\r\u{1b}[K{line}").and_then(|()| out.flush());
    }

    /// Below the line, which the next tick draws again.
    fn note(&mut self, text: &str) {
        self.end();
        output::note(&format!("daypass: {text}"));
    }

    fn end(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}

/// With the time left if there is a `now`, else with the moment, which does not change from line to line.
fn standing(request: &v1::AccessRequest, now: Option<Timestamp>) -> String {
    let mut parts = vec![format!("request {}, {}", request.id, view::tally(request))];
    if !request.approvers.is_empty() {
        parts.push(format!("{} may approve", request.approvers.join(", ")));
    }
    if let Some(end) = when::from_proto(request.approve_by) {
        parts.push(match now {
            Some(now) => format!("expires {}", when::relative(end, now)),
            None => format!("expires at {end:.0}"),
        });
    }
    clean(&parts.join("; "))
}
