//! An event as it stands in the journal, as far as its delivery has to understand it. Events of other versions, with
//! members and types of their own, are delivered like all others.

use jiff::Timestamp;
use serde_json::{Map, Value};

#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub kind: String,
    /// None: it does not get old.
    pub time: Option<Timestamp>,
    pub entitlement: Option<String>,
    members: Map<String, Value>,
}

impl Told {
    /// None: no event.
    #[must_use]
    pub fn parse(document: &str) -> Option<Self> {
        let Ok(Value::Object(members)) = serde_json::from_str(document) else { return None };
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let kind = text("type").filter(|kind| is_type(kind))?.to_owned();
        let time = text("time").and_then(|time| time.parse().ok());
        let entitlement = text("entitlement").map(str::to_owned);
        Some(Self { kind, time, entitlement, members })
    }

    /// A member that is text, and not an empty one.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    #[must_use]
    pub fn detail(&self, name: &str) -> Option<&Value> {
        self.members.get("details").and_then(|details| details.get(name))
    }
}

/// What can be in a header and in a log.
fn is_type(kind: &str) -> bool {
    const MAX_BYTES: usize = 64;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    (1..=MAX_BYTES).contains(&kind.len()) && kind.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_event_is_none() {
        for bad in ["", "{", "[]", "{}", r#"{"type":7}"#, r#"{"type":""}"#, "{\"type\":\"a\\nb: c\"}"] {
            assert_eq!(Told::parse(bad), None, "{bad}");
        }
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(Told::parse(&format!(r#"{{"type":"a","x":{deep}}}"#)), None);
        let told = Told::parse(r#"{"type":"new.kind","time":"soon","entitlement":3}"#).unwrap();
        assert_eq!((told.time, told.entitlement.as_deref()), (None, None));
    }
}
