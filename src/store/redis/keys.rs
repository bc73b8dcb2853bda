//! Every key daypass has in Redis. The prefix holds a hash tag, `{jit}`, which puts all keys of a tenant into one
//! cluster slot, so that a script may touch a grant, its counter and the audit stream together.

use crate::grant::GrantId;

#[derive(Debug, Clone)]
pub struct Keys {
    grant_prefix: String,
    lock_prefix: String,
    pattern: String,
    uses_prefix: String,
    once_prefix: String,
    heartbeat: String,
    audit: String,
    audit_number: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self {
            grant_prefix: format!("{prefix}:grant:"),
            lock_prefix: format!("{prefix}:lock:"),
            // Both in one walk over the server's keys, and hardly anything else.
            pattern: format!("{prefix}:[gl][ro]*"),
            uses_prefix: format!("{prefix}:used:"),
            once_prefix: format!("{prefix}:once:"),
            heartbeat: format!("{prefix}:hb"),
            audit: format!("{prefix}:audit"),
            audit_number: format!("{prefix}:audit:n"),
        }
    }

    /// What invalidations are asked for. Counters and the audit stream lie outside, or every use would be pushed to
    /// every sidecar.
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

    pub fn audit(&self) -> &str {
        &self.audit
    }

    /// Numbers the entries of the audit stream, so that a gap shows.
    pub fn audit_number(&self) -> &str {
        &self.audit_number
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
