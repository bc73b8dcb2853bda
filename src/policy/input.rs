//! `input.jit`: who calls, with which grants, and how fresh that knowledge is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use regorus::Value;

use super::document::{Document, Key, Members};
use super::json;
use crate::grant::Grant;
use crate::principal::Caller;
use crate::replica::Freshness;

/// Grants whose document a worker keeps ready. A worker sees the grants of those who are calling now, so a
/// thousand are many; beyond that the worker starts over rather than track which one is oldest.
const MAX_READY_DOCUMENTS: usize = 1024;

thread_local! {
    /// By address of the grant, which the entry keeps alive. One per thread, so that no reference count is shared.
    static READY: RefCell<HashMap<usize, (Arc<Grant>, Value)>> = RefCell::default();
}

#[must_use]
pub fn jit(
    caller: &Caller,
    active: &[Arc<Grant>],
    covering: &[&Arc<Grant>],
    freshness: Freshness,
) -> Document {
    let replica = Members::new()
        .with(Key::Fresh, Document::bool(freshness.is_fresh()))
        .with(Key::AgeMs, freshness.age().map_or(Document::NULL, age_ms))
        .build();
    let mut jit = Members::new()
        .with(
            Key::Principals,
            Document::list(caller.principals().iter().map(|p| Document::string(p.as_str()))),
        )
        .with(Key::Grants, Document::list(active.iter().map(grant_document)))
        .with(Key::Covering, Document::list(covering.iter().map(|grant| grant_document(grant))))
        .with(Key::Replica, replica);
    if let Some(subject) = caller.subject() {
        jit.set(Key::Subject, Document::string(subject.as_str()));
    }
    jit.build()
}

fn age_ms(age: std::time::Duration) -> Document {
    Document::unsigned(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// The grant whole, with its id and its effective end, whether or not its writer put them in.
fn grant_document(grant: &Arc<Grant>) -> Document {
    READY.with_borrow_mut(|ready| {
        let address = Arc::as_ptr(grant).addr();
        if let Some((_, value)) = ready.get(&address) {
            return Document(value.clone());
        }
        if ready.len() >= MAX_READY_DOCUMENTS {
            ready.clear();
        }
        let value = build_grant_document(grant);
        ready.insert(address, (Arc::clone(grant), value.clone()));
        Document(value)
    })
}

fn build_grant_document(grant: &Grant) -> Value {
    // The text was read when the grant was; an empty object keeps this total.
    let mut value = json::parse(&grant.document).unwrap_or_else(|_| Value::new_object());
    if let Ok(members) = value.as_object_mut() {
        members.insert(Value::from("id"), Value::from(grant.id.as_str()));
        members.insert(Value::from("subject"), Value::from(grant.subject.as_str()));
        members.insert(Value::from("expires_at"), Value::from(grant.lifetime.expires_at.to_string()));
    }
    value
}
