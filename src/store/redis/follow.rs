//! One session after another, for ever: find the server, connect, copy, listen, and begin anew when anything is wrong.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connect::{self, Connection, Login, PushHandler};
use super::fault::Fault;
use super::read::{Source, Target};
use super::server::{self, Replication, joined};
use super::session::{Change, History, Session, SessionEnd};
use super::topology;
use super::url::Node;
use super::{RedisConfig, RedisStore};
use crate::clock::Now;

/// Upper bounds; with a smaller `max_staleness` both shrink, so that a lost heartbeat is noticed before it matters.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// To connect and log in. Longer than a network needs, shorter than people notice.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For each of the questions that begin a session.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
/// Short, because every sidecar denies while it lasts; with jitter, because all of them lose Redis together.
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// After a refusal that somebody has to mend: no use in asking often, and servers log it.
const REFUSED_BACKOFF: Duration = Duration::from_secs(2);
/// Of the same failure in a row, which comes about every [`MAX_BACKOFF`].
const FAILURES_PER_WARNING: u32 = 64;
/// Dates in grants are judged by this machine's clock, TTLs by the server's.
const NOTABLE_CLOCK_SKEW: Duration = Duration::from_secs(1);

/// What the last session learned for the next one.
#[derive(Debug, Default)]
struct Lessons {
    /// Cluster nodes to ask first.
    known: Vec<Node>,
    /// Where the slot is being moved to.
    target: Option<Node>,
}

pub async fn follow(store: &Arc<RedisStore>) -> Infallible {
    let mut backoff = FIRST_BACKOFF;
    let mut failures = 0_u32;
    let mut last_code = "";
    let mut lessons = Lessons::default();
    loop {
        let end = match run(store, &mut lessons).await {
            (Ok(never), _) => match never {},
            (Err(end), was_in_step) => {
                if was_in_step {
                    backoff = FIRST_BACKOFF;
                }
                end
            }
        };
        store.around.metrics.count_session_end(end.code());
        store.around.replica.set_trouble(Some(end.to_string()));
        if end.code() != last_code {
            (failures, last_code) = (0, end.code());
        }
        // The first of a kind, and then one in about half a minute: not the same line several times a second.
        if failures.is_multiple_of(FAILURES_PER_WARNING) {
            tracing::warn!(store = %store.config.url, failures, "no session with the store: {end}");
        }
        failures = failures.wrapping_add(1);
        sleep(jittered(if needs_mending(&end) { REFUSED_BACKOFF } else { backoff })).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

fn needs_mending(end: &SessionEnd) -> bool {
    matches!(end, SessionEnd::Fault(Fault::Login(_) | Fault::Unfit(_) | Fault::File { .. }))
}

/// Between half and the whole of it. Not worth a random generator: the wall clock's nanoseconds differ enough.
fn jittered(backoff: Duration) -> Duration {
    let noise = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos() % 1000);
    backoff / 2 + backoff / 2 * noise / 1000
}

/// How it ended, and whether it had been in step before.
async fn run(store: &Arc<RedisStore>, lessons: &mut Lessons) -> (Result<Infallible, SessionEnd>, bool) {
    let (changes, received) = mpsc::unbounded_channel();
    let opened = open(store, lessons, changes).await;
    let opened = match opened {
        Ok(opened) => opened,
        Err(end) => return (Err(learn(end, None, lessons)), false),
    };
    store.begin_session(&opened.session);
    let end = hold(store, &opened, received).await;
    opened.session.close();
    if matches!(end, Err(SessionEnd::Full(_))) {
        // What is left of an earlier copy would take the room that the next one needs.
        store.around.replica.clear();
        store.around.replica.forget_locks_of(opened.session.history());
    }
    let asked = opened.owner.node.clone();
    (end.map_err(|end| learn(end, Some(&asked), lessons)), opened.session.is_synced())
}

/// What the end of a session says about where to go next.
fn learn(end: SessionEnd, asked: Option<&Node>, lessons: &mut Lessons) -> SessionEnd {
    let beside =
        |node: &Node| asked.map_or_else(|| node.clone(), |asked| topology::beside(asked, node.clone()));
    lessons.target = None;
    match &end {
        SessionEnd::Fault(Fault::Moved(Some(node))) => lessons.known.insert(0, beside(node)),
        SessionEnd::Fault(Fault::Ask(Some(node))) => lessons.target = Some(beside(node)),
        _ => {}
    }
    end
}

/// A session's connections, tracked, and nothing read yet.
struct Opened {
    session: Arc<Session>,
    owner: Connection,
    target: Option<Connection>,
    slot: Option<u16>,
    /// Before tracking began: what was acknowledged before it is in the copy.
    started: Now,
}

async fn open(
    store: &Arc<RedisStore>,
    lessons: &mut Lessons,
    changes: mpsc::UnboundedSender<Change>,
) -> Result<Opened, SessionEnd> {
    let place = topology::resolve(&store.config, &store.keys, &lessons.known).await?;
    if !place.others.is_empty() {
        lessons.known = place.others;
    }
    // The histories are asked on the connections that are tracked, and the session that takes their pushes belongs to
    // the histories: so pushes find their session through a cell. None come before tracking is on.
    let cell: Cell = Arc::default();
    let owner = connect(&store.config, &place.node, &cell).await?;
    let greeting = greet(store, &owner).await?;
    store.report_concerns(&greeting.concerns);
    let mut history = greeting.replication.history;
    let target = match &lessons.target {
        Some(node) => Some(connect(&store.config, node, &cell).await?),
        None => None,
    };
    if let Some(target) = &target {
        // What is read at both belongs to the history of both.
        history = joined(&history, &greet(store, target).await?.replication.history);
    }
    let history = History { name: history.into(), vanished: Arc::clone(&store.vanished) };
    let session = Arc::new(Session::new(store.keys.clone(), store.around.clone(), history, changes));
    let _ = cell.set(Arc::clone(&session));
    let started = store.around.clock.now();
    for connection in std::iter::once(&owner).chain(&target) {
        let tracked = soon(track(&mut connection.link(), store.keys.followed_prefixes())).await;
        tracked.inspect_err(|_| session.close())?;
    }
    Ok(Opened { session, owner, target, slot: place.slot, started })
}

async fn greet(store: &RedisStore, connection: &Connection) -> Result<server::Greeting, Fault> {
    let greeting = soon(server::greet(&mut connection.link())).await?;
    if !greeting.replication.is_master {
        return Err(Fault::NotMaster);
    }
    if greeting.replication.history.is_empty() {
        return Err(Fault::Unfit(
            "the server names no master_replid, by which lost revocations are told from new grants"
                .to_owned(),
        ));
    }
    if greeting.is_cluster && !store.config.url.is_cluster() {
        // It would answer MOVED for most prefixes, and for the rest until the slot moves.
        return Err(Fault::Unfit(
            "the server is a node of a cluster; name it as redis+cluster://host:port".to_owned(),
        ));
    }
    Ok(greeting)
}

/// Filled when the session is there that its connections belong to.
type Cell = Arc<std::sync::OnceLock<Arc<Session>>>;

async fn connect(config: &RedisConfig, node: &Node, cell: &Cell) -> Result<Connection, Fault> {
    let cell = Arc::clone(cell);
    let handler: PushHandler = Box::new(move |push| {
        if let Some(session) = cell.get() {
            session.on_push(push);
        }
    });
    connect::open(config, node, Login::Store, CONNECT_TIMEOUT, Some(handler)).await
}

async fn soon<T>(answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(GREETING_TIMEOUT, answer).await.map_err(|_| Fault::TimedOut)?
}

async fn track(link: &mut MultiplexedConnection, [grants, locks]: [&str; 2]) -> Result<(), Fault> {
    let tracking = ["TRACKING", "ON", "BCAST", "PREFIX", grants, "PREFIX", locks];
    let answer: redis::RedisResult<()> = redis::cmd("CLIENT").arg(&tracking).query_async(link).await;
    answer.map_err(|error| match Fault::from(error) {
        Fault::Other(text) => Fault::Unfit(format!(
            "CLIENT TRACKING was refused, without which no revocation is heard of (a proxy in between?): {text}"
        )),
        fault => fault,
    })
}

async fn hold(
    store: &RedisStore,
    opened: &Opened,
    mut changes: mpsc::UnboundedReceiver<Change>,
) -> Result<Infallible, SessionEnd> {
    let Opened { session, owner, target, slot, started } = opened;
    let source = || Source {
        owner: owner.link(),
        target: target.as_ref().map(|target| Target { node: target.node.clone(), link: target.link() }),
        slot: *slot,
    };
    let mut for_settling = source();
    // With replicas required, freshness is the heartbeat's to give: it knows how many there are.
    let confirm = |copied: Now| {
        if store.config.require_replicas == 0 {
            session.confirm(copied);
        }
    };
    let work = async {
        let mut source = source();
        session.sync(&mut source).await?;
        confirm(*started);
        store.around.replica.set_trouble(None);
        let (grants, locks) = (store.around.replica.len(), store.around.replica.lock_count());
        let took = store.around.clock.now().boot.since(started.boot);
        tracing::info!(store = %store.config.url, server = %owner.node, grants, locks, ?took, "in step with the store");
        loop {
            session.apply(&mut source, changes.recv().await, &mut changes).await?.map(confirm);
        }
    };
    // All run on this task; whichever fails ends the session, and dropping the connections tears half-open links
    // down. Boxed, because together they are larger than a stack should carry through every poll.
    let heartbeats = Box::pin(heartbeat(store, session, &owner.node, source()));
    let settling = Box::pin(store.settle_in(session.history(), &mut for_settling));
    tokio::select! {
        end = heartbeats => end,
        end = Box::pin(work) => end,
        never = settling => match never {},
    }
}

async fn heartbeat(
    store: &RedisStore,
    session: &Session,
    node: &Node,
    mut source: Source,
) -> Result<Infallible, SessionEnd> {
    let period = HEARTBEAT_INTERVAL.min(store.config.max_staleness / 4);
    // Since when there have been too few replicas.
    let mut short_since: Option<Now> = None;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = store.around.clock.now();
        let answer = timeout(period, beat(store, &mut source)).await;
        let replication = answer.map_err(|_| SessionEnd::HeartbeatLost(period))??;
        if !replication.is_master {
            return Err(Fault::NotMaster.into());
        }
        if replication.history != session.history() {
            return Err(SessionEnd::HistoryChanged);
        }
        let RedisConfig { require_replicas: needed, max_lag, max_staleness, .. } = &*store.config;
        let good = replication.replicas_within(*max_lag);
        store.around.metrics.set_store_replicas(good);
        store.note_replicas(replication.replicas());
        if good >= *needed {
            session.confirm(sent);
            if short_since.take().is_some() {
                store.around.replica.set_trouble(None);
            }
            continue;
        }
        // A master that its replicas do not hear of may be one that they have replaced.
        let trouble = format!("the master has {good} of {needed} required replicas within {max_lag:?}");
        let since = *short_since.get_or_insert(sent);
        if store.config.url.has_sentinels() && sent.boot.since(since.boot) > *max_staleness {
            // The sentinels know by whom. If by nobody, a new session would only cost it a copy.
            let named = topology::resolve(&store.config, &store.keys, &[]).await;
            if named.is_ok_and(|place| place.node != *node) {
                return Err(Fault::NotMaster.into());
            }
            short_since = Some(store.around.clock.now());
        }
        store.around.replica.set_trouble(Some(trouble));
    }
}

/// One answer of every server that the session follows.
async fn beat(store: &RedisStore, source: &mut Source) -> Result<Replication, Fault> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    // Of whatever is there, and however large it is, PTTL reads nothing.
    pipeline.cmd("PTTL").arg(store.keys.heartbeat());
    pipeline.cmd("INFO").arg("replication").cmd("TIME");
    let sent = std::time::SystemTime::now();
    let answers: Vec<redis::RedisResult<redis::Value>> = pipeline.query_async(&mut source.owner).await?;
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or(Ok(redis::Value::Nil));
    let (read, info, time) = (next(), next(), next());
    note_clock_skew(store, time, sent);
    let info: String = redis::from_redis_value(info?).map_err(|error| Fault::Other(error.to_string()))?;
    let mut replication = Replication::parse(&info);
    match (read.map_err(Fault::from), &mut source.target) {
        (Ok(_) | Err(Fault::Ask(_)), Some(target)) => {
            let mut pipeline = redis::pipe();
            pipeline.cmd("ASKING").ignore().cmd("PTTL").arg(store.keys.heartbeat()).ignore();
            pipeline.cmd("INFO").arg("replication");
            let (info,): (String,) = pipeline.query_async(&mut target.link).await?;
            let at_target = Replication::parse(&info);
            replication.is_master &= at_target.is_master;
            replication.history = joined(&replication.history, &at_target.history);
        }
        (Ok(_), None) => {}
        (Err(fault), _) => return Err(fault),
    }
    Ok(replication)
}

/// Told and measured, never used for a decision.
fn note_clock_skew(store: &RedisStore, time: redis::RedisResult<redis::Value>, sent: std::time::SystemTime) {
    let time = time.ok().and_then(|time| redis::from_redis_value::<(u64, u64)>(time).ok());
    let Some((seconds, micros)) = time else { return };
    let server = std::time::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
    let skew = server.duration_since(sent).unwrap_or_else(|early| early.duration());
    if store.around.metrics.set_clock_skew(skew) < NOTABLE_CLOCK_SKEW && skew >= NOTABLE_CLOCK_SKEW {
        tracing::warn!(
            ?skew,
            "the store's clock differs from this machine's; dates in grants are judged by this one"
        );
    }
}
