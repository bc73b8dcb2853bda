//! Grants in Redis, shared by any number of sidecars and writers.
//!
//! The key contract is one string key per grant with a TTL; no index to keep in step. Each sidecar holds a full
//! replica, kept by `session`. Everything that speaks the Redis protocol is below this module.

mod commands;
mod connect;
mod fault;
mod follow;
mod journal;
mod keys;
mod read;
mod revoke;
mod scripts;
mod server;
mod session;
mod topology;
mod url;
mod vanished;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::ledger::Ledger;
use super::record::{self, ReadAt};
use super::{Limited, StoreError, StoredGrant, Surroundings, USE_MEMORY, Use, memory_of};
use crate::grant::GrantId;

pub use connect::{ClientCertificate, RedisTls};
pub use url::{RedisUrl, RedisUrlError};

use commands::{Commands, Patience};
use fault::{Failure, Fault};
use keys::Keys;
use read::{BATCH, Listing, ReadValue, Source};
use server::Concern;
use session::Session;
use vanished::{MAX_VANISHED, Vanished};

/// For one command of the grant API: long enough for another server to be found, short enough for whoever waits.
const COMMAND: Patience = Patience { total: Duration::from_secs(3), answer: Duration::from_secs(1) };
/// To read all grants, for a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(20);
/// In grants' longest lives, a month by default. A spent grant would have to be extended for so long, and nobody try
/// it, before its counter could be gone.
const COUNTER_LIVES: u32 = 30;
/// How often the ledger drops what has ended.
const LEDGER_SWEEP: Duration = Duration::from_secs(60);
/// Pause after a round of revocations that could not be asked for again.
const REAPPLY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub url: RedisUrl,
    /// Read for each connection; overrides the password of the URL.
    pub password_file: Option<PathBuf>,
    pub sentinel: SentinelLogin,
    pub tls: RedisTls,
    pub key_prefix: String,
    /// How old the replica may be before every answer is "cannot tell".
    pub max_staleness: Duration,
    /// A master with fewer replicas than this within [`Self::max_lag`] is not believed: it may be cut off, and
    /// replaced.
    pub require_replicas: usize,
    pub max_lag: Duration,
}

const DEFAULT_KEY_PREFIX: &str = "{jit}";
/// The longest Redis outage that access survives, and the longest time a revocation may take.
const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(2);
/// Replicas say every second that they are there; one of them may be late.
const DEFAULT_MAX_LAG: Duration = Duration::from_secs(2);

impl RedisConfig {
    /// With defaults for all that the URL does not say.
    #[must_use]
    pub fn new(url: RedisUrl) -> Self {
        Self {
            url,
            password_file: None,
            sentinel: SentinelLogin::default(),
            tls: RedisTls::default(),
            key_prefix: DEFAULT_KEY_PREFIX.to_owned(),
            max_staleness: DEFAULT_MAX_STALENESS,
            require_replicas: 0,
            max_lag: DEFAULT_MAX_LAG,
        }
    }
}

/// Sentinels have users of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentinelLogin {
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
}

#[derive(Debug)]
pub struct RedisStore {
    config: Arc<RedisConfig>,
    keys: Keys,
    around: Surroundings,
    commands: Commands,
    ledger: Arc<Ledger>,
    /// Held for a few map operations, never across an await.
    vanished: Arc<Mutex<Vanished>>,
    /// The session that keeps the replica, or was the last to do so.
    session: Mutex<Option<Arc<Session>>>,
    /// What was last reported, so that it is reported once.
    concerns: Mutex<Vec<Concern>>,
    /// History of the server in which the ledger's revocations were last asked for.
    reapplied_in: Mutex<String>,
    /// Replicas that the master had at the last heartbeat.
    replicas: AtomicUsize,
    journal: journal::Known,
}

impl RedisStore {
    /// On the runtime that is to drive its connections.
    #[must_use]
    pub fn new(config: RedisConfig, ledger: Ledger, around: Surroundings) -> Self {
        let keys = Keys::new(&config.key_prefix);
        let config = Arc::new(config);
        Self {
            commands: Commands::new(Arc::clone(&config), keys.clone()),
            config,
            keys,
            around,
            ledger: Arc::new(ledger),
            vanished: Arc::new(Mutex::new(Vanished::new(MAX_VANISHED))),
            session: Mutex::default(),
            concerns: Mutex::default(),
            reapplied_in: Mutex::default(),
            replicas: AtomicUsize::new(0),
            journal: journal::Known::default(),
        }
    }

    /// Keeps the replica in step with Redis, for ever: a lost session is followed by the next one.
    pub async fn follow(self: Arc<Self>) -> Infallible {
        follow::follow(&self).await
    }

    pub(super) async fn get(&self, id: &GrantId) -> Result<StoredGrant, StoreError> {
        let (_connections, mut source) = self.commands.exclusive(COMMAND.total).await?;
        let found = bounded(COMMAND.total, self.read(&mut source, &[self.keys.grant(id)])).await?;
        found.into_iter().next().ok_or(StoreError::NotFound)
    }

    pub(super) async fn list(&self) -> Result<Vec<StoredGrant>, StoreError> {
        let (_connections, mut source) = self.commands.exclusive(COMMAND.total).await?;
        let list = async {
            let mut listing = Listing::of(&source);
            let mut keys = Vec::new();
            while let Some(portion) = listing.next(&mut source, &self.keys).await? {
                keys.extend(portion.into_iter().filter(|key| self.keys.grant_id(key).is_some()));
            }
            // SCAN may give a key twice.
            keys.sort();
            keys.dedup();
            let mut grants = Vec::with_capacity(keys.len());
            for batch in keys.chunks(BATCH) {
                grants.extend(self.read(&mut source, batch).await?);
            }
            Ok(grants)
        };
        bounded(LIST_TIMEOUT, list).await
    }

    pub(super) async fn take_uses(
        &self,
        grants: &[Limited],
        check: &str,
        within: Duration,
    ) -> Result<Use, StoreError> {
        let mut command = redis::cmd("EVAL");
        command.arg(scripts::TAKE_USES).arg(grants.len() + 1).arg(self.keys.once(&memory_of(check, grants)));
        for limited in grants {
            command.arg(self.keys.uses(&limited.grant.id));
        }
        command.arg(millis(USE_MEMORY)).arg(millis(self.around.max_ttl * COUNTER_LIVES));
        for Limited { grant, max_uses } in grants {
            command.arg(self.keys.grant(&grant.id)).arg(&*grant.document).arg(max_uses.get());
        }
        // An answer that does not come leaves time for the same question on another connection.
        let patience = Patience { total: within, answer: within / 2 };
        let (outcome, at): (String, usize) = self.commands.run(&command, patience).await?.value;
        if outcome == "taken" {
            return Ok(Use::Taken);
        }
        let Some(Limited { grant, .. }) = at.checked_sub(1).and_then(|index| grants.get(index)) else {
            return Err(StoreError::unavailable(format!("the script answered {outcome} for grant {at}")));
        };
        let id = grant.id.clone();
        match outcome.as_str() {
            "exhausted" => Ok(Use::Exhausted(id)),
            // Also where the server's last millisecond has not passed yet.
            "gone" | "changed" if grant.lifetime.has_ended(self.around.clock.now()) => Ok(Use::Ended(id)),
            "gone" => Ok(Use::Revoked(id)),
            "changed" => {
                if let Some(session) = &*lock(&self.session) {
                    session.reread(&id);
                }
                Ok(Use::Changed)
            }
            _ => Err(StoreError::unavailable(format!("the script answered {outcome}"))),
        }
    }

    /// Tries the script on a grant that there is not: it must run when it is needed, over a connection that is there
    /// already, or a first use would spend its time on connecting.
    async fn try_uses(&self) -> Option<Concern> {
        let mut command = redis::cmd("EVAL");
        let (grant, uses) = self.keys.nobodys();
        command.arg(scripts::TAKE_USES).arg(2).arg(self.keys.once("")).arg(uses);
        command.arg(1).arg(1).arg(grant).arg("").arg(1);
        match self.commands.run::<(String, usize)>(&command, COMMAND).await {
            Err(Failure { fault: Fault::Login(_), .. }) => Some(Concern::CannotCountUses),
            // Whatever else is wrong, the session finds it too.
            Ok(_) | Err(_) => None,
        }
    }

    /// The grants among these keys; what is not a grant is left out.
    async fn read(&self, source: &mut Source, keys: &[String]) -> Result<Vec<StoredGrant>, Fault> {
        let sent = self.around.clock.now();
        let values = source.values(keys).await?;
        let stored = |(key, value): (&String, ReadValue)| {
            let ReadValue::Present { bytes, ttl } = value else { return None };
            let id = self.keys.grant_id(key)?;
            let grant = record::decode(id, &bytes, ReadAt { sent, ttl }, self.around.max_ttl).ok()?;
            let record = serde_json::from_slice(&bytes).ok()?;
            let ended = grant.lifetime.has_ended(sent);
            (!ended).then_some(StoredGrant { record, id: grant.id, expires_at: grant.lifetime.expires_at })
        };
        Ok(keys.iter().zip(values).filter_map(stored).collect())
    }

    fn begin_session(&self, session: &Arc<Session>) {
        *lock(&self.session) = Some(Arc::clone(session));
        self.commands.leave();
    }

    /// Of this session's server, each once for as long as it lasts.
    fn report_concerns(&self, concerns: &[Concern]) {
        lock(&self.concerns).retain(|known| concerns.contains(known) || *known == Concern::CannotCountUses);
        concerns.iter().for_each(|concern| self.report_concern(*concern));
        self.around.metrics.set_store_concerns(lock(&self.concerns).len());
    }

    fn report_concern(&self, concern: Concern) {
        let mut known = lock(&self.concerns);
        if !known.contains(&concern) {
            tracing::warn!(store = %self.config.url, "the server is not as it should be: {}", concern.message());
            known.push(concern);
        }
        self.around.metrics.set_store_concerns(known.len());
    }

    fn note_replicas(&self, replicas: usize) {
        self.replicas.store(replicas, Ordering::Relaxed);
    }

    /// What a new session is a reason for, beside the copy: to ask for lost revocations again, and to see that uses
    /// can be counted. And the ledger's own upkeep.
    async fn settle_in(&self, history: &str, source: &mut Source) -> Infallible {
        while *lock(&self.reapplied_in) != history {
            match self.reapply_revocations(source).await {
                Ok(()) => history.clone_into(&mut lock(&self.reapplied_in)),
                Err(error) => {
                    tracing::warn!("revocations could not be asked for again: {error}");
                    tokio::time::sleep(REAPPLY_PAUSE).await;
                }
            }
        }
        match self.try_uses().await {
            Some(concern) => self.report_concern(concern),
            None => lock(&self.concerns).retain(|known| *known != Concern::CannotCountUses),
        }
        loop {
            tokio::time::sleep(LEDGER_SWEEP).await;
            let now = self.around.clock.now().wall;
            if let Err(error) = self.with_ledger(move |ledger| ledger.unended(now)).await {
                tracing::warn!("the ledger of revocations cannot be swept: {error}");
            }
        }
    }

    /// Disk work must not hold up whoever drives connections.
    async fn with_ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ledger = Arc::clone(&self.ledger);
        tokio::task::spawn_blocking(move || work(&ledger)).await.map_err(StoreError::unavailable)?
    }
}

async fn bounded<T>(limit: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, StoreError> {
    Ok(tokio::time::timeout(limit, work).await.map_err(|_| Fault::TimedOut)??)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Failure> for StoreError {
    fn from(Failure { fault, may_be_done }: Failure) -> Self {
        match fault {
            fault if may_be_done => Self::unavailable(fault),
            Fault::Unreachable(_)
            | Fault::Link(_)
            | Fault::TimedOut
            | Fault::Moved(_)
            | Fault::Ask(_)
            | Fault::TryAgain
            | Fault::NotMaster
            | Fault::Unready(_) => Self::NotNow(fault.to_string()),
            Fault::File { .. }
            | Fault::Tls(_)
            | Fault::Login(_)
            | Fault::OutOfMemory(_)
            | Fault::NoReplicas(_)
            | Fault::Unfit(_)
            | Fault::Other(_) => Self::Refused(fault.to_string()),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Failure::from(fault).into()
    }
}
