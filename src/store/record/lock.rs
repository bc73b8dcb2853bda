//! The lock as JSON. As strict as the grant, with the opposite consequence: what cannot be read locks everything.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{MAX_VALUE_BYTES, ReadAt, Ttl, VERSION, given};
use crate::grant::{GrantId, Refusal};
use crate::lock::{self, Lock, LockTarget};

/// One lock as it is written. Field by field the documentation is in `docs/grant-key.md`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockRecord {
    pub v: u64,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub entitlement: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub everything: Option<bool>,
    pub message: String,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Reads the value of the key of lock `id`.
///
/// # Errors
/// The first reason for which this cannot be read.
pub fn decode_lock(id: &str, value: &[u8], read_at: ReadAt) -> Result<Lock, Refusal> {
    id.parse::<GrantId>().map_err(|_| Refusal::BadId)?;
    if value.len() > MAX_VALUE_BYTES {
        return Err(Refusal::TooLarge);
    }
    let text = std::str::from_utf8(value).map_err(|_| Refusal::NotJson)?;
    let record = parse(text)?;
    if record.id.as_deref().is_some_and(|own| own != id) {
        return Err(Refusal::BadId);
    }
    let lifetime = lock::lifetime(read_at.sent, left(read_at.ttl), record.expires_at);
    Ok(Lock::new(id, record.target()?, &record.message, lifetime))
}

/// As [`decode_lock`], and if that fails, what stands in its place: a lock on everything.
#[must_use]
pub fn read_lock(id: &str, key: &str, value: &[u8], read_at: ReadAt) -> (Lock, Option<Refusal>) {
    match decode_lock(id, value, read_at) {
        Ok(lock) => (lock, None),
        Err(refusal) => {
            let lifetime = lock::lifetime(read_at.sent, left(read_at.ttl), None);
            (Lock::unreadable(id, key, refusal.code(), lifetime), Some(refusal))
        }
    }
}

fn left(ttl: Ttl) -> Option<Duration> {
    match ttl {
        Ttl::None => None,
        Ttl::Left(left) => Some(left),
    }
}

fn parse(text: &str) -> Result<LockRecord, Refusal> {
    let error = match serde_json::from_str::<LockRecord>(text) {
        Ok(record) if record.v == VERSION => return Ok(record),
        Ok(_) => return Err(Refusal::BadVersion),
        Err(error) => error,
    };
    let Ok(Value::Object(members)) = serde_json::from_str::<Value>(text) else {
        return Err(Refusal::NotJson);
    };
    if members.get("v").and_then(Value::as_u64) != Some(VERSION) {
        return Err(Refusal::BadVersion);
    }
    if error.to_string().starts_with("unknown field") {
        Err(Refusal::UnknownField)
    } else {
        Err(Refusal::BadField)
    }
}

impl LockRecord {
    /// # Errors
    /// There is no target, or more than one, or it could never match.
    pub fn target(&self) -> Result<LockTarget, Refusal> {
        match (&self.principal, &self.entitlement, self.everything) {
            (Some(name), None, None) => {
                name.parse().map(LockTarget::Principal).map_err(|_| Refusal::BadSubject)
            }
            (None, Some(name), None) if !name.is_empty() => Ok(LockTarget::Entitlement(name.as_str().into())),
            (None, None, Some(true)) => Ok(LockTarget::Everything),
            _ => Err(Refusal::BadField),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::testing::NOW;

    const HOUR: Duration = Duration::from_secs(3600);

    fn read(value: &str) -> Result<Lock, Refusal> {
        decode_lock("l1", value.as_bytes(), ReadAt { sent: NOW, ttl: Ttl::Left(HOUR) })
    }

    #[test]
    fn reads_each_target_and_every_field() {
        let of = |value: &str| {
            let lock = read(value).unwrap();
            (lock.target, lock.lifetime.remaining(NOW), lock.message.to_string())
        };
        let (target, left, message) =
            of(r#"{"v":1,"id":"l1","principal":"user:x","message":"m","created_by":"user:root",
                "created_at":"1970-01-01T00:00:00Z","expires_at":"1970-01-01T00:30:00Z"}"#);
        assert_eq!(target, LockTarget::Principal("user:x".parse().unwrap()));
        assert_eq!((left, message.as_str()), (HOUR / 2, "m"));
        assert_eq!(of(r#"{"v":1,"entitlement":"db","message":"m"}"#).0, LockTarget::Entitlement("db".into()));
        assert_eq!(of(r#"{"v":1,"everything":true,"message":""}"#).2, "access is locked");
        let endless = decode_lock(
            "l",
            br#"{"v":1,"everything":true,"message":"m"}"#,
            ReadAt { sent: NOW, ttl: Ttl::None },
        );
        assert_eq!(endless.unwrap().expires_at(), None);
    }

    #[test]
    fn what_cannot_be_read_locks_everything_and_says_why() {
        for (value, refusal) in [
            ("", Refusal::NotJson),
            ("[]", Refusal::NotJson),
            ("null", Refusal::NotJson),
            (r#"{"v":1,"everything":true,"message":"#, Refusal::NotJson),
            (r#"{"everything":true,"message":"m"}"#, Refusal::BadVersion),
            (r#"{"v":2,"everything":true,"message":"m"}"#, Refusal::BadVersion),
            (r#"{"v":2,"new":true}"#, Refusal::BadVersion),
            (r#"{"v":1,"everything":true,"message":"m","until":1}"#, Refusal::UnknownField),
            (r#"{"v":1,"everything":true}"#, Refusal::BadField),
            (r#"{"v":1,"everything":false,"message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"everything":null,"message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"everything":"true","message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"principal":"user:x","everything":true,"message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"principal":"user:x","entitlement":"db","message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"principal":"user:x","principal":"user:y","message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"principal":"x","message":"m"}"#, Refusal::BadSubject),
            (r#"{"v":1,"principal":null,"message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"entitlement":"","message":"m"}"#, Refusal::BadField),
            (r#"{"v":1,"entitlement":"db","message":"m","expires_at":"soon"}"#, Refusal::BadField),
            (r#"{"v":1,"entitlement":"db","message":7}"#, Refusal::BadField),
            (r#"{"v":1,"id":"l2","everything":true,"message":"m"}"#, Refusal::BadId),
        ] {
            assert_eq!(read(value), Err(refusal), "{value}");
            let read_at = ReadAt { sent: NOW, ttl: Ttl::Left(HOUR) };
            let (lock, why) = read_lock("l1", "{jit}:lock:l1", value.as_bytes(), read_at);
            assert_eq!((why, lock.target), (Some(refusal), LockTarget::Everything));
            assert!(lock.message.contains("{jit}:lock:l1") && lock.message.contains(refusal.code()));
            assert_eq!(lock.lifetime.remaining(NOW), HOUR);
        }
        let large = format!(r#"{{"v":1,"everything":true,"message":"{}"}}"#, "x".repeat(MAX_VALUE_BYTES));
        assert_eq!(read(&large), Err(Refusal::TooLarge));
        assert_eq!(decode_lock("l 1", b"{}", ReadAt { sent: NOW, ttl: Ttl::None }), Err(Refusal::BadId));
        assert_eq!(decode_lock("l", b"\xff", ReadAt { sent: NOW, ttl: Ttl::None }), Err(Refusal::NotJson));
    }
}
