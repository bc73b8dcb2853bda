//! How one request is decided, told step by step: the same functions that decide checks, with what each found.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;

use super::identity::{self, IdentitySource};
use super::input::{self, Wanted};
use super::request::{self, BodyParsing};
use super::settle::{self, Known, Obstacles};
use crate::clock::Now;
use crate::decision::{Basis, Decision, Verdict};
use crate::grant::{self, Grant};
use crate::policy::{self, Document, Policy, Ruling};
use crate::principal::Caller;
use crate::replica::Freshness;

/// What happened to one grant.
#[derive(Debug)]
pub struct GrantStory {
    pub grant: Arc<Grant>,
    pub bearing: Bearing,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Bearing {
    /// Held by somebody else.
    NotTheCallers,
    NotYet,
    Ended,
    NotCovering(String),
    Covers,
}

/// Everything that is known about one decision. Its `Display` is one page for people.
pub struct Explanation {
    pub caller: Result<Caller, String>,
    pub grants: Vec<GrantStory>,
    pub input: Option<Document>,
    pub ruling: Option<Result<Ruling, String>>,
    pub decision: Decision,
    now: Now,
}

/// # Errors
/// Never: what is wrong with the request is part of the explanation.
#[must_use]
pub fn explain(
    request: &CheckRequest,
    identity: &[IdentitySource],
    grants: &[Arc<Grant>],
    policy: &Policy,
    now: Now,
) -> Explanation {
    use crate::decision::DenyReason;
    let denied = |caller: Result<Caller, String>, reason: DenyReason| Explanation {
        caller,
        grants: Vec::new(),
        input: None,
        ruling: None,
        decision: Decision::deny(reason),
        now,
    };
    let parsed = match request::parse(request, BodyParsing::On) {
        Ok(parsed) => parsed,
        Err(error) => {
            return denied(Err(format!("the request cannot be read: {error}")), DenyReason::BadRequest);
        }
    };
    let caller = match identity::identify(&parsed, identity) {
        Ok(caller) => caller,
        Err(error) => return denied(Err(error.to_string()), DenyReason::IdentityConflict),
    };
    let stories: Vec<GrantStory> = grants
        .iter()
        .map(|grant| GrantStory { grant: Arc::clone(grant), bearing: bearing(grant, &caller, &parsed, now) })
        .collect();
    let is_active = |story: &&GrantStory| matches!(story.bearing, Bearing::Covers | Bearing::NotCovering(_));
    let active: Vec<Arc<Grant>> =
        stories.iter().filter(is_active).map(|story| Arc::clone(&story.grant)).collect();
    let covering = grant::covering(&active, &parsed.target);
    let freshness = Freshness::Fresh { age: Duration::ZERO };
    let input =
        input::build(parsed, Wanted::everything(), || policy::jit(&caller, &active, &covering, freshness));
    let ruling = policy.decide(input.clone());
    let told = ruling.clone().map_err(|error| error.to_string());
    let decision = match ruling {
        Ok(ruling) => {
            let known =
                Known { active: &active, covering: &covering, is_fresh: true, locks: Obstacles::default() };
            settle::settle(ruling, policy.grants_key(), known, now).decision
        }
        Err(_) => Decision::deny(DenyReason::PolicyError),
    };
    Explanation { caller: Ok(caller), grants: stories, input: Some(input), ruling: Some(told), decision, now }
}

pub fn bearing(grant: &Grant, caller: &Caller, parsed: &request::Parsed<'_>, now: Now) -> Bearing {
    if !caller.principals().contains(&grant.subject) {
        Bearing::NotTheCallers
    } else if grant.lifetime.has_ended(now) {
        Bearing::Ended
    } else if !grant.lifetime.is_active(now) {
        Bearing::NotYet
    } else {
        grant.why_not_covering(&parsed.target).map_or(Bearing::Covers, Bearing::NotCovering)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = |title: &str, lines: &str| {
            let mut lines = lines.lines();
            writeln!(f, "{title:<10}{}", lines.next().unwrap_or_default())?;
            lines.try_for_each(|line| writeln!(f, "{:<10}{line}", ""))
        };
        section("caller", &self.caller_text())?;
        section("grants", &self.grants_text()?)?;
        if let Some(ruling) = &self.ruling {
            section("policy", &ruling_text(ruling)?)?;
        }
        section("decision", &self.decision_text()?)
    }
}

impl Explanation {
    fn caller_text(&self) -> String {
        match &self.caller {
            Ok(caller) if caller.principals().is_empty() => {
                "nobody: the request names no principal".to_owned()
            }
            Ok(caller) => caller.principals().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            Err(error) => error.clone(),
        }
    }

    fn grants_text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for GrantStory { grant, bearing } in &self.grants {
            let left = grant.lifetime.remaining(self.now).as_secs();
            write!(text, "{}  {}  ", grant.id, grant.subject)?;
            match bearing {
                Bearing::NotTheCallers => writeln!(text, "not the caller's"),
                Bearing::NotYet => writeln!(text, "has not begun"),
                Bearing::Ended => writeln!(text, "has ended"),
                Bearing::NotCovering(why) => {
                    writeln!(text, "active, {left} s left; does not cover this: {why}")
                }
                Bearing::Covers => writeln!(text, "active, {left} s left; covers this"),
            }?;
        }
        Ok(if text.is_empty() { "none".to_owned() } else { text })
    }

    fn decision_text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let word = if self.decision.is_allow() { "allow" } else { "deny" };
        writeln!(text, "{word}, reason {}", self.decision.reason_code())?;
        match &self.decision.verdict {
            Verdict::Allow { basis: Some(Basis { grants, .. }), .. } => {
                writeln!(text, "rests on {}", grants.join(", "))?;
            }
            Verdict::Allow { .. } => writeln!(text, "rests on no grant")?,
            Verdict::Deny { reason, http } => {
                let status = http.as_ref().map_or(reason.http_status(), |http| http.status);
                writeln!(text, "the client sees {status}")?;
            }
        }
        Ok(text)
    }
}

fn ruling_text(ruling: &Result<Ruling, String>) -> Result<String, fmt::Error> {
    let mut text = String::new();
    match ruling {
        Err(error) => writeln!(text, "no decision: {error}")?,
        Ok(ruling) => {
            let said = match &ruling.outcome {
                policy::Outcome::Allow(_) => "allowed".to_owned(),
                policy::Outcome::Deny { reason, .. } => format!("denied ({})", reason.code()),
            };
            match &ruling.grants {
                None => writeln!(text, "said: {said}; nothing of grants")?,
                Some(grants) if grants.is_empty() => writeln!(text, "said: {said}, on no grant")?,
                Some(grants) => writeln!(text, "said: {said}, on {}", grants.join(", "))?,
            }
        }
    }
    Ok(text)
}
