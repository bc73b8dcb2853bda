//! The journal in the file: looks, commits and pages, each one transaction.
//!
//! A commit is on disk, whole, before the replica and whoever waits learn of it. Everything is read in the transaction
//! that writes, so what is decided on cannot change under it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use redb::{
    Error, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
    WriteTransaction,
};

use super::{EmbeddedStore, GRANTS, USES, blocking};
use crate::clock::Now;
use crate::grant::{Grant, GrantId, Refusal};
use crate::lock::Lock;
use crate::store::StoreError;
use crate::store::journal::{
    self, Commit, Due, Head, Index, Look, MAX_EVENTS, MAX_PAGE, Outcome, Place, Row, StoredEvent, Write,
    kept_millis, millis_down, millis_up, moment,
};
use crate::store::record::{self, GrantRecord, ReadAt, Ttl};

type Definition<K, V> = TableDefinition<'static, K, V>;

/// One entry: number, hash, and the store's clock as it was then, in milliseconds.
const HEAD: Definition<&str, (u64, &str, i64)> = TableDefinition::new("head");
const HEAD_KEY: &str = "head";
/// Number to hash and document.
const EVENTS: Definition<u64, (&str, &str)> = TableDefinition::new("events");
/// Table and id to the value and the millisecond until which it is kept.
const ROWS: Definition<(&str, &str), (&str, i64)> = TableDefinition::new("rows");
/// Lock id to its record and the millisecond of its end.
pub const LOCKS: Definition<&str, (&str, i64)> = TableDefinition::new("locks");
/// Index, millisecond and id to the millisecond until which the entry is kept.
const PLACES: Definition<(&str, i64, &str), i64> = TableDefinition::new("places");
/// Index and id to the millisecond it was entered at.
const ENTERED: Definition<(&str, &str), i64> = TableDefinition::new("entered");
const DUE: Definition<(i64, &str), ()> = TableDefinition::new("due");
/// What is due to its millisecond.
const DUE_AT: Definition<&str, i64> = TableDefinition::new("due_at");
/// The end of what is kept for ever.
const NEVER: i64 = i64::MAX;

/// What the replica is told of a commit, in its order.
enum Change {
    Given(Box<Grant>),
    Ended(GrantId),
    Locked(Box<Lock>),
    Unlocked(GrantId),
}

/// Makes the tables, so that every read finds them. The number of the last event.
pub fn prepare(transaction: &WriteTransaction) -> Result<u64, Error> {
    let tables = Tables::open(transaction)?;
    Ok(tables.head()?.0.number)
}

/// The tables of a commit.
struct Tables<'t> {
    head: Table<'t, &'static str, (u64, &'static str, i64)>,
    events: Table<'t, u64, (&'static str, &'static str)>,
    rows: Table<'t, (&'static str, &'static str), (&'static str, i64)>,
    grants: Table<'t, &'static str, &'static str>,
    uses: Table<'t, &'static str, u64>,
    locks: Table<'t, &'static str, (&'static str, i64)>,
    places: Table<'t, (&'static str, i64, &'static str), i64>,
    entered: Table<'t, (&'static str, &'static str), i64>,
    due: Table<'t, (i64, &'static str), ()>,
    due_at: Table<'t, &'static str, i64>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, Error> {
        Ok(Self {
            head: transaction.open_table(HEAD)?,
            events: transaction.open_table(EVENTS)?,
            rows: transaction.open_table(ROWS)?,
            grants: transaction.open_table(GRANTS)?,
            uses: transaction.open_table(USES)?,
            locks: transaction.open_table(LOCKS)?,
            places: transaction.open_table(PLACES)?,
            entered: transaction.open_table(ENTERED)?,
            due: transaction.open_table(DUE)?,
            due_at: transaction.open_table(DUE_AT)?,
        })
    }

    fn head(&self) -> Result<(Head, i64), Error> {
        head_of(&self.head)
    }

    fn value(&self, row: &Row, now: i64, wall: Timestamp) -> Result<Option<String>, Error> {
        value_of(row, (now, wall), &self.rows, &self.grants, &self.locks, &self.uses)
    }

    /// Writes one; of a grant, the record as [`EmbeddedStore::checked`] made it.
    fn write(&mut self, write: &Write, now: i64) -> Result<(), Error> {
        let until = |keep: Option<Duration>| keep.map_or(NEVER, |keep| now.saturating_add(kept_millis(keep)));
        match write {
            Write::Put { row, value, keep } => {
                self.rows.insert((row.table.as_str(), row.id.as_str()), (value.as_str(), until(*keep)))?;
            }
            Write::Remove(row) => {
                self.rows.remove((row.table.as_str(), row.id.as_str()))?;
            }
            Write::Enter { index, id, keep } => {
                let (index, id) = (index.name(), id.as_str());
                let known = self.entered.get((index.as_str(), id))?.map(|entered| entered.value());
                let place = known.map(|entered| (index.as_str(), entered, id));
                // One that is kept no longer is there until it is swept, and has no place to keep.
                let lasts = match place {
                    Some(place) => self.places.get(place)?.is_some_and(|until| until.value() > now),
                    None => false,
                };
                let entered = known.filter(|_| lasts).unwrap_or(now);
                if let Some(place) = place {
                    self.places.remove(place)?;
                }
                self.entered.insert((index.as_str(), id), entered)?;
                self.places.insert((index.as_str(), entered, id), until(*keep))?;
            }
            Write::Leave { index, id } => {
                let (index, id) = (index.name(), id.as_str());
                let known = self.entered.remove((index.as_str(), id))?.map(|entered| entered.value());
                if let Some(entered) = known {
                    self.places.remove((index.as_str(), entered, id))?;
                }
            }
            Write::Due { what, at } => {
                self.not_due(what)?;
                self.due_at.insert(what.as_str(), millis_up(*at))?;
                self.due.insert((millis_up(*at), what.as_str()), ())?;
            }
            Write::NotDue(what) => self.not_due(what)?,
            Write::Grant { id, record, .. } => {
                self.grants.insert(id.as_str(), record.as_str())?;
            }
            Write::EndGrant(id) => {
                self.grants.remove(id.as_str())?;
                self.uses.remove(id.as_str())?;
            }
            Write::Lock { id, record, ttl } => {
                self.locks.insert(id.as_str(), (record.as_str(), until(Some(*ttl))))?;
            }
            Write::EndLock(id) => {
                self.locks.remove(id.as_str())?;
            }
        }
        Ok(())
    }

    fn not_due(&mut self, what: &str) -> Result<(), Error> {
        let known = self.due_at.remove(what)?.map(|at| at.value());
        if let Some(at) = known {
            self.due.remove((at, what))?;
        }
        Ok(())
    }

    fn append(&mut self, events: &[StoredEvent], now: i64) -> Result<Head, Error> {
        for StoredEvent { number, hash, document } in events {
            self.events.insert(*number, (hash.as_str(), document.as_str()))?;
        }
        while self.events.len()? > MAX_EVENTS {
            self.events.pop_first()?;
        }
        let head = match events.last() {
            Some(last) => Head { number: last.number, hash: last.hash.clone() },
            None => self.head()?.0,
        };
        self.head.insert(HEAD_KEY, (head.number, head.hash.as_str(), now))?;
        Ok(head)
    }
}

fn head_of(table: &impl ReadableTable<&'static str, (u64, &'static str, i64)>) -> Result<(Head, i64), Error> {
    Ok(table.get(HEAD_KEY)?.map_or_else(
        || (Head::default(), 0),
        |head| {
            let (number, hash, clock) = head.value();
            (Head { number, hash: hash.to_owned() }, clock)
        },
    ))
}

/// What has ended is not there, whether it was swept or not.
fn value_of(
    row: &Row,
    (now, wall): (i64, Timestamp),
    rows: &impl ReadableTable<(&'static str, &'static str), (&'static str, i64)>,
    grants: &impl ReadableTable<&'static str, &'static str>,
    locks: &impl ReadableTable<&'static str, (&'static str, i64)>,
    uses: &impl ReadableTable<&'static str, u64>,
) -> Result<Option<String>, Error> {
    let lasting = |(value, until): (&str, i64)| (until > now).then(|| value.to_owned());
    let id = row.id.as_str();
    Ok(match row.table {
        journal::Table::Grants => {
            let text = grants.get(id)?.map(|text| text.value().to_owned());
            text.filter(|text| !super::has_ended(text, wall))
        }
        journal::Table::Uses => uses.get(id)?.map(|uses| uses.value().to_string()),
        journal::Table::Locks => locks.get(id)?.and_then(|lock| lasting(lock.value())),
        table => rows.get((table.as_str(), id))?.and_then(|row| lasting(row.value())),
    })
}

impl EmbeddedStore {
    /// The store's clock, in milliseconds: the machine's, but never back behind what was shown or written.
    fn clock(&self, written: i64) -> i64 {
        let wall = self.around.clock.now().wall.as_millisecond();
        let shown = self.shown_clock.fetch_max(wall.max(written), Ordering::Relaxed);
        shown.max(wall).max(written)
    }

    pub(in crate::store) async fn look(self: Arc<Self>, rows: Vec<Row>) -> Result<Look, StoreError> {
        blocking(move || self.read(|transaction| self.look_now(transaction, &rows))).await
    }

    fn look_now(&self, transaction: &ReadTransaction, rows: &[Row]) -> Result<Look, Error> {
        let (head, written) = head_of(&transaction.open_table(HEAD)?)?;
        let moments = (self.clock(written), self.around.clock.now().wall);
        let (stored, grants) = (transaction.open_table(ROWS)?, transaction.open_table(GRANTS)?);
        let (locks, uses) = (transaction.open_table(LOCKS)?, transaction.open_table(USES)?);
        let values = rows.iter().map(|row| value_of(row, moments, &stored, &grants, &locks, &uses));
        Ok(Look { head, now: moment(moments.0), values: values.collect::<Result<_, _>>()? })
    }

    pub(in crate::store) async fn commit(self: Arc<Self>, commit: Commit) -> Result<Outcome, StoreError> {
        blocking(move || self.commit_now(commit)).await
    }

    fn commit_now(&self, mut commit: Commit) -> Result<Outcome, StoreError> {
        commit.check()?;
        let wall = self.around.clock.now();
        let late =
            commit.at.map(|at| wall.wall.duration_since(at)).and_then(|late| Duration::try_from(late).ok());
        let mut changes = Vec::new();
        for write in &mut commit.writes {
            if let (Write::Grant { ttl, .. }, Some(late)) = (&mut *write, late) {
                // It ends when it was to end, however long the change took to arrive.
                match ttl.checked_sub(late).filter(|left| !left.is_zero()) {
                    Some(left) => *ttl = left,
                    None => return Ok(Outcome::Late),
                }
            }
            changes.extend(self.checked(write, wall).map_err(StoreError::Invalid)?);
        }
        let _order = self.commit_order.lock().unwrap_or_else(PoisonError::into_inner);
        for change in &changes {
            if let Change::Locked(_) = change {
                self.around.replica.check_room_for_lock()?;
            }
            let Change::Given(grant) = change else { continue };
            let held = self.around.replica.get(grant.id.as_str());
            if held.is_none_or(|held| held.subject != grant.subject) {
                self.around.replica.check_room_for(&grant.subject)?;
            }
        }
        let outcome = self.write_commit(&commit, wall.wall).map_err(StoreError::unavailable)?;
        if let Outcome::Done { head, .. } = &outcome {
            self.apply(changes);
            if !commit.is_marks() {
                self.moves.note(head.number);
            }
        }
        Ok(outcome)
    }

    /// Only grants and locks can be wrong. A file has no TTL, so a grant's record gets its end.
    fn checked(&self, write: &mut Write, now: Now) -> Result<Option<Change>, Refusal> {
        match write {
            Write::Grant { id, record, ttl } => {
                if *ttl > self.around.max_ttl {
                    return Err(Refusal::TtlTooLong);
                }
                let by_ttl = now.wall.checked_add(*ttl).unwrap_or(Timestamp::MAX);
                // What is wrong with it is for the decoder to say.
                if let Ok(mut parsed) = serde_json::from_str::<GrantRecord>(record) {
                    parsed.expires_at = Some(parsed.expires_at.map_or(by_ttl, |date| date.min(by_ttl)));
                    *record = serde_json::to_string(&parsed).map_err(|_| Refusal::NotJson)?;
                }
                let grant = self.decode(id.as_str(), record, now)?;
                Ok(Some(Change::Given(Box::new(grant))))
            }
            Write::EndGrant(id) => Ok(Some(Change::Ended(id.clone()))),
            Write::Lock { id, record, ttl } => {
                let read_at = ReadAt { sent: now, ttl: Ttl::Left(*ttl) };
                let lock = record::decode_lock(id.as_str(), record.as_bytes(), read_at)?;
                Ok(Some(Change::Locked(Box::new(lock))))
            }
            Write::EndLock(id) => Ok(Some(Change::Unlocked(id.clone()))),
            _ => Ok(None),
        }
    }

    /// The whole of a commit in one transaction, which ends unwritten unless all of it can be done.
    fn write_commit(&self, commit: &Commit, wall: Timestamp) -> Result<Outcome, Error> {
        let events = commit.chained();
        let transaction = self.database.begin_write()?;
        let head = {
            let mut tables = Tables::open(&transaction)?;
            let (head, written) = tables.head()?;
            if head != commit.seen && !commit.is_marks() {
                let Some(first) = events.first() else { return Ok(Outcome::Moved) };
                let is_ours =
                    tables.events.get(first.number)?.is_some_and(|found| found.value().0 == first.hash);
                let last = events.last().unwrap_or(first);
                let ours = Head { number: last.number, hash: last.hash.clone() };
                return Ok(if is_ours {
                    Outcome::Done { head: ours, replicas: 0, replicated: 0 }
                } else {
                    Outcome::Moved
                });
            }
            let now = self.clock(written);
            for (row, value) in &commit.unchanged {
                if tables.value(row, now, wall)? != *value {
                    return Ok(Outcome::Moved);
                }
            }
            if commit.before.is_some_and(|before| now >= millis_down(before)) {
                return Ok(Outcome::Late);
            }
            for write in &commit.writes {
                tables.write(write, now)?;
            }
            if commit.is_marks() { commit.seen.clone() } else { tables.append(&events, now)? }
        };
        transaction.commit()?;
        Ok(Outcome::Done { head, replicas: 0, replicated: 0 })
    }

    /// Locks that hold, with what time they have left.
    pub(super) fn locks(&self, now: Now) -> Result<Vec<(String, String, Duration)>, StoreError> {
        self.read(|transaction| {
            let mut locks = Vec::new();
            for entry in transaction.open_table(LOCKS)?.iter()? {
                let (id, value) = entry?;
                let (text, until) = value.value();
                let left = until.saturating_sub(now.wall.as_millisecond());
                if let Ok(left @ 1..) = u64::try_from(left) {
                    locks.push((id.value().to_owned(), text.to_owned(), Duration::from_millis(left)));
                }
            }
            Ok(locks)
        })
    }

    /// The one place where the replica learns of a commit. Under the lock of the order.
    fn apply(&self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Given(grant) => {
                    let id = grant.id.clone();
                    if let Err(error) = self.around.replica.insert(*grant) {
                        // Denied, though it is on disk: room was looked for one by one.
                        tracing::error!(grant = %id, "given, and not in use before a restart: {error}");
                    }
                }
                Change::Ended(id) => drop(self.around.replica.remove(id.as_str())),
                Change::Locked(lock) => {
                    let id = Arc::clone(&lock.id);
                    if let Err(error) = self.around.replica.insert_lock(*lock) {
                        // The replica says that it is not fresh then, which denies more than the lock would.
                        tracing::error!(lock = %id, "a lock has no room: {error}");
                    }
                }
                Change::Unlocked(id) => drop(self.around.replica.remove_lock(id.as_str())),
            }
        }
    }

    pub(in crate::store) async fn scan(
        self: Arc<Self>,
        index: &Index,
        before: Option<Place>,
        limit: usize,
    ) -> Result<Vec<Place>, StoreError> {
        let index = index.name();
        blocking(move || {
            self.read(|transaction| {
                let (_, written) = head_of(&transaction.open_table(HEAD)?)?;
                let now = self.clock(written);
                let places = transaction.open_table(PLACES)?;
                let index = index.as_str();
                // From the first place there can be to the one before, or behind the last of this index.
                let behind = format!("{index}\0");
                let end = match &before {
                    Some((entered, id)) => (index, *entered, id.as_str()),
                    None => (behind.as_str(), i64::MIN, ""),
                };
                let mut page = Vec::new();
                for entry in places.range((index, i64::MIN, "")..end)?.rev() {
                    if page.len() >= limit.min(MAX_PAGE) {
                        break;
                    }
                    let (place, until) = entry?;
                    let (_, entered, id) = place.value();
                    if until.value() > now {
                        page.push((entered, id.to_owned()));
                    }
                }
                Ok(page)
            })
        })
        .await
    }

    pub(in crate::store) async fn events(
        self: Arc<Self>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
        blocking(move || {
            self.read(|transaction| {
                let events = transaction.open_table(EVENTS)?;
                let page = events.range(first..)?.take(limit.min(MAX_PAGE)).map(|entry| {
                    let (number, event) = entry?;
                    let (hash, document) = event.value();
                    let (hash, document) = (hash.to_owned(), document.to_owned());
                    Ok(StoredEvent { number: number.value(), hash, document })
                });
                page.collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn due(self: Arc<Self>, limit: usize) -> Result<Due, StoreError> {
        blocking(move || {
            self.read(|transaction| {
                let (_, written) = head_of(&transaction.open_table(HEAD)?)?;
                let now = self.clock(written);
                let due = transaction.open_table(DUE)?;
                let entry = |entry: Result<(redb::AccessGuard<'_, _>, _), redb::StorageError>| {
                    let (key, _) = entry?;
                    let (at, what): (i64, &str) = key.value();
                    Ok::<_, Error>((what.to_owned(), moment(at)))
                };
                let until_now = due.range(..(now.saturating_add(1), ""))?;
                let what = until_now.take(limit.min(MAX_PAGE)).map(entry).collect::<Result<_, _>>()?;
                let next = due.range((now.saturating_add(1), "")..)?.next().map(entry).transpose()?;
                Ok(Due { now: moment(now), what, next: next.map(|(_, at)| at) })
            })
        })
        .await
    }

    pub(in crate::store) async fn moved(&self, past: u64) {
        self.moves.past(past).await;
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, Error>) -> Result<T, StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::unavailable)?;
        work(&transaction).map_err(StoreError::unavailable)
    }

    /// What is kept no longer leaves the file.
    pub(super) fn sweep_journal(&self, transaction: &WriteTransaction) -> Result<(), Error> {
        let mut tables = Tables::open(transaction)?;
        let now = self.clock(tables.head()?.1);
        tables.rows.retain(|_, (_, until)| until > now)?;
        tables.locks.retain(|_, (_, until)| until > now)?;
        let mut ended = Vec::new();
        for entry in tables.places.iter()? {
            let (place, until) = entry?;
            let (index, entered, id) = place.value();
            if until.value() <= now {
                ended.push((index.to_owned(), entered, id.to_owned()));
            }
        }
        for (index, entered, id) in &ended {
            tables.places.remove((index.as_str(), *entered, id.as_str()))?;
            tables.entered.remove((index.as_str(), id.as_str()))?;
        }
        Ok(())
    }
}
