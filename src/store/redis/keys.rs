//! Every key daypass has in Redis. The prefix holds a hash tag, `{jit}`, which puts all keys of a tenant into one
//! cluster slot, so that a script may touch a grant, the journal and everything else together.

use crate::grant::GrantId;
use crate::store::journal::{Index, Row, Table};

#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
    grant_prefix: String,
    lock_prefix: String,
    pattern: String,
    uses_prefix: String,
    once_prefix: String,
    heartbeat: String,
    head: String,
    events: String,
    due: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            grant_prefix: format!("{prefix}:{}:", Table::Grants.as_str()),
            lock_prefix: format!("{prefix}:{}:", Table::Locks.as_str()),
            // Both in one walk over the server's keys, and hardly anything else.
            pattern: format!("{prefix}:[gl][ro]*"),
            uses_prefix: format!("{prefix}:used:"),
            once_prefix: format!("{prefix}:once:"),
            heartbeat: format!("{prefix}:hb"),
            head: format!("{prefix}:head"),
            events: format!("{prefix}:events"),
            due: format!("{prefix}:due"),
        }
    }

    /// What invalidations are asked for. Counters and the journal lie outside it, or every use and every event would
    /// be pushed to every sidecar.
    pub fn followed_prefixes(&self) -> [&str; 2] {
        [&self.grant_prefix, &self.lock_prefix]
    }

    /// What keys are listed by. [`Self::is_followed`] has the last word.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    pub fn grant_prefix(&self) -> &str {
        &self.grant_prefix
    }

    pub fn lock_prefix(&self) -> &str {
        &self.lock_prefix
    }

    pub fn grant(&self, id: &GrantId) -> String {
        format!("{}{id}", self.grant_prefix)
    }

    pub fn lock(&self, id: &GrantId) -> String {
        self.table_row(Table::Locks, id.as_str())
    }

    pub fn row(&self, row: &Row) -> String {
        self.table_row(row.table, &row.id)
    }

    fn table_row(&self, table: Table, id: &str) -> String {
        format!("{}:{}:{id}", self.prefix, table.as_str())
    }

    /// A sorted set: ids by the millisecond they were entered at.
    pub fn index(&self, index: &Index) -> String {
        format!("{}:index:{}", self.prefix, index.name())
    }

    /// Beside an index: those of its ids that are not kept for ever, by the millisecond that they are kept until.
    pub fn index_ends(&self, index: &Index) -> String {
        format!("{}:until:{}", self.prefix, index.name())
    }

    /// How many uses of a grant were taken.
    pub fn uses(&self, id: &GrantId) -> String {
        format!("{}{id}", self.uses_prefix)
    }

    /// A grant's key, and its counter's, that no grant can have: the id is not one.
    pub fn nobodys(&self) -> (String, String) {
        (format!("{}:", self.grant_prefix), format!("{}:", self.uses_prefix))
    }

    /// That a use was taken for a check, in case the same check asks again. `check` is text of our own making.
    pub fn once(&self, check: &str) -> String {
        format!("{}{check}", self.once_prefix)
    }

    /// Read by the heartbeat. Need not exist: what counts is that a *keyed* command is answered, since a cluster
    /// that lost its majority still answers PING.
    pub fn heartbeat(&self) -> &str {
        &self.heartbeat
    }

    /// Where the journal ends: number, hash, and the store's clock as it was then.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// A stream: the journal's events. An entry's id is its number, `<number>-0`.
    pub fn events(&self) -> &str {
        &self.events
    }

    /// A sorted set: what is to be looked at, by the millisecond.
    pub fn due(&self) -> &str {
        &self.due
    }

    pub fn grant_id<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.grant_prefix)
    }
    pub fn lock_id<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.lock_prefix)
    }

    pub fn is_followed(&self, key: &str) -> bool {
        self.grant_id(key).or_else(|| self.lock_id(key)).is_some()
    }
}
