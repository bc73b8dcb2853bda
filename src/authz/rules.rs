//! What checks are decided by, and how it changes while they are: whole, and only between two of them.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::input::Wanted;
use crate::policy::Policy;

/// A policy and what follows from it. A check takes one and keeps it until its answer.
pub struct Rules {
    pub policy: Policy,
    /// Which parts of `input` the policy reads.
    pub wanted: Wanted,
    /// Which sources the policy was compiled from.
    pub revision: Arc<str>,
}

impl Rules {
    #[must_use]
    pub fn new(policy: Policy, revision: Arc<str>) -> Self {
        Self { wanted: Wanted::by(policy.reads()), policy, revision }
    }
}

/// The rules in force.
pub struct LiveRules(ArcSwap<Rules>);

impl LiveRules {
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self(ArcSwap::from_pointee(rules))
    }

    #[must_use]
    pub fn current(&self) -> Guard<Arc<Rules>> {
        self.0.load()
    }

    /// From now on checks are decided by `rules`; those that began before keep theirs, which are returned.
    pub fn replace(&self, rules: Rules) -> Arc<Rules> {
        self.0.swap(Arc::new(rules))
    }
}
