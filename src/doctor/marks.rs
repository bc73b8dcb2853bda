//! `filter_enabled_metadata`: which requests are checked because another filter marks them. A mesh marks with rules that only
//! shadow; a gateway marks what is not to be checked.

use super::authz_filter::Before;
use super::codes::Code;
use super::model::{Filter, RBAC};
use super::node::Node;
use super::report::{Place, Report};
use super::routes::{Runs, Target, is_guarded};

/// How many policies a finding names.
const MAX_NAMES: usize = 3;

pub fn examine(before: &Before<'_>, matcher: &Node, check: &Filter, place: &Place, report: &mut Report) {
    let place = place.at(matcher.line());
    let key = matcher.get("path").items().first().map_or("", |part| part.get("key").text());
    if matcher.get("invert").is_true() {
        exempted(before, matcher, key, check, &place, report);
        return;
    }
    let prefix = matcher.at(&["value", "string_match", "prefix"]).text();
    let rules = before.filters.iter().rev().find(|filter| {
        filter.is(RBAC)
            && !filter.is_conditional
            && !filter.is_disabled
            && filter.fields.get("shadow_rules").is_set()
            && key == id_key(&filter.fields)
    });
    let Some(rules) = rules else {
        report.add(Code::EnabledByMetadata, &place, format!("filter_enabled_metadata wants {key}"));
        return;
    };
    marked(rules.fields.get("shadow_rules"), prefix, &place, report);
    for target in checked(before, check) {
        let own = target.settings(rules).filter(|own| own.name.ends_with("RBACPerRoute"));
        let own = own.map(|own| own.fields.get("rbac"));
        let is_marked = target.runs(rules) == Runs::Yes
            && own.is_none_or(|rbac| rbac.get("shadow_rules").is_set() && id_key(rbac) == key);
        if !is_marked {
            let what = format!("{}, whose rules mark what is checked, is off for it", rules.name);
            report.add(Code::RouteUnchecked, &target.place, what);
        } else if let Some(rbac) = own {
            marked(rbac.get("shadow_rules"), prefix, &target.place, report);
        }
    }
}

fn id_key(rbac: &Node) -> String {
    format!("{}shadow_effective_policy_id", rbac.get("shadow_rules_stat_prefix").text())
}

/// Routes whose requests come to the check and are not denied behind it anyway.
fn checked<'a>(before: &'a Before<'_>, check: &'a Filter) -> impl Iterator<Item = &'a Target> {
    let targets = before.routes.targets.iter();
    targets.filter(|target| target.runs(check) == Runs::Yes && !is_guarded(before.guard, target))
}

/// Checked is what has no mark: routes whose requests are marked are not.
fn exempted(
    before: &Before<'_>,
    matcher: &Node,
    key: &str,
    check: &Filter,
    place: &Place,
    report: &mut Report,
) {
    let namespace = matcher.get("filter").text();
    let writes =
        |filter: &&Filter| !filter.is_conditional && filter.outer.any_text(&|text| text == namespace);
    let markers: Vec<&Filter> = before.filters.iter().filter(writes).collect();
    let is_plain = matcher.at(&["value", "bool_match"]).is_true()
        && markers.iter().all(|filter| filter.message.ends_with("set_metadata.v3.Config"));
    let can_run = markers.iter().any(|filter| !filter.is_disabled);
    if !is_plain || can_run || before.filters.iter().any(|filter| filter.message.is_empty()) {
        report.add(Code::EnabledByMetadata, place, format!("filter_enabled_metadata wants no {key}"));
        return;
    }
    for target in checked(before, check) {
        if let Some(filter) = markers.iter().find(|filter| target.runs(filter) == Runs::Yes) {
            let what = format!("{} marks it as not to be checked", filter.name);
            report.add(Code::RouteUnchecked, &target.place, what);
        }
    }
}

/// The first policy that matches, by name, is the one whose name is left.
fn marked(rules: &Node, prefix: &str, place: &Place, report: &mut Report) {
    let mut all: Vec<_> = rules.get("policies").members().iter().collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    let whole = all.iter().position(|(name, policy)| name.starts_with(prefix) && matches_all(policy));
    if let Some(whole) = whole {
        match all[..whole].iter().find(|(name, _)| !name.starts_with(prefix)) {
            None => report.add(Code::CheckedByAllRules, place, ""),
            Some((name, _)) => {
                report.add(Code::CheckedByRules, place, format!("{name} comes first and marks nothing"));
            }
        }
        return;
    }
    let policies: Vec<_> = all.iter().filter(|(name, _)| name.starts_with(prefix)).collect();
    let names: Vec<&str> = policies.iter().take(MAX_NAMES).map(|(name, _)| name.as_str()).collect();
    let more = policies.len().saturating_sub(MAX_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = if names.is_empty() {
        "no policy marks anything".to_owned()
    } else {
        format!("checked is what these rules match: {}{more}", names.join(", "))
    };
    report.add(Code::CheckedByRules, place, what);
}

fn matches_all(policy: &Node) -> bool {
    let any = |list: &Node| list.items().iter().any(is_any);
    let has_condition = policy.get("condition").is_set() || policy.get("checked_condition").is_set();
    any(policy.get("permissions")) && any(policy.get("principals")) && !has_condition
}

fn is_any(rule: &Node) -> bool {
    let lists = |name: &str, list: &str| rule.at(&[name, list]).items();
    let all = [lists("and_rules", "rules"), lists("and_ids", "ids")];
    let some = [lists("or_rules", "rules"), lists("or_ids", "ids")];
    rule.get("any").is_true()
        || all.iter().any(|list| !list.is_empty() && list.iter().all(is_any))
        || some.iter().any(|list| list.iter().any(is_any))
}
