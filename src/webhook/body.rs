//! What a receiver gets: the event itself, or a line for people. Pure.

mod slack;

use super::config::Format;
use super::record::Told;
use crate::store::journal::StoredEvent;

/// `told` is what `stored` was read as.
#[must_use]
pub fn body(format: Format, stored: &StoredEvent, told: &Told) -> String {
    match format {
        // The document letter by letter, as its hash was taken of it.
        Format::Generic => {
            format!(r#"{{"number":{},"hash":"{}","event":{}}}"#, stored.number, stored.hash, stored.document)
        }
        Format::Slack => serde_json::json!({"text": slack::line(told)}).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_stands_as_it_was_hashed() {
        let document = r#"{"type": "grant.created",  "x": 1.50, "name": "é\u0000"}"#.to_owned();
        let stored = StoredEvent { number: 7, hash: "ab".to_owned(), document };
        let told = Told::parse(&stored.document).unwrap();
        let text = body(Format::Generic, &stored, &told);
        assert!(text.contains(&stored.document));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((read["number"].as_u64(), read["hash"].as_str()), (Some(7), Some("ab")));
        assert_eq!(read["event"]["type"], "grant.created");
    }
}
