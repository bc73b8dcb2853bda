//! Commands of the grant API and of use-limited grants, over one shared connection to whoever has the keys now.
//!
//! A command that was certainly not carried out (moved, read-only, loading) goes to the next server. One that may
//! have been carried out is sent once more, so every command here can be carried out twice without harm. Nothing waits
//! for longer than its caller allows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::RedisConfig;
use super::connect::{self, Connection, Login};
use super::fault::{Failure, Fault};
use super::keys::Keys;
use super::read::{Source, Target};
use super::topology::{self, Place};
use super::url::Node;

/// For a server that said "not me" or "not now" to be asked again, or for the next one to be found.
const PAUSE: Duration = Duration::from_millis(20);
/// To find whoever has the keys, and to connect. A check that cannot wait so long leaves; the connection is there for
/// the next one.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// How a command may be sent.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the caller is told that nobody knows.
    pub total: Duration,
    /// For one answer. Shorter than `total`, so that a dead connection leaves time for another one.
    pub answer: Duration,
}

/// An answer, and whether an earlier attempt may have been carried out too.
#[derive(Debug)]
pub struct Answer<T> {
    pub value: T,
    pub was_repeated: bool,
}

#[derive(Debug)]
pub struct Commands {
    link: Arc<Link>,
    /// Where connections are opened and driven: a check's own thread may be busy with policy for its whole limit.
    runtime: Handle,
}

/// What outlives a caller that could not wait.
#[derive(Debug)]
struct Link {
    config: Arc<RedisConfig>,
    keys: Keys,
    /// Held for a look or a replacement, never across an await.
    state: Mutex<State>,
    /// One connection is opened at a time, by whoever has the permit: a server that hangs must not be met with one for
    /// every check that waits.
    opening: Arc<Semaphore>,
    /// The others wait for the outcome.
    opened: Notify,
}

#[derive(Debug, Default)]
struct State {
    shared: Option<Arc<Connection>>,
    /// Counts what made a connection a stranger's: one that was begun before must not be kept after.
    generation: u64,
    /// Cluster nodes to ask first the next time.
    known: Vec<Node>,
}

impl Commands {
    /// On the runtime it is called on.
    pub fn new(config: Arc<RedisConfig>, keys: Keys) -> Self {
        let opening = Arc::new(Semaphore::new(1));
        let link = Link { config, keys, state: Mutex::default(), opening, opened: Notify::new() };
        Self { link: Arc::new(link), runtime: Handle::current() }
    }

    /// Runs a command on the shared connection.
    ///
    /// # Errors
    /// The last fault, when time is up or another server would not help.
    pub async fn run<T: FromRedisValue>(
        &self,
        command: &Cmd,
        patience: Patience,
    ) -> Result<Answer<T>, Failure> {
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
    ) -> Result<(Connection, Answer<T>), Failure> {
        let attempt = |deadline| self.attempt_apart(command, deadline);
        let ((connection, value), was_repeated) = persist(patience, attempt).await?;
        Ok((connection, Answer { value: typed(value)?, was_repeated }))
    }

    /// A connection of one's own to whoever has the keys, for what takes long; while a slot is being moved, to both.
    ///
    /// # Errors
    /// Nobody has the keys, or cannot be reached.
    pub async fn exclusive(&self, limit: Duration) -> Result<(Vec<Connection>, Source), Fault> {
        let deadline = Instant::now() + limit;
        let (connection, place) = self.open(None, deadline).await?;
        let mut source = Source { owner: connection.link(), target: None, slot: place.slot };
        let mut connections = vec![connection];
        // A key that there cannot be is elsewhere if any key may be.
        let ask = redis::cmd("PTTL").arg(self.link.keys.nobodys().0).take();
        match answer(&mut source.owner, &ask, deadline).await {
            Err(Fault::Ask(Some(node))) => {
                let node = topology::beside(&connections[0].node, node);
                let (connection, _) = self.open(Some(node.clone()), deadline).await?;
                source.target = Some(Target { node, link: connection.link() });
                connections.push(connection);
            }
            Ok(_) => {}
            Err(fault) => return Err(fault),
        }
        Ok((connections, source))
    }

    /// The grants are followed at another server, or in another history of it: what is counted must be counted there.
    pub fn leave(&self) {
        let mut state = self.link.state();
        state.generation += 1;
        state.shared = None;
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
            self.link.discard(&shared, &fault);
        }
        Err(fault)
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

    async fn shared(&self, deadline: Instant) -> Result<Arc<Connection>, Fault> {
        // Registered before the look, so that an outcome between look and wait is not missed.
        let opened = self.link.opened.notified();
        let mut opened = std::pin::pin!(opened);
        opened.as_mut().enable();
        if let Some(shared) = self.link.state().shared.clone() {
            return Ok(shared);
        }
        let late = || Fault::Unreachable("no connection in time".to_owned());
        if let Ok(turn) = Arc::clone(&self.link.opening).try_acquire_owned() {
            return arrived(deadline, self.runtime.spawn(Arc::clone(&self.link).share(turn))).await;
        }
        timeout_at(deadline, opened).await.map_err(|_| late())?;
        self.link.state().shared.clone().ok_or_else(late)
    }

    /// To `node`, or to whoever has the keys.
    async fn open(&self, node: Option<Node>, deadline: Instant) -> Result<(Connection, Place), Fault> {
        let link = Arc::clone(&self.link);
        let opened = self.runtime.spawn(async move { link.open(node).await });
        arrived(deadline, opened).await
    }
}

/// Nothing was sent yet: whoever cannot wait for the connection knows that nothing was done.
async fn arrived<T>(
    deadline: Instant,
    opened: tokio::task::JoinHandle<Result<T, Fault>>,
) -> Result<T, Fault> {
    let late = || Fault::Unreachable("no connection in time".to_owned());
    let opened = timeout_at(deadline, opened).await.map_err(|_| late())?;
    opened.map_err(|error| Fault::Other(error.to_string()))?
}

impl Link {
    /// Opens the connection that all share. Goes on when whoever asked for it cannot wait any longer.
    async fn share(self: Arc<Self>, turn: OwnedSemaphorePermit) -> Result<Arc<Connection>, Fault> {
        let generation = self.state().generation;
        let opened = self.open(None).await.map(|(connection, _)| Arc::new(connection));
        let opened = opened.and_then(|shared| self.install(shared, generation));
        drop(turn);
        self.opened.notify_waiters();
        opened
    }

    fn install(&self, shared: Arc<Connection>, generation: u64) -> Result<Arc<Connection>, Fault> {
        let mut state = self.state();
        if state.generation != generation {
            return Err(Fault::Unreachable("the store has moved meanwhile".to_owned()));
        }
        state.shared = Some(Arc::clone(&shared));
        Ok(shared)
    }

    async fn open(&self, node: Option<Node>) -> Result<(Connection, Place), Fault> {
        let opened = async {
            let known = self.state().known.clone();
            let place = if let Some(node) = node {
                Place { node, slot: None, others: Vec::new() }
            } else {
                let place = topology::resolve(&self.config, &self.keys, &known).await?;
                self.state().known.clone_from(&place.others);
                place
            };
            let connection =
                connect::open(&self.config, &place.node, Login::Store, OPEN_TIMEOUT, None).await?;
            Ok((connection, place))
        };
        let late = |_| Fault::Unreachable("no connection in time".to_owned());
        tokio::time::timeout(OPEN_TIMEOUT, opened).await.map_err(late)?
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
) -> Result<(T, bool), Failure> {
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
        was_repeated |= fault.is_unknown();
        // An attempt with next to no time would end in silence, and turn a plain refusal into "nobody knows".
        let has_time = Instant::now() + PAUSE + patience.answer / 4 < deadline;
        if !is_worth_it || is_hopeless || !has_time {
            return Err(Failure { fault, may_be_done: was_repeated });
        }
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What comes of attempts that end like this, one after the other: how many there were, and whether it may be done.
    async fn of(faults: Vec<Fault>) -> (usize, Result<bool, (&'static str, bool)>) {
        let total = faults.len();
        let faults = RefCell::new(faults.into_iter());
        let attempt = |_| {
            let fault = faults.borrow_mut().next();
            async move { fault.map_or(Ok(()), Err) }
        };
        let patience = Patience { total: Duration::from_secs(1), answer: Duration::from_secs(1) };
        let outcome = persist(patience, attempt).await;
        let outcome = outcome
            .map(|((), was_repeated)| was_repeated)
            .map_err(|failure| (failure.fault.code(), failure.may_be_done));
        (total - faults.borrow().len(), outcome)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_is_sent_and_what_may_be_done_is_said_to_be() {
        let gone = || Fault::Unreachable(String::new());
        let lost = || Fault::Link(String::new());
        assert_eq!(of(vec![]).await, (0, Ok(false)));
        assert_eq!(of(vec![gone(), gone(), Fault::NotMaster]).await, (3, Ok(false)));
        assert_eq!(of(vec![Fault::TimedOut]).await, (1, Ok(true)));
        assert_eq!(of(vec![lost(), gone(), Fault::TimedOut]).await, (3, Err(("timeout", true))));
        let refused = Fault::OutOfMemory(String::new());
        assert_eq!(of(vec![lost(), refused]).await, (2, Err(("out_of_memory", true))));
        assert_eq!(of(vec![Fault::Login(String::new())]).await, (1, Err(("login", false))));
        let never = std::iter::repeat_with(gone).take(1000).collect();
        assert_eq!(of(never).await.1, Err(("unreachable", false)));
    }
}
