//! One line for people, of which nothing that somebody wrote can be more than text: no mention, no link with another
//! name, no formatting.

use std::fmt::Write as _;

use jiff::SignedDuration;

use crate::principal::is_invisible;
use crate::webhook::record::Told;

/// Characters of what somebody wrote. The event has it whole.
const MAX_TEXT: usize = 400;
/// Approvers that were not asked.
const MAX_NAMES: usize = 10;

/// What happened, to whom, and what is to be done about it.
#[must_use]
pub fn line(told: &Told) -> String {
    let (who, what, whose) = (actor(told), entitlement(told), subject(told));
    let mut line = match told.kind.as_str() {
        "request.created" => asked(told, &what),
        "request.reviewed" => {
            let verb = if told.detail("decision").and_then(|said| said.as_str()) == Some("denied") {
                "denied"
            } else {
                "agreed to"
            };
            format!("{who} {verb} the request of {} for {what}", requester(told))
        }
        "request.approved" => format!("The request of {} for {what} was approved", requester(told)),
        "request.auto_approved" => {
            format!("The request of {} for {what} was approved; nobody had to agree", requester(told))
        }
        "request.denied" => format!("{who} denied the request of {} for {what}", requester(told)),
        "request.withdrawn" => format!("{who} withdrew the request for {what}"),
        "request.expired" => {
            format!("The request of {} for {what} expired; nobody decided it in time", requester(told))
        }
        "grant.created" | "grant.activated" => format!("{whose} has {what} now"),
        "grant.scheduled" => format!("{whose} will have {what}"),
        "grant.extended" => format!("{whose} has {what} for longer"),
        "grant.cancelled" => format!("{whose} does not get {what}, which was scheduled"),
        "grant.revoked" => format!("{who} ended {what} of {whose}"),
        "grant.revoked_again" => {
            "A revoked grant was back after a failover, and was revoked again".to_owned()
        }
        "grant.relinquished" => format!("{who} gave {what} back"),
        "grant.ended" => format!("{what} of {whose} has run its time"),
        "breakglass.activated" => format!("BREAK GLASS: {who} took {what} without approval"),
        "lock.created" => format!("{who} locked {}", locked(told)),
        "lock.deleted" => format!("{who} unlocked {}", locked(told)),
        "lock.ended" => "A lock has run its time".to_owned(),
        other => format!("{} ({what}, {whose})", plain(other)),
    };
    if let Some(reason) = told.text("reason") {
        let _ = write!(line, ": \"{}\"", plain(reason));
    }
    if let Some(ticket) = told.detail("ticket").and_then(|ticket| ticket.as_str()) {
        let _ = write!(line, " ({})", plain(ticket));
    }
    line.push_str(". ");
    line.push_str(&next(told));
    line.truncate(line.trim_end().len());
    line
}

fn asked(told: &Told, what: &str) -> String {
    let more = if told.text("grant").is_some() { "more time for" } else { "" };
    let mut line = format!("{} asks for {more}", actor(told));
    if !more.is_empty() {
        line.push(' ');
    }
    line.push_str(what);
    if told.text("subject") != told.text("actor") {
        let _ = write!(line, " on behalf of {}", subject(told));
    }
    if let Some(seconds) = told.detail("duration_s").and_then(serde_json::Value::as_i64) {
        let _ = write!(line, ", for {:#}", SignedDuration::from_secs(seconds));
    }
    line
}

/// What to do, or what else is to be known.
fn next(told: &Told) -> String {
    let id = |name| told.text(name).map(plain).unwrap_or_default();
    let moment = |name| told.detail(name).and_then(|at| at.as_str()).map(plain);
    let until = moment("expires_at").map(|at| format!("Ends {at}. ")).unwrap_or_default();
    match told.kind.as_str() {
        "request.created" => {
            let needed = told.detail("approvals_required").and_then(serde_json::Value::as_u64).unwrap_or(1);
            if needed == 0 {
                return String::new();
            }
            let by = moment("approve_by").map(|at| format!(", by {at}")).unwrap_or_default();
            let persons =
                if needed == 1 { "1 person has".to_owned() } else { format!("{needed} persons have") };
            let request = id("request");
            format!(
                "{persons} to agree{by}: daypass request approve {request} (or: daypass request deny {request})"
            )
        }
        "grant.created" | "grant.activated" | "grant.extended" | "grant.scheduled" => {
            format!("{until}To end it: daypass grant revoke {}", id("grant"))
        }
        "breakglass.activated" => {
            let skipped = told.detail("skipped_approvers").and_then(serde_json::Value::as_array);
            let names: Vec<_> = skipped
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str())
                .take(MAX_NAMES)
                .map(plain)
                .collect();
            let skipped =
                if names.is_empty() { String::new() } else { format!("Not asked: {}. ", names.join(", ")) };
            format!("{skipped}{until}Look at it now; to end it: daypass grant revoke {}", id("grant"))
        }
        "lock.created" => format!("{until}To undo it: daypass unlock {}", id("lock")),
        "request.approved" | "request.auto_approved" => until,
        _ => String::new(),
    }
}

fn actor(told: &Told) -> String {
    told.text("actor").map_or_else(|| "Somebody".to_owned(), plain)
}

fn subject(told: &Told) -> String {
    told.text("subject").map_or_else(|| "somebody".to_owned(), plain)
}

fn requester(told: &Told) -> String {
    told.text("requester").map_or_else(|| subject(told), plain)
}

fn entitlement(told: &Told) -> String {
    told.text("entitlement").map_or_else(|| "a grant".to_owned(), plain)
}

fn locked(told: &Told) -> String {
    match (told.text("subject"), told.text("entitlement")) {
        (Some(subject), _) => plain(subject),
        (_, Some(entitlement)) => plain(entitlement),
        _ => "everything".to_owned(),
    }
}

/// Text and nothing else, in one line, and not too long. Entities as Slack wants them; what would format is replaced by
/// its like, but for underscores within words, which format nothing and belong to names.
fn plain(text: &str) -> String {
    let mut result = String::new();
    let mut before = ' ';
    let mut characters = text.chars().peekable();
    let mut count = 0;
    while let Some(c) = characters.next() {
        count += 1;
        if count > MAX_TEXT {
            result.push('…');
            break;
        }
        let after = characters.peek().copied().unwrap_or(' ');
        match c {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '*' => result.push('∗'),
            '~' => result.push('∼'),
            '`' => result.push('ˋ'),
            '_' if !(before.is_alphanumeric() && after.is_alphanumeric()) => result.push('＿'),
            c if c.is_whitespace() => result.push(' '),
            // Controls, and what turns the direction of text or hides in it.
            c if is_invisible(c) => {}
            c => result.push(c),
        }
        before = c;
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(event: &serde_json::Value) -> String {
        line(&Told::parse(&event.to_string()).unwrap())
    }

    #[test]
    fn a_request_says_what_to_do() {
        let mut event = json!({
            "type": "request.created", "actor": "user:alice", "subject": "user:alice", "requester": "user:alice",
            "request": "r-1", "entitlement": "orders_db-read", "reason": "orders are stuck",
            "details": {"duration_s": 5400, "approvals_required": 2, "approve_by": "2026-01-31T12:00:00Z",
                "ticket": "OPS-1"},
        });
        assert_eq!(
            of(&event),
            "user:alice asks for orders_db-read, for 1h 30m: \"orders are stuck\" (OPS-1). 2 persons have to agree, by \
             2026-01-31T12:00:00Z: daypass request approve r-1 (or: daypass request deny r-1)"
        );
        event["subject"] = json!("user:bob");
        event["grant"] = json!("g-1");
        event["details"]["approvals_required"] = json!(0);
        let line = of(&event);
        assert!(line.contains("asks for more time for orders_db-read on behalf of user:bob"), "{line}");
        assert!(!line.contains("approve"), "{line}");
    }

    #[test]
    fn an_emergency_is_told_apart() {
        let line = of(&json!({
            "type": "breakglass.activated", "actor": "user:alice", "subject": "user:alice", "grant": "g-1",
            "entitlement": "payments", "reason": "payments are down",
            "details": {"skipped_approvers": ["group:leads", "user:<!here>"], "expires_at": "2026-01-31T12:00:00Z"},
        }));
        assert!(
            line.starts_with("BREAK GLASS: user:alice took payments without approval: \"payments are down\"")
        );
        assert!(line.contains("Not asked: group:leads, user:&lt;!here&gt;. Ends 2026"), "{line}");
        assert!(line.ends_with("daypass grant revoke g-1"), "{line}");
    }

    #[test]
    fn what_people_write_is_text() {
        let reason =
            "<!channel> *bold* _it_ ~gone~ `code` a_b <https://evil|bank> &lt;\n> quote\u{202e}\u{200b}\u{7}";
        let line = of(&json!({"type": "request.denied", "actor": "user:*x*", "reason": reason}));
        let quoted = line.split('"').nth(1).unwrap();
        assert_eq!(
            quoted,
            "&lt;!channel&gt; ∗bold∗ ＿it＿ ∼gone∼ ˋcodeˋ a_b &lt;https://evil|bank&gt; &amp;lt; &gt; quote"
        );
        assert!(!line.contains(['*', '`', '~', '<', '>', '\n']), "{line}");
        let long = of(&json!({"type": "grant.revoked", "reason": "x".repeat(4096)}));
        assert!(long.chars().count() < 500 && long.contains('…'));
    }

    #[test]
    fn every_type_has_a_line() {
        for kind in crate::desk::event::EventType::ALL {
            let line = of(&json!({"type": kind.as_str()}));
            assert!(!line.contains(kind.as_str()) && line.len() > 10, "{line}");
        }
        assert!(of(&json!({"type": "new.kind", "subject": "user:a"})).contains("new.kind"));
    }
}
