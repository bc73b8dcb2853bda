//! The admission policy: who may ask, agree, extend, end and see. Compiled from the operator's sources beside the policy
//! for checks, and evaluated for each step of a request. What is no clear yes of the right form is an error, and the
//! caller answers an error as a denial. Must never do I/O and never act on what it decided.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::entitlement::{self, Entitlements, Limits, Mistake};
use crate::policy::{
    self, DecisionPath, Document, ErrorCode, EvalError, LoadError, Policy, Problem, RegoFile, Sources,
};
use crate::principal::is_invisible;

/// The policy for those who bring none.
const DEFAULT_POLICY: &str = include_str!("../../policies/admission.rego");
const DEFAULT_FILE: &str = "built-in/admission.rego";
const PACKAGE: [&str; 2] = ["daypass", "admission"];
/// What is daypass' own below `data.daypass`, whatever packages there are.
const OWN: [&str; 4] = ["config", "entitlements", "administrators", "auditors"];
const DECISION: &str = "daypass/admission/decision";

/// Reasons that are told. A person reads them.
const MAX_REASONS: usize = 16;
/// Characters of a reason or a note: they go into answers, events and logs.
const MAX_TEXT: usize = 512;
/// Approvals that count. As many as reviews that a request can have.
const MAX_APPROVALS: usize = 1000;
/// Longest time to decide that a policy may give.
const MAX_APPROVE_WITHIN: Duration = Duration::from_secs(366 * 24 * 3600);
/// Told where policy says no without saying why.
const NO_REASON: &str = "the admission policy does not allow it";
/// A yes to these must say how many persons have to agree: left out, or misspelt, it would be nobody.
const NEEDS_APPROVALS: [&str; 4] = ["request.create", "request.approve", "grant.start", "grant.extend"];

/// What policy said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    Yes(Terms),
    No { reasons: Vec<String> },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Persons who must agree.
    pub approvals_required: u32,
    /// Reviewers whose approval counts at this moment.
    pub approvals: BTreeSet<String>,
    /// How long the grant may last at most, if policy says so.
    pub ttl: Option<Duration>,
    /// How long there is to decide.
    pub approve_within: Option<Duration>,
    /// For the record, such as why nobody had to agree.
    pub note: Option<String>,
}

/// There is no decision, which is a denial.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AdmissionError {
    #[error("the admission policy failed: {0}")]
    Evaluation(#[from] EvalError),
    #[error("the admission policy said what is no decision: {0}")]
    NotADecision(String),
}

/// The admission policy and the entitlements it is about, which change together.
pub struct Admission {
    policy: Policy,
    entitlements: Entitlements,
    limits: Limits,
    /// What the sources are called, for the record.
    revision: Arc<str>,
}

impl Admission {
    /// From the operator's sources, with the default policy unless they have one of their own.
    ///
    /// # Errors
    /// Every mistake in entitlements and policy, each with its place.
    pub fn compile(sources: &Sources, limits: Limits, time_limit: Duration) -> Result<Self, LoadError> {
        let mut problems = Vec::new();
        let entitlements = entitlements(sources, &limits).map_err(|found| problems.extend(found));
        let mut sources = sources.clone();
        complete(&mut sources);
        let policy = Policy::compile(&sources, &DecisionPath::new(DECISION), time_limit)
            .map_err(|LoadError(found)| problems.extend(found));
        match (entitlements, policy) {
            (Ok(entitlements), Ok(policy)) => {
                Ok(Self { policy, entitlements, limits, revision: Arc::default() })
            }
            _ => Err(LoadError(problems)),
        }
    }

    #[must_use]
    pub fn named(self, revision: Arc<str>) -> Self {
        Self { revision, ..self }
    }

    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    #[must_use]
    pub fn entitlements(&self) -> &Entitlements {
        &self.entitlements
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether the step in `question` may be taken, and on which terms. Takes as long as policy takes, which is not to
    /// be waited for on a thread that others need.
    ///
    /// # Errors
    /// There is no decision: the step must not be taken.
    #[expect(clippy::needless_pass_by_value, reason = "made for this, and of no use to anybody afterwards")]
    pub fn decide(&self, question: Value) -> Result<Admitted, AdmissionError> {
        let action = question.get("action").and_then(Value::as_str).unwrap_or_default();
        let input = Document::from_json(&question.to_string())
            .map_err(|error| AdmissionError::NotADecision(format!("the question is not one: {error}")))?;
        let said = self.policy.value(input)?;
        let said = said.to_json().map_err(|_| not("it has no form in JSON"))?;
        let said: Value = serde_json::from_str(&said).map_err(|_| not("it is nested too deep"))?;
        admitted(&said, action, &self.limits)
    }
}

/// Adds the default admission policy where there is no other.
pub fn complete(sources: &mut Sources) {
    if !sources.has_package(&PACKAGE) {
        sources.modules.push(RegoFile::new(DEFAULT_FILE, DEFAULT_POLICY));
    }
}

fn entitlements(sources: &Sources, limits: &Limits) -> Result<Entitlements, Vec<Problem>> {
    let daypass = sources.data.get("daypass").map(|daypass| daypass.to_json());
    let daypass = match daypass.transpose() {
        Ok(text) => text.map(|text| serde_json::from_str::<Value>(&text)).transpose(),
        Err(_) => return Err(vec![Problem::in_file("data", "data.daypass has no form in JSON")]),
    };
    let Ok(daypass) = daypass else {
        return Err(vec![Problem::in_file("data", "data.daypass is nested too deep")]);
    };
    let mut data = Map::from_iter(daypass.map(|daypass| ("daypass".to_owned(), daypass)));
    if let Some(Value::Object(daypass)) = data.get_mut("daypass") {
        // What is beside the rules of a package is the package's.
        daypass.retain(|name, _| {
            OWN.contains(&name.as_str()) || !sources.has_package_below(&[PACKAGE[0], name.as_str()])
        });
    }
    let problem = |mistake: Mistake| {
        let step = |step| match step {
            &entitlement::Step::Index(index) => policy::Step::Index(index),
            entitlement::Step::Name(name) => policy::Step::Name(name),
        };
        let path: Vec<policy::Step<'_>> = mistake.path.iter().map(step).collect();
        let message = mistake.to_string();
        // Data of bundles has no place that anybody could look at.
        let (file, line, column) = sources.place_of(&path).unwrap_or(("data", 0, 0));
        Problem { file: file.to_owned(), line, column, code: ErrorCode::Compile, message }
    };
    Entitlements::from_data(&Value::Object(data), limits)
        .map_err(|mistakes| mistakes.into_iter().map(problem).collect())
}

fn not(message: impl Into<String>) -> AdmissionError {
    AdmissionError::NotADecision(message.into())
}

fn admitted(said: &Value, action: &str, limits: &Limits) -> Result<Admitted, AdmissionError> {
    let no = || Admitted::No { reasons: vec![NO_REASON.to_owned()] };
    let members = match said {
        Value::Object(members) => members,
        Value::Bool(false) => return Ok(no()),
        Value::Bool(true) if !NEEDS_APPROVALS.contains(&action) => {
            return Ok(Admitted::Yes(Terms::default()));
        }
        Value::Bool(true) => return Err(not("`approvals_required` is missing")),
        _ => return Err(not("it is neither an object nor a boolean")),
    };
    let allowed = match members.get("allowed") {
        Some(Value::Bool(allowed)) => *allowed,
        Some(_) => return Err(not("`allowed` is not a boolean")),
        None => return Err(not("`allowed` is missing")),
    };
    if !allowed {
        let reasons = members.get("reasons").map_or(Ok(Vec::new()), |value| texts("reasons", value))?;
        let reasons: Vec<String> = reasons
            .iter()
            .map(|reason| tidy(reason))
            .filter(|reason| !reason.is_empty())
            .take(MAX_REASONS)
            .collect();
        return Ok(if reasons.is_empty() { no() } else { Admitted::No { reasons } });
    }
    terms(members, action, limits).map(Admitted::Yes)
}

fn terms(members: &Map<String, Value>, action: &str, limits: &Limits) -> Result<Terms, AdmissionError> {
    const KNOWN: [&str; 7] =
        ["allowed", "reasons", "approvals_required", "approvals", "ttl_s", "approve_within_s", "note"];
    if let Some(unknown) = members.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(not(format!("{:?} means nothing; there are {}", tidy(unknown), KNOWN.join(", "))));
    }
    let required = match members.get("approvals_required") {
        Some(value) => value.as_u64().and_then(|number| u32::try_from(number).ok()),
        None if NEEDS_APPROVALS.contains(&action) => return Err(not("`approvals_required` is missing")),
        None => Some(0),
    };
    let approvals = members.get("approvals").map_or(Ok(Vec::new()), |value| texts("approvals", value))?;
    if approvals.len() > MAX_APPROVALS {
        return Err(not(format!("more than {MAX_APPROVALS} `approvals`")));
    }
    let note = match members.get("note") {
        None => None,
        Some(Value::String(note)) => Some(tidy(note)).filter(|note| !note.is_empty()),
        Some(_) => return Err(not("`note` is not a string")),
    };
    Ok(Terms {
        approvals_required: required.ok_or_else(|| not("`approvals_required` is not a whole number"))?,
        approvals: approvals.into_iter().map(str::to_owned).collect(),
        ttl: seconds(members, "ttl_s", limits.max_grant_ttl)?,
        approve_within: seconds(members, "approve_within_s", MAX_APPROVE_WITHIN)?,
        note,
    })
}

fn seconds(
    members: &Map<String, Value>,
    name: &str,
    most: Duration,
) -> Result<Option<Duration>, AdmissionError> {
    let Some(value) = members.get(name) else { return Ok(None) };
    let found = value.as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let found = found.ok_or_else(|| not(format!("`{name}` is not a whole number of seconds above 0")))?;
    if found > most {
        return Err(not(format!("`{name}` is more than {} seconds", most.as_secs())));
    }
    Ok(Some(found))
}

fn texts<'a>(name: &str, value: &'a Value) -> Result<Vec<&'a str>, AdmissionError> {
    let items = value.as_array().ok_or_else(|| not(format!("`{name}` is not a list")))?;
    let text = |item: &'a Value| item.as_str().ok_or_else(|| not(format!("`{name}` has what is no string")));
    items.iter().map(text).collect()
}

/// One line of bounded length: it may quote what a stranger wrote.
fn tidy(text: &str) -> String {
    let line: String = text.chars().map(|c| if is_invisible(c) { ' ' } else { c }).take(MAX_TEXT).collect();
    line.trim().to_owned()
}

/// The admission policy in force.
pub struct LiveAdmission(ArcSwap<Admission>);

impl LiveAdmission {
    #[must_use]
    pub fn new(admission: Admission) -> Self {
        Self(ArcSwap::from_pointee(admission))
    }

    #[must_use]
    pub fn current(&self) -> Guard<Arc<Admission>> {
        self.0.load()
    }

    /// The same, to be kept for as long as one likes.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Admission> {
        self.0.load_full()
    }

    /// From now on `admission` decides; steps that began before keep theirs, which is returned.
    pub fn replace(&self, admission: Admission) -> Arc<Admission> {
        self.0.swap(Arc::new(admission))
    }
}

#[cfg(test)]
mod tests;
