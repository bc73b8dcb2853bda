//! Entitlements out of policy data: every field, its form, and what must hold between fields. All mistakes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use regex::RegexBuilder;
use serde_json::{Map, Value};

use super::fields::{Fields, Mistakes};
use super::{
    BreakGlass, Entitlement, Entitlements, Justification, Limits, Mistake, Step, Ticket, anchored, digest,
    duration,
};
use crate::permission::{Cidr, Permission, PermissionError, PermissionLists, Target};
use crate::principal::Principal;

/// Entitlements that one policy has. People write them.
const MAX_ENTITLEMENTS: usize = 10_000;
/// Characters of a description: a paragraph.
const MAX_DESCRIPTION: usize = 1024;
/// Entries of each list of an entitlement.
const MAX_ENTRIES: usize = 1000;
/// Characters of a role's name.
const MAX_ROLE: usize = 256;
/// Bytes of the attributes as JSON: a grant has 64 KiB, and there is more in it.
const MAX_ATTRIBUTES_BYTES: usize = 16 * 1024;
/// Bytes of all of a grant's fields together, as JSON; the rest of its 64 KiB is for who asked and why.
const MAX_GIVEN_BYTES: usize = 32 * 1024;
/// Persons who must agree. More never come together.
const MAX_APPROVALS: u64 = 20;
const MAX_EXTENSIONS: u64 = 1000;
/// A justification of more characters is a document.
const MAX_MIN_LENGTH: u64 = 1000;
/// Bytes of a ticket's pattern.
const MAX_PATTERN_BYTES: usize = 1024;
/// Bytes that a ticket's pattern may take when it is compiled, as in policies.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Longest time to decide: nobody remembers then what was asked.
const MAX_APPROVE_WITHIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// Characters of a revision.
const MAX_REVISION: usize = 128;
/// Characters of names: they are in commands, URLs and keys.
const MAX_NAME: usize = 63;

const DEFAULT_APPROVALS: u32 = 1;
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
const DEFAULT_MAX_TTL: Duration = Duration::from_secs(8 * 3600);
const DEFAULT_BREAK_GLASS_TTL: Duration = Duration::from_secs(3600);
const DEFAULT_APPROVE_WITHIN: Duration = Duration::from_secs(4 * 3600);
const DEFAULT_EXTENSIONS: u32 = 1;
const DEFAULT_MIN_LENGTH: u32 = 10;
const DEFAULT_ADMINISTRATORS: &str = "group:daypass-admins";

pub fn entitlements(data: &Value, limits: &Limits) -> Result<Entitlements, Vec<Mistake>> {
    let mistakes = Mistakes::default();
    let root = vec![Step::Name("daypass".to_owned())];
    let none = Value::Object(Map::new());
    let mut by_name = BTreeMap::new();
    let (mut administrators, mut auditors) = (None, None);
    if let Some(mut daypass) = Fields::of(data.get("daypass").unwrap_or(&none), root, &mistakes) {
        administrators = principals(&mut daypass, "administrators");
        auditors = principals(&mut daypass, "auditors");
        if let Some(all) = daypass.section("entitlements") {
            by_name = read_all(&all, limits, &mistakes);
        }
        // Ours too, and read elsewhere.
        daypass.take("config");
        // A misspelt `administrators` would leave the default in force.
        daypass.finish();
    }
    let mistakes = mistakes.into_vec();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(Entitlements {
        by_name,
        administrators: administrators
            .unwrap_or_else(|| DEFAULT_ADMINISTRATORS.parse().into_iter().collect()),
        auditors: auditors.unwrap_or_default(),
    })
}

fn read_all(all: &Fields<'_>, limits: &Limits, mistakes: &Mistakes) -> BTreeMap<String, Arc<Entitlement>> {
    let mut by_name = BTreeMap::new();
    if all.members().count() > MAX_ENTITLEMENTS {
        all.wrong_altogether(format!("at most {MAX_ENTITLEMENTS} entitlements are allowed"));
        return by_name;
    }
    for (name, value) in all.members() {
        if let Err(message) = check_name(name) {
            all.wrong(name, message);
        }
        if let Some(fields) = Fields::of(value, all.at(name), mistakes) {
            by_name.insert(name.clone(), Arc::new(read_one(name, fields, limits)));
        }
    }
    by_name
}

/// With something in the place of each field that is wrong: the mistakes keep it from being used.
fn read_one(name: &str, mut fields: Fields<'_>, limits: &Limits) -> Entitlement {
    let description =
        fields.parsed("description", |text| readable(text, MAX_DESCRIPTION)).unwrap_or_default();
    let (permissions, matchers) = permissions(&mut fields);
    let roles = fields.list("roles", MAX_ENTRIES, |text| named(text, MAX_ROLE)).unwrap_or_default();
    let attributes = attributes(&mut fields);
    let (source_cidrs, ranges) = conditions(&mut fields);
    let eligible = principals(&mut fields, "eligible").unwrap_or_default();
    let approvers = principals(&mut fields, "approvers").unwrap_or_default();
    let allow_self_approval = fields.bool("allow_self_approval").unwrap_or(false);
    let approvals = number(&mut fields, "approvals", 0..=MAX_APPROVALS, DEFAULT_APPROVALS);
    let times = Times::read(&mut fields, limits);
    let max_extensions = number(&mut fields, "max_extensions", 0..=MAX_EXTENSIONS, DEFAULT_EXTENSIONS);
    let justification = justification(&mut fields);
    let ticket = ticket(&mut fields);
    let max_uses = fields.number("max_uses", 1..=u64::from(u32::MAX)).and_then(NonZeroU64::new);
    let ask_for_others = principals(&mut fields, "ask_for_others").unwrap_or_default();
    let break_glass = break_glass(&mut fields, limits);
    let webhooks = fields
        .list("webhooks", MAX_ENTRIES, |text| check_name(text).map(|()| text.to_owned()))
        .unwrap_or_default();
    let revision = fields.parsed("revision", |text| named(text, MAX_REVISION));
    let gives_nothing = !fields.has("permissions") && roles.is_empty() && attributes.is_empty();
    if gives_nothing {
        fields.wrong_altogether("gives nothing: it needs permissions, roles or attributes");
    }
    let mut entitlement = Entitlement {
        name: name.to_owned(),
        description,
        permissions,
        matchers,
        roles,
        attributes,
        source_cidrs,
        ranges,
        eligible,
        approvers,
        approvals,
        default_ttl: times.default_ttl,
        max_ttl: times.max_ttl,
        max_total_ttl: times.max_total_ttl,
        max_extensions,
        approve_within: times.approve_within,
        justification,
        ticket,
        max_uses,
        allow_self_approval,
        ask_for_others,
        break_glass,
        webhooks,
        revision: String::new(),
    };
    check_approvals(&fields, &entitlement);
    if entitlement.given().to_string().len() > MAX_GIVEN_BYTES {
        fields.wrong_altogether(format!("what it gives is more than {MAX_GIVEN_BYTES} bytes as JSON"));
    }
    fields.finish();
    entitlement.revision = revision.unwrap_or_else(|| digest(&entitlement.body()));
    entitlement
}

/// Whether so many can agree at all.
fn check_approvals(fields: &Fields<'_>, entitlement: &Entitlement) {
    let Entitlement { approvals, approvers, eligible, .. } = entitlement;
    if *approvals == 0 {
        return;
    }
    // A mistake in the list itself is told already.
    let is_empty = !fields.has("approvers") || (approvers.is_empty() && fields.is_empty_list("approvers"));
    if is_empty {
        let message = format!("{approvals} must agree, and nobody may: name them, or say `approvals: 0`");
        fields.wrong("approvers", message);
        return;
    }
    if approvers.is_empty() || approvers.iter().any(Principal::is_group) {
        return;
    }
    let persons: BTreeSet<_> = approvers.iter().collect();
    let is_open =
        entitlement.allow_self_approval || eligible.is_empty() || eligible.iter().any(Principal::is_group);
    // Nobody agrees to what is asked for oneself.
    let most = if is_open {
        persons.len()
    } else {
        let others = |who: &Principal| persons.iter().filter(|person| **person != who).count();
        eligible.iter().map(others).max().unwrap_or(persons.len())
    };
    if usize::try_from(*approvals).is_ok_and(|needed| needed > most) {
        fields
            .wrong("approvals", format!("{approvals} must agree, and only {most} of the approvers ever can"));
    }
}

struct Times {
    default_ttl: Duration,
    max_ttl: Duration,
    max_total_ttl: Duration,
    approve_within: Duration,
}

impl Times {
    fn read(fields: &mut Fields<'_>, limits: &Limits) -> Self {
        let cap = limits.max_grant_ttl;
        let max_ttl = within_cap(fields, "max_ttl", cap).unwrap_or(DEFAULT_MAX_TTL.min(cap));
        let default_ttl = fields.parsed("default_ttl", duration::parse);
        if let Some(given) = default_ttl.filter(|given| *given > max_ttl) {
            let (given, most) = (duration::format(given), duration::format(max_ttl));
            fields.wrong("default_ttl", format!("{given} is more than max_ttl, which is {most}"));
        }
        let max_total_ttl = within_cap(fields, "max_total_ttl", cap).unwrap_or(cap);
        if max_total_ttl < max_ttl {
            let (total, most) = (duration::format(max_total_ttl), duration::format(max_ttl));
            fields.wrong("max_total_ttl", format!("{total} is less than max_ttl, which is {most}"));
        }
        let approve_within = fields.parsed("approve_within", |text| at_most(text, MAX_APPROVE_WITHIN, ""));
        Self {
            default_ttl: default_ttl.unwrap_or(DEFAULT_TTL.min(max_ttl)),
            max_ttl,
            max_total_ttl,
            approve_within: approve_within.unwrap_or(DEFAULT_APPROVE_WITHIN),
        }
    }
}

fn within_cap(fields: &mut Fields<'_>, name: &'static str, cap: Duration) -> Option<Duration> {
    fields.parsed(name, |text| at_most(text, cap, " (max_grant_ttl)"))
}

fn at_most(text: &str, most: Duration, of: &str) -> Result<Duration, String> {
    let found = duration::parse(text)?;
    if found > most {
        return Err(format!("{text} is more than {}{of}", duration::format(most)));
    }
    Ok(found)
}

fn number(
    fields: &mut Fields<'_>,
    name: &'static str,
    range: std::ops::RangeInclusive<u64>,
    default: u32,
) -> u32 {
    fields.number(name, range).and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
}

fn principals(fields: &mut Fields<'_>, name: &'static str) -> Option<Vec<Principal>> {
    fields.list(name, MAX_ENTRIES, |text| text.parse::<Principal>().map_err(|error| error.to_string()))
}

fn permissions(fields: &mut Fields<'_>) -> (Vec<PermissionLists>, Vec<Permission>) {
    const NAMES: [&str; 4] = ["hosts", "methods", "paths", "grpc_methods"];
    let (mut written, mut matchers) = (Vec::new(), Vec::new());
    if fields.has("permissions") && fields.is_empty_list("permissions") {
        fields.wrong("permissions", "is an empty list; leave it out or fill it");
    }
    for mut permission in fields.sections("permissions", MAX_ENTRIES) {
        let mut list = |name| permission.list(name, MAX_ENTRIES, |text| Ok(text.to_owned()));
        let lists = PermissionLists {
            hosts: list("hosts"),
            methods: list("methods"),
            paths: list("paths"),
            grpc_methods: list("grpc_methods"),
        };
        match Permission::new(&lists) {
            Ok(matcher) => {
                if let Some(message) = never_matches(&lists) {
                    permission.wrong_altogether(message);
                }
                written.push(lists);
                matchers.push(matcher);
            }
            // Lists of the wrong type are told already, and are all there is.
            Err(PermissionError::Empty) if NAMES.iter().any(|name| permission.has(name)) => {}
            Err(error) => permission.wrong_altogether(error.to_string()),
        }
        permission.finish();
    }
    (written, matchers)
}

/// Why no request that there can be has what these lists ask for.
fn never_matches(lists: &PermissionLists) -> Option<String> {
    let hosts = lists.hosts.iter().flatten();
    for host in hosts {
        if let Some(c) = host.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-:[]*".contains(*c)) {
            return Some(format!("no host has {c:?}, so {host:?} could never match"));
        }
    }
    for method in lists.methods.iter().flatten() {
        if let Some(c) =
            method.chars().find(|c| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(*c))
        {
            return Some(format!("no method has {c:?}, so {method:?} could never match"));
        }
    }
    for path in lists.paths.iter().flatten() {
        let is_dotted = |segment: &str| matches!(segment, "." | "..");
        if path.contains("//") || path.contains(['#', '\\']) || path.split('/').any(is_dotted) {
            return Some(format!("such a path is never covered, so {path:?} could never match"));
        }
    }
    let grpc_methods = lists.grpc_methods.as_ref()?;
    for method in grpc_methods {
        let slashes = method.trim_start_matches('/').matches('/').count();
        if slashes > 1 || (slashes == 0 && !method.contains("**")) {
            return Some(format!("a gRPC method is package.Service/Method, so {method:?} could never match"));
        }
    }
    let post = PermissionLists { methods: Some(lists.methods.clone()?), ..PermissionLists::default() };
    let admits = Permission::new(&post).is_ok_and(|post| post.matches(&Target::http("h", "POST", "/", None)));
    (!admits)
        .then(|| "gRPC requests are POST, which `methods` leaves out, so it could never match".to_owned())
}

fn attributes(fields: &mut Fields<'_>) -> Map<String, Value> {
    let attributes = fields.object("attributes").cloned().unwrap_or_default();
    if serde_json::to_string(&attributes).map_or(0, |text| text.len()) > MAX_ATTRIBUTES_BYTES {
        fields.wrong("attributes", format!("more than {MAX_ATTRIBUTES_BYTES} bytes as JSON"));
    }
    attributes
}

fn conditions(fields: &mut Fields<'_>) -> (Vec<String>, Vec<Cidr>) {
    let Some(mut conditions) = fields.section("conditions") else { return (Vec::new(), Vec::new()) };
    let range = |text: &str| {
        let range = text.parse::<Cidr>().map_err(|error| error.to_string())?;
        Ok((text.to_owned(), range))
    };
    let found = conditions.list("source_cidrs", MAX_ENTRIES, range);
    if !conditions.has("source_cidrs") || conditions.is_empty_list("source_cidrs") {
        conditions.wrong("source_cidrs", "a condition that says nothing; leave it out or fill it");
    }
    conditions.finish();
    found.unwrap_or_default().into_iter().unzip()
}

fn justification(fields: &mut Fields<'_>) -> Justification {
    let default = Justification { required: true, min_length: DEFAULT_MIN_LENGTH };
    let Some(mut section) = fields.section("justification") else { return default };
    let found = Justification {
        required: section.bool("required").unwrap_or(default.required),
        min_length: number(&mut section, "min_length", 0..=MAX_MIN_LENGTH, DEFAULT_MIN_LENGTH),
    };
    section.finish();
    found
}

fn ticket(fields: &mut Fields<'_>) -> Ticket {
    let Some(mut section) = fields.section("ticket") else {
        return Ticket { required: false, pattern: None };
    };
    let found = Ticket {
        required: section.bool("required").unwrap_or(false),
        pattern: section.parsed("pattern", pattern),
    };
    section.finish();
    found
}

fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_PATTERN_BYTES {
        return Err(format!("a pattern has 1 to {MAX_PATTERN_BYTES} bytes"));
    }
    // Alone first: `a)|(b` is only one with something around it.
    for pattern in [text.to_owned(), anchored(text)] {
        let built = RegexBuilder::new(&pattern).size_limit(MAX_COMPILED_BYTES).build();
        built.map_err(|error| {
            let text = error.to_string();
            let reason =
                text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
            format!("not a regular expression: {reason}")
        })?;
    }
    Ok(text.to_owned())
}

fn break_glass(fields: &mut Fields<'_>, limits: &Limits) -> BreakGlass {
    let default_ttl = DEFAULT_BREAK_GLASS_TTL.min(limits.max_grant_ttl);
    let Some(mut section) = fields.section("break_glass") else {
        return BreakGlass { eligible: Vec::new(), max_ttl: default_ttl };
    };
    let found = BreakGlass {
        eligible: principals(&mut section, "eligible").unwrap_or_default(),
        max_ttl: within_cap(&mut section, "max_ttl", limits.max_grant_ttl).unwrap_or(default_ttl),
    };
    if !section.has("eligible") || section.is_empty_list("eligible") {
        section.wrong("eligible", "names nobody; leave `break_glass` out or say who");
    }
    section.finish();
    found
}

/// Of entitlements and webhooks.
fn check_name(name: &str) -> Result<(), String> {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if starts && name.len() <= MAX_NAME && name.chars().all(is_inner) {
        Ok(())
    } else {
        Err(format!("a name is 1 to {MAX_NAME} of a-z, 0-9, `.`, `_`, `-` and begins with a letter or digit"))
    }
}

/// Text for people.
fn readable(text: &str, max: usize) -> Result<String, String> {
    if text.chars().count() > max {
        return Err(format!("more than {max} characters"));
    }
    let text = text.trim();
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err("has control characters".to_owned());
    }
    Ok(text.replace('\n', " "))
}

fn named(text: &str, max: usize) -> Result<String, String> {
    let text = readable(text, max)?;
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}
