//! Where requests can go: every route that leads to an upstream, with what is said about filters on the way to it.

use std::collections::BTreeSet;

use super::codes::Code;
use super::model::{EXT_AUTHZ, Filter, Model, RBAC};
use super::node::{NOTHING, Node, Typed};
use super::report::{Place, Report};

/// One way to an upstream.
#[derive(Debug)]
pub struct Target {
    pub place: Place,
    pub route: Node,
    pub virtual_host: Node,
    /// The cluster, as far as it is known.
    pub upstream: String,
    /// What may say something about filters, the most specific first.
    levels: Vec<Node>,
}

/// The routes of a connection manager.
#[derive(Debug, Default)]
pub struct Routes {
    pub targets: Vec<Target>,
    pub configs: Vec<Node>,
    pub virtual_hosts: Vec<(Place, Node)>,
    /// Names of what was not in the input.
    pub missing: Vec<String>,
}

/// Whether a filter runs for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    Yes,
    /// The route, or what it is in, switches it off.
    SwitchedOff,
    /// The chain has it disabled and nobody switches it on.
    NotSwitchedOn,
}

impl Routes {
    pub fn of(model: &Model, hcm: &Node, place: &Place) -> Self {
        let mut routes = Self::default();
        let scoped = hcm.get("scoped_routes");
        if hcm.get("route_config").is_set() {
            routes.take(hcm.get("route_config"), place);
        } else if hcm.get("rds").is_set() {
            routes.take_named(model, hcm.at(&["rds", "route_config_name"]).text(), place);
        } else if scoped.is_set() {
            let list = scoped.at(&["scoped_route_configurations_list", "scoped_route_configurations"]);
            for scope in list.items() {
                match scope.get("route_configuration") {
                    inline if inline.is_set() => routes.take(inline, place),
                    _ => routes.take_named(model, scope.get("route_configuration_name").text(), place),
                }
            }
            if list.items().is_empty() {
                routes.missing.push(format!("scoped routes {}", scoped.get("name").text()));
            }
        }
        routes
    }

    fn take_named(&mut self, model: &Model, name: &str, place: &Place) {
        match model.routes.get(name) {
            Some(config) => self.take(config, place),
            None => self.missing.push(format!("route configuration {name}")),
        }
    }

    fn take(&mut self, config: &Node, place: &Place) {
        let place = place.at(config.line());
        if config.get("vhds").is_set() {
            self.missing.push("virtual hosts by discovery".to_owned());
        }
        for host in config.get("virtual_hosts").items() {
            let place = place.virtual_host(host.get("name").text(), host.line());
            self.virtual_hosts.push((place.clone(), host.clone()));
            if host.get("matcher").is_set() {
                self.missing.push(format!("the matcher of virtual host {}", host.get("name").text()));
            }
            for route in host.get("routes").items() {
                let place = place.route(&route_name(route), route.line());
                self.take_route(config, host, route, &place);
            }
        }
        self.configs.push(config.clone());
    }

    /// Redirects and direct responses lead nowhere.
    fn take_route(&mut self, config: &Node, host: &Node, route: &Node, place: &Place) {
        let action = route.get("route");
        if !action.is_set() {
            return;
        }
        let target = |levels: Vec<Node>, upstream: &str| Target {
            place: place.clone(),
            route: route.clone(),
            virtual_host: host.clone(),
            upstream: upstream.to_owned(),
            levels,
        };
        let common = vec![route.clone(), host.clone(), config.clone()];
        let weighted = action.at(&["weighted_clusters", "clusters"]).items();
        let own = weighted.iter().filter(|cluster| cluster.get("typed_per_filter_config").is_set());
        for cluster in own {
            let levels = std::iter::once(cluster.clone()).chain(common.iter().cloned()).collect();
            self.targets.push(target(levels, cluster.get("name").text()));
        }
        let is_plain = |cluster: &&Node| !cluster.get("typed_per_filter_config").is_set();
        let first = weighted.iter().find(is_plain);
        if weighted.is_empty() || first.is_some() {
            let upstream =
                first.map_or_else(|| action.get("cluster").text(), |first| first.get("name").text());
            self.targets.push(target(common, upstream));
        }
    }
}

impl Target {
    /// What the most specific level says of a filter: the message, and whether it switches it off.
    /// A level without a message leaves that to the next one, also where it has an opinion on `disabled`.
    fn own(&self, filter: &str) -> Option<(Typed<'_>, bool)> {
        let entries =
            self.levels.iter().filter_map(|level| level.get("typed_per_filter_config").entry(filter));
        let mut is_off = None;
        for entry in entries {
            let found = entry.any();
            let is_around = found.name.ends_with("config.route.v3.FilterConfig");
            let own = is_around && found.fields.get("disabled").is_true();
            let off = *is_off.get_or_insert(own);
            let message = if is_around { found.fields.get("config").any() } else { found };
            if !message.name.is_empty() {
                return Some((message, off || message.fields.get("disabled").is_true()));
            }
        }
        is_off.map(|off| (Typed { name: "", fields: &NOTHING }, off))
    }

    pub fn settings(&self, filter: &Filter) -> Option<Typed<'_>> {
        self.own(&filter.name).map(|(typed, _)| typed)
    }

    pub fn runs(&self, filter: &Filter) -> Runs {
        if let Some((name, is_disabled)) = &filter.within {
            match self.own(name) {
                Some((_, true)) => return Runs::SwitchedOff,
                // A chain of the route's own takes the place of the default one.
                Some((own, _)) if own.fields.is_set() && !filter.message.is_empty() => {
                    let same = |name: &str| name == filter.message;
                    if own.name.ends_with("FilterChainConfigPerRoute") && !own.fields.any_message(&same) {
                        return Runs::SwitchedOff;
                    }
                }
                None if *is_disabled => return Runs::NotSwitchedOn,
                _ => {}
            }
        }
        match self.own(&filter.name) {
            Some((_, true)) => Runs::SwitchedOff,
            None if filter.is_disabled => Runs::NotSwitchedOn,
            _ => Runs::Yes,
        }
    }

    /// The retry policy that counts: the route's, else the virtual host's.
    pub fn policy(&self, name: &str) -> &Node {
        let own = self.route.at(&["route", name]);
        if own.is_set() { own } else { self.virtual_host.get(name) }
    }
}

/// Its name, or what it matches.
fn route_name(route: &Node) -> String {
    let name = route.get("name").text();
    if !name.is_empty() {
        return name.to_owned();
    }
    let matches = route.get("match");
    for kind in ["prefix", "path", "path_separated_prefix"] {
        if matches.get(kind).is_set() {
            return format!("{} {}", kind.replace('_', " "), matches.get(kind).text());
        }
    }
    if matches.get("safe_regex").is_set() {
        return format!("regex {}", matches.at(&["safe_regex", "regex"]).text());
    }
    if matches.get("connect_matcher").is_set() { "CONNECT".to_owned() } else { "unnamed".to_owned() }
}

/// Routes whose requests no ext_authz filter sees.
pub fn escapes(routes: &Routes, filters: &[Filter], report: &mut Report) {
    let checks: Vec<&Filter> = filters.iter().filter(|filter| filter.may_be_ext_authz()).collect();
    let guard = guard(filters);
    for target in &routes.targets {
        let runs: Vec<Runs> = checks.iter().map(|filter| target.runs(filter)).collect();
        if runs.contains(&Runs::Yes) || is_guarded(guard, target) {
            continue;
        }
        let (code, what) = if runs.contains(&Runs::SwitchedOff) {
            (Code::RouteUnchecked, "ext_authz is switched off for it")
        } else {
            (Code::RouteNotEnabled, "nothing enables ext_authz for it")
        };
        let upstream = &target.upstream;
        let to = if upstream.is_empty() { String::new() } else { format!("; its upstream is {upstream}") };
        report.add(code, &target.place, format!("{what}{to}"));
    }
    for target in &routes.targets {
        if target.route.at(&["route", "cluster_header"]).is_set() {
            report.add(
                Code::ClusterHeader,
                &target.place,
                format!("cluster_header: {}", target.route.at(&["route", "cluster_header"]).text()),
            );
        }
        let rewrite = target.route.at(&["route", "host_rewrite_header"]);
        if !rewrite.text().is_empty() {
            let what = format!("host_rewrite_header: {}", rewrite.text());
            report.add(Code::HostRewriteHeader, &target.place.at(rewrite.line()), what);
        }
        if target.route.at(&["match", "case_sensitive"]).flag() == Some(false) {
            report.add(Code::CaseInsensitiveRoute, &target.place, "");
        }
    }
}

/// An RBAC filter behind the last check that wants to see what the check left in the metadata.
pub fn guard(filters: &[Filter]) -> Option<&Filter> {
    let last = filters.iter().rposition(Filter::may_be_ext_authz)?;
    filters[last..]
        .iter()
        .find(|filter| filter.is(RBAC) && !filter.is_conditional && demands(filter.fields.get("rules")))
}

/// Whether every policy that allows wants to see the metadata: one that does not lets pass what nobody checked.
fn demands(rules: &Node) -> bool {
    let policies = rules.get("policies").members();
    let all = |list: &Node| !list.items().is_empty() && list.items().iter().all(is_demand);
    rules.get("action").is_value("ALLOW", 0)
        && !policies.is_empty()
        && policies.iter().all(|(_, policy)| all(policy.get("principals")) || all(policy.get("permissions")))
}

/// A matcher that nothing but the metadata of a check satisfies. What stands below a `not` does not count.
fn is_demand(rule: &Node) -> bool {
    let lists = |name: &str, list: &str| rule.at(&[name, list]).items();
    let all = [lists("and_rules", "rules"), lists("and_ids", "ids")];
    let some = [lists("or_rules", "rules"), lists("or_ids", "ids")];
    let sourced = rule.get("sourced_metadata");
    let is_dynamic = sourced.get("metadata_source").is_value("DYNAMIC", 0);
    is_present(rule.get("metadata"))
        || is_dynamic && is_present(sourced.get("metadata_matcher"))
        || all.iter().any(|list| list.iter().any(is_demand))
        || some.iter().any(|list| !list.is_empty() && list.iter().all(is_demand))
}

fn is_present(matcher: &Node) -> bool {
    fn value(matcher: &Node) -> bool {
        let any = matcher.at(&["or_match", "value_matchers"]).items();
        matcher.is_set()
            && !matcher.get("null_match").is_set()
            && matcher.get("present_match").flag() != Some(false)
            && any.iter().all(value)
    }
    matcher.get("filter").text().starts_with("envoy.filters.http.ext_authz")
        && !matcher.get("invert").is_true()
        && value(matcher.get("value"))
}

/// Per route, rules of the route's own take the place of the guard's.
pub fn is_guarded(guard: Option<&Filter>, target: &Target) -> bool {
    guard.is_some_and(|guard| {
        let has_rules = target.settings(guard).is_none_or(|settings| {
            !settings.name.ends_with("RBACPerRoute") || demands(settings.fields.at(&["rbac", "rules"]))
        });
        has_rules && target.runs(guard) == Runs::Yes
    })
}

/// Settings for ext_authz under a name that no filter of the whole configuration has.
pub fn unmatched(routes: &Routes, names: &BTreeSet<String>, report: &mut Report) {
    for (place, host) in &routes.virtual_hosts {
        let levels = host
            .get("routes")
            .items()
            .iter()
            .map(|route| (place.route(&route_name(route), route.line()), route));
        for (place, level) in std::iter::once((place.clone(), host)).chain(levels) {
            for (name, node) in level.get("typed_per_filter_config").members() {
                let is_ours = node.any().name.ends_with("ext_authz.v3.ExtAuthzPerRoute");
                if is_ours && !names.contains(name.as_str()) {
                    let line = node.line();
                    report.add(
                        Code::OverrideUnmatched,
                        &place.at(line),
                        format!("no filter is named {name}"),
                    );
                }
            }
        }
    }
}

/// For readers of one filter's settings, which may be unset.
pub fn check_settings<'a>(target: &'a Target, filter: &Filter) -> &'a Node {
    if !filter.is(EXT_AUTHZ) {
        return &NOTHING;
    }
    match target.settings(filter) {
        Some(typed) => typed.fields.get("check_settings"),
        None => &NOTHING,
    }
}
