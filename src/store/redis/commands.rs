//! Commands of the grant API and of use-limited grants, over one shared connection to whoever has the keys now.
//!
//! A command that was certainly not carried out (moved, read-only, loading) goes to the next server. One that may
//! have been carried out is sent again only if its caller says that this does no harm. Nothing waits for longer than
//! its caller allows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Value};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::RedisConfig;
use super::connect::{self, Connection, Login};
use super::fault::Fault;
use super::keys::Keys;
use super::read::Source;
use super::topology::{self, Place};
use super::url::Node;

/// For a server that said "not me" or "not now" to be asked again, or for the next one to be found.
const PAUSE: Duration = Duration::from_millis(20);

/// How a command may be sent.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the caller is told that nobody knows.
    pub total: Duration,
    /// For one answer. Shorter than `total`, so that a dead connection leaves time for another one.
    pub answer: Duration,
}

#[derive(Debug)]
pub struct Commands {
    config: Arc<RedisConfig>,
    keys: Keys,
    /// Where connections are opened and driven: a check's own thread may be busy with policy for its whole limit.
    runtime: Handle,
    /// Held for a look or a replacement, never across an await.
    state: Mutex<State>,
    /// One connection is opened at a time: a server that hangs must not be met with one for every check that waits.
    opening: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    shared: Option<Arc<Connection>>,
    /// Cluster nodes to ask first the next time.
    known: Vec<Node>,
}

/// An answer, and whether an earlier attempt may have been carried out too.
#[derive(Debug)]
pub struct Answer<T> {
    pub value: T,
    pub was_repeated: bool,
}

impl Commands {
    /// On the runtime it is called on.
    pub fn new(config: Arc<RedisConfig>, keys: Keys) -> Self {
        Self { config, keys, runtime: Handle::current(), state: Mutex::default(), opening: Semaphore::new(1) }
    }

    /// Runs a command that may be carried out twice without harm, on the shared connection.
    ///
    /// # Errors
    /// The last fault, when time is up or another server would not help.
    pub async fn run<T: FromRedisValue>(
        &self,
        command: &Cmd,
        patience: Patience,
    ) -> Result<Answer<T>, Fault> {
        let attempt = |deadline| self.attempt(command, deadline);
        let (value, was_repeated) = persist(patience, attempt).await?;
        Ok(Answer { value: typed(value)?, was_repeated })
    }

    /// The same on a connection of its own, which is handed out: `WAIT` speaks of the writes of its connection, and
    /// blocks it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_apart<T: FromRedisValue>(
        &self,
        command: &Cmd,
        patience: Patience,
    ) -> Result<(Connection, Answer<T>), Fault> {
        let attempt = |deadline| self.attempt_apart(command, deadline);
        let ((connection, value), was_repeated) = persist(patience, attempt).await?;
        Ok((connection, Answer { value: typed(value)?, was_repeated }))
    }

    async fn attempt_apart(&self, command: &Cmd, deadline: Instant) -> Result<(Connection, Value), Fault> {
        let (connection, _) = self.open(None, deadline).await?;
        match answer(&mut connection.link(), command, deadline).await {
            Err(Fault::Ask(Some(target))) => {
                self.ask(command, topology::beside(&connection.node, target), deadline).await
            }
            answer => Ok((connection, answer?)),
        }
    }

    async fn attempt(&self, command: &Cmd, deadline: Instant) -> Result<Value, Fault> {
        let shared = self.shared(deadline).await?;
        let fault = match answer(&mut shared.link(), command, deadline).await {
            Ok(value) => return Ok(value),
            Err(fault) => fault,
        };
        if let Fault::Ask(Some(target)) = fault {
            let target = topology::beside(&shared.node, target);
            return self.ask(command, target, deadline).await.map(|(_, value)| value);
        }
        if fault.is_about_the_server() {
            self.discard(&shared, &fault);
        }
        Err(fault)
    }

    /// Sends the command to where a slot is being moved to, which takes it only after `ASKING`.
    async fn ask(
        &self,
        command: &Cmd,
        target: Node,
        deadline: Instant,
    ) -> Result<(Connection, Value), Fault> {
        let (connection, _) = self.open(Some(target), deadline).await?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").ignore().add_command(command.clone());
        let mut link = connection.link();
        let answer = timeout_at(deadline, pipeline.query_async::<(Value,)>(&mut link)).await;
        let (value,) = answer.map_err(|_| Fault::TimedOut)??;
        Ok((connection, value))
    }

    /// A connection of one's own to whoever has the keys, for what takes long.
    ///
    /// # Errors
    /// Nobody has the keys, or cannot be reached.
    pub async fn exclusive(&self, limit: Duration) -> Result<(Connection, Source), Fault> {
        let (connection, place) = self.open(None, Instant::now() + limit).await?;
        let source = Source { owner: connection.link(), target: None, slot: place.slot };
        Ok((connection, source))
    }

    async fn shared(&self, deadline: Instant) -> Result<Arc<Connection>, Fault> {
        if let Some(shared) = self.current() {
            return Ok(shared);
        }
        let turn = timeout_at(deadline, self.opening.acquire()).await.map_err(|_| Fault::TimedOut)?;
        let _turn = turn.map_err(|error| Fault::Other(error.to_string()))?;
        // Whoever had the turn before may have opened it.
        if let Some(shared) = self.current() {
            return Ok(shared);
        }
        let (connection, place) = self.open(None, deadline).await?;
        let mut state = self.state();
        state.known.clone_from(&place.others);
        let shared = Arc::new(connection);
        state.shared = Some(Arc::clone(&shared));
        Ok(shared)
    }

    /// To `node`, or to whoever has the keys.
    async fn open(&self, node: Option<Node>, deadline: Instant) -> Result<(Connection, Place), Fault> {
        let (config, keys) = (Arc::clone(&self.config), self.keys.clone());
        let known = self.state().known.clone();
        let limit = deadline.saturating_duration_since(Instant::now());
        let opened = self.runtime.spawn(async move {
            let place = match node {
                Some(node) => Place { node, slot: None, others: Vec::new() },
                None => topology::resolve(&config, &keys, &known).await?,
            };
            let connection = connect::open(&config, &place.node, Login::Store, limit, None).await?;
            Ok((connection, place))
        });
        let opened = timeout_at(deadline, opened).await.map_err(|_| Fault::TimedOut)?;
        opened.map_err(|error| Fault::Other(error.to_string()))?
    }

    fn current(&self) -> Option<Arc<Connection>> {
        self.state().shared.clone()
    }

    fn discard(&self, shared: &Arc<Connection>, fault: &Fault) {
        let mut state = self.state();
        if let Fault::Moved(Some(owner)) = fault {
            state.known.insert(0, topology::beside(&shared.node, owner.clone()));
        }
        if state.shared.as_ref().is_some_and(|current| Arc::ptr_eq(current, shared)) {
            state.shared = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attempt after attempt, while another server may help and there is time. Also says whether an earlier attempt may
/// have been carried out.
async fn persist<T, A: Future<Output = Result<T, Fault>>>(
    patience: Patience,
    attempt: impl Fn(Instant) -> A,
) -> Result<(T, bool), Fault> {
    let deadline = Instant::now() + patience.total;
    let mut was_repeated = false;
    loop {
        let fault = match attempt(deadline.min(Instant::now() + patience.answer)).await {
            Ok(value) => return Ok((value, was_repeated)),
            Err(fault) => fault,
        };
        // A second silence is no accident: then the caller learns that nobody knows.
        let is_hopeless = was_repeated && fault.is_unknown();
        let is_worth_it = fault.is_about_the_server() || matches!(fault, Fault::TryAgain);
        if !is_worth_it || is_hopeless || Instant::now() + PAUSE >= deadline {
            return Err(fault);
        }
        was_repeated |= fault.is_unknown();
        sleep(PAUSE).await;
    }
}

async fn answer(link: &mut MultiplexedConnection, command: &Cmd, deadline: Instant) -> Result<Value, Fault> {
    let answer = timeout_at(deadline, link.send_packed_command(command)).await;
    let value = answer.map_err(|_| Fault::TimedOut)??;
    Ok(value.extract_error()?)
}

fn typed<T: FromRedisValue>(value: Value) -> Result<T, Fault> {
    redis::from_redis_value(value).map_err(|error| Fault::Other(error.to_string()))
}
