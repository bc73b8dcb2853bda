//! One HTTP connection manager: whether it is ours to look at, and then everything about it.

use std::rc::Rc;

use super::authz_filter::Before;
use super::codes::Code;
use super::model::{Chain, Filter, HCM, Listener, Model, ROUTER, Reach, endpoints, reach};
use super::node::Node;
use super::report::{Place, Report};
use super::routes::{self, Routes, Target};
use super::{authz_filter, deadline, identity, order, paths, tcp, watch};

/// What the parts look at together.
pub struct Http<'a> {
    pub model: &'a Model,
    pub listener: &'a Listener,
    pub chain: &'a Chain,
    pub fields: &'a Node,
    pub filters: Vec<Filter>,
    pub routes: Rc<Routes>,
    pub place: Place,
    /// The upgrade whose own chain of filters this is.
    upgrade: Option<String>,
}

/// Paths of health and metrics, below which nothing else lives.
const OPERATIONAL: [&str; 8] =
    ["/stats", "/metrics", "/ready", "/readyz", "/healthz", "/livez", "/health", "/app-health"];

pub const FILE_SERVER: &str = "file_server.v3.FileServerConfig";

impl<'a> Http<'a> {
    pub fn of(model: &'a Model, listener: &'a Listener, chain: &'a Chain, filter: &'a Filter) -> Self {
        let place = Place::listener(&listener.name, listener.node.line())
            .chain(&chain.name, chain.node.line())
            .at(filter.fields.line());
        Self {
            model,
            listener,
            chain,
            fields: &filter.fields,
            filters: model.filters(filter.fields.get("http_filters")),
            routes: Rc::new(Routes::of(model, &filter.fields, &place)),
            place,
            upgrade: None,
        }
    }

    /// Requests of an upgrade can have a chain of filters of their own, which takes the place of the other one.
    pub fn upgrades(&self) -> Vec<Self> {
        let own = self.fields.get("upgrade_configs").items().iter();
        let own = own.filter(|upgrade| !upgrade.get("filters").items().is_empty());
        own.map(|upgrade| Self {
            filters: self.model.filters(upgrade.get("filters")),
            routes: Rc::clone(&self.routes),
            place: self.place.at(upgrade.line()),
            upgrade: Some(upgrade.get("upgrade_type").text().to_owned()),
            ..*self
        })
        .collect()
    }

    pub fn examine(&self, report: &mut Report) {
        self.openings(report);
        if !self.filters.iter().any(Filter::may_be_ext_authz) {
            self.unchecked(report);
            return;
        }
        for missing in &self.routes.missing {
            report.add(Code::RoutesUnknown, &self.place, missing);
        }
        routes::escapes(&self.routes, &self.filters, report);
        let guard = routes::guard(&self.filters);
        for (index, filter) in self.filters.iter().enumerate().filter(|(_, filter)| filter.may_be_ext_authz())
        {
            let place = self.place.filter(&filter.name, filter.line);
            let before = Before { filters: &self.filters[..index], routes: &self.routes, guard };
            authz_filter::common(self.model, &before, filter, &place, report);
            authz_filter::http(self.model, filter, &self.filters, &self.routes, &place, report);
        }
        if guard.is_none() {
            report.add(Code::NoGuard, &self.place, "");
        }
        order::examine(&self.filters, &self.routes, &self.place, report);
        watch::examine(self.model, &self.filters, &self.place, report);
        identity::examine(self, report);
        deadline::examine(self, report);
        paths::examine(self, report);
    }

    /// Routes that lead where a client wants, or to what nobody should reach, whoever is asked.
    fn openings(&self, report: &mut Report) {
        for target in &self.routes.targets {
            if opens_admin(self.model, target) && !self.filters.iter().any(Filter::may_be_ext_authz) {
                let what = format!("cluster {} is the admin", target.upstream);
                report.add(Code::AdminExposed, &target.place, what);
            }
            let options = self.model.clusters.get(&target.upstream);
            let options = options.map(|cluster| cluster.get("original_dst_lb_config"));
            let Some(options) = options.filter(|options| options.get("use_http_header").is_true()) else {
                continue;
            };
            let own = options.get("http_header_name").text();
            let header = if own.is_empty() { "x-envoy-original-dst-host" } else { own };
            if !identity::is_removed(self, header) {
                let what = format!("cluster {} goes by {header}", target.upstream);
                report.add(Code::OriginalDstHeader, &target.place, what);
            }
        }
    }

    /// Nobody asks daypass here. That is as it should be where nothing leads to an upstream.
    fn unchecked(&self, report: &mut Report) {
        // A listener inside this Envoy is looked at by itself.
        let leaves = |target: &&Target| tcp::inner(self.model, &target.upstream).is_none();
        let targets: Vec<&Target> = self.routes.targets.iter().filter(leaves).collect();
        let leads_nowhere = targets.is_empty() && self.routes.missing.is_empty() && self.answers().is_none();
        if leads_nowhere || self.is_checked_before() {
            return;
        }
        if is_outbound(self.model, self.listener) {
            report.add(Code::ListenerOutbound, &self.place, "");
        } else if !targets.is_empty() && targets.iter().all(|target| is_operational(self.model, target)) {
            report.add(Code::ListenerOperational, &self.place, "");
        } else if let Some(filter) = self.filters.iter().find(|filter| filter.message.is_empty()) {
            report.add(Code::FilterUnknown, &self.place.filter(&filter.name, filter.line), "");
            report.add(Code::ListenerUnchecked, &self.place, "unless this filter is ext_authz");
        } else {
            report.add(Code::ListenerUnchecked, &self.place, self.ways(&targets));
        }
    }

    /// A filter that serves requests without a route: files, or an end of the chain that is no router.
    fn answers(&self) -> Option<&Filter> {
        let is_end = |filter: &&Filter| !filter.is(ROUTER) && !filter.message.is_empty();
        let files = self.filters.iter().find(|filter| filter.is(FILE_SERVER) && !filter.is_disabled);
        files.or_else(|| self.filters.last().filter(is_end))
    }

    /// Whether only requests come in that a listener outside has checked. Routes that escape are found there.
    fn is_checked_before(&self) -> bool {
        if !self.listener.is_internal() {
            return false;
        }
        let ways = self.ways_in(&|filter| {
            let filters = self.model.filters(filter.fields.get("http_filters"));
            filter.is(HCM) && filters.iter().any(Filter::may_be_ext_authz)
        });
        !ways.is_empty() && ways.iter().all(|is_checked| *is_checked)
    }

    /// Whether this Envoy itself makes the requests that come in: whatever else leads to a listener inside passes on what a
    /// client says.
    pub fn ends_tunnels(&self) -> bool {
        self.listener.is_internal()
            && self.ways_in(&|filter| filter.fields.get("tunneling_config").is_set()).iter().all(|own| *own)
    }

    /// What is so of each filter that leads to this listener from another one of this Envoy.
    fn ways_in(&self, is_so: &dyn Fn(&Filter) -> bool) -> Vec<bool> {
        let leads_here = |cluster: &str| {
            tcp::inner(self.model, cluster).is_some_and(|inner| inner.name == self.listener.name)
        };
        let mut ways = Vec::new();
        let chains = self.model.listeners.iter().flat_map(|listener| &listener.chains);
        for filter in chains.flat_map(|chain| &chain.filters) {
            if tcp::is_proxy(filter) && tcp::upstreams(filter).into_iter().any(leads_here) {
                ways.push(is_so(filter));
            } else if filter.is(HCM) {
                let routes = Routes::of(self.model, &filter.fields, &Place::default());
                if routes.targets.iter().any(|target| leads_here(&target.upstream)) {
                    ways.push(is_so(filter));
                }
            }
        }
        ways
    }

    /// Where its requests go, in short.
    fn ways(&self, targets: &[&Target]) -> String {
        if let Some(upgrade) = &self.upgrade {
            return format!("the upgrade to {upgrade} has filters of its own, without ext_authz");
        }
        if let Some(filter) = self.answers() {
            return format!("{} answers or leads on by itself", filter.name);
        }
        let Some(first) = targets.first() else {
            return format!("{} is not in what was read", self.routes.missing.join(", "));
        };
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let (host, route) = (name(&first.place.virtual_host), name(&first.place.route));
        match targets.len() {
            1 => format!("route {route} of virtual host {host}"),
            count => format!("{count} routes, the first is {route} of virtual host {host}"),
        }
    }
}

/// A sidecar's listener for calls of its workload. A mesh's gateways call all of theirs outbound, clients' too, so one that
/// others can connect to is only believed of a sidecar.
pub fn is_outbound(model: &Model, listener: &Listener) -> bool {
    let is_inside = listener.reach() == Reach::Local
        || listener.node.get("bind_to_port").flag() == Some(false)
        || listener.node.at(&["deprecated_v1", "bind_to_port"]).flag() == Some(false)
        || model.node_id.starts_with("sidecar~");
    let is_outbound = listener.node.get("traffic_direction").is_value("OUTBOUND", 2);
    is_outbound && is_inside && !model.node_id.starts_with("router~")
}

fn is_operational(model: &Model, target: &Target) -> bool {
    if rewrites(&target.route).is_some() {
        return false;
    }
    let matches = target.route.get("match");
    // Nothing else of the admin begins like this.
    if matches.get("prefix").text() == "/stats" && is_admin(model, &target.upstream) != Some(false) {
        return true;
    }
    let below = |path: &str| {
        OPERATIONAL.iter().any(|known| path.strip_prefix(known).is_some_and(|rest| rest.starts_with('/')))
    };
    // `/health` begins /health-records too.
    let (path, separated) = (matches.get("path").text(), matches.get("path_separated_prefix").text());
    OPERATIONAL.contains(&path)
        || OPERATIONAL.contains(&separated)
        || [path, separated, matches.get("prefix").text()].into_iter().any(below)
}

/// What a route makes of the path, if it is another one then.
fn rewrites(route: &Node) -> Option<&Node> {
    let names = ["prefix_rewrite", "regex_rewrite", "path_rewrite_policy", "path_rewrite"];
    names.iter().map(|name| route.at(&["route", name])).find(|rewrite| rewrite.is_set())
}

/// Statistics and readiness: what of the admin's paths anybody may see.
pub fn is_harmless_path(path: &str) -> bool {
    path == "/ready" || path == "/stats" || path.starts_with("/stats/")
}

/// Whether a cluster leads to the admin's own address; unknown where the cluster is.
fn is_admin(model: &Model, cluster: &str) -> Option<bool> {
    let cluster = model.clusters.get(cluster)?;
    let Some(admin) = model.admin.as_ref().map(|admin| admin.get("address")) else { return Some(false) };
    let port = |address: &Node| address.at(&["socket_address", "port_value"]).number();
    let pipe = |address: &Node| address.at(&["pipe", "path"]).text().to_owned();
    let is_it = |other: &&Node| {
        let is_same = port(other).is_some() && port(other) == port(admin);
        reach(other) == Reach::Local && is_same || !pipe(other).is_empty() && pipe(other) == pipe(admin)
    };
    Some(endpoints(cluster).iter().any(is_it))
}

/// A route to the admin, with a path that more than statistics lie below.
fn opens_admin(model: &Model, target: &Target) -> bool {
    let matches = target.route.get("match");
    let (path, prefix) = (matches.get("path").text(), matches.get("prefix").text());
    let is_harmless = match rewrites(&target.route) {
        Some(rewrite) => !path.is_empty() && is_harmless_path(rewrite.text()),
        None => is_harmless_path(path) || is_harmless_path(prefix),
    };
    is_admin(model, &target.upstream) == Some(true) && !is_harmless
}
