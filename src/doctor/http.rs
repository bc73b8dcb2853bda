//! One HTTP connection manager: whether it is ours to look at, and then everything about it.

use super::codes::Code;
use super::model::{Chain, Filter, HCM, Listener, Model};
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
    pub routes: Routes,
    pub place: Place,
}

/// Paths of health and metrics, below which nothing else lives.
const OPERATIONAL: [&str; 8] =
    ["/stats", "/metrics", "/ready", "/readyz", "/healthz", "/livez", "/health", "/app-health"];

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
            routes: Routes::of(model, &filter.fields, &place),
            place,
        }
    }

    pub fn examine(&self, report: &mut Report) {
        if !self.filters.iter().any(Filter::may_be_ext_authz) {
            self.unchecked(report);
            return;
        }
        for missing in &self.routes.missing {
            report.add(Code::RoutesUnknown, &self.place, missing);
        }
        routes::escapes(&self.routes, &self.filters, report);
        for (index, filter) in self.filters.iter().enumerate().filter(|(_, filter)| filter.may_be_ext_authz())
        {
            let place = self.place.filter(&filter.name, filter.line);
            authz_filter::common(self.model, &self.filters[..index], filter, &place, report);
            authz_filter::http(filter, &self.filters, &self.routes, &place, report);
        }
        if routes::guard(&self.filters).is_none() {
            report.add(Code::NoGuard, &self.place, "");
        }
        order::examine(&self.filters, &self.place, report);
        watch::examine(self.model, &self.filters, &self.place, report);
        identity::examine(self, report);
        deadline::examine(self, report);
        paths::examine(self, report);
    }

    /// Nobody asks daypass here. That is as it should be where nothing leads to an upstream.
    fn unchecked(&self, report: &mut Report) {
        // A listener inside this Envoy is looked at by itself.
        let leaves = |target: &&Target| tcp::inner(self.model, &target.upstream).is_none();
        let targets: Vec<&Target> = self.routes.targets.iter().filter(leaves).collect();
        if targets.is_empty() && self.routes.missing.is_empty() || self.is_checked_before() {
            return;
        }
        if is_outbound(self.model, self.listener) {
            report.add(Code::ListenerOutbound, &self.place, "");
        } else if !targets.is_empty() && targets.iter().all(|target| is_operational(&target.route)) {
            report.add(Code::ListenerOperational, &self.place, "");
        } else if let Some(filter) = self.filters.iter().find(|filter| filter.message.is_empty()) {
            report.add(Code::FilterUnknown, &self.place.filter(&filter.name, filter.line), "");
            report.add(Code::ListenerUnchecked, &self.place, "unless this filter is ext_authz");
        } else {
            report.add(Code::ListenerUnchecked, &self.place, self.ways(&targets));
        }
    }

    /// Whether only requests come in that a listener outside has checked. Routes that escape are found there.
    fn is_checked_before(&self) -> bool {
        if !self.listener.is_internal() {
            return false;
        }
        let leads_here = |cluster: &str| {
            tcp::inner(self.model, cluster).is_some_and(|inner| inner.name == self.listener.name)
        };
        let mut ways = Vec::new();
        let chains = self.model.listeners.iter().flat_map(|listener| &listener.chains);
        for filter in chains.flat_map(|chain| &chain.filters) {
            if tcp::is_proxy(filter) && tcp::upstreams(filter).into_iter().any(leads_here) {
                ways.push(false);
            } else if filter.is(HCM) {
                let routes = Routes::of(self.model, &filter.fields, &Place::default());
                if routes.targets.iter().any(|target| leads_here(&target.upstream)) {
                    let filters = self.model.filters(filter.fields.get("http_filters"));
                    ways.push(filters.iter().any(Filter::may_be_ext_authz));
                }
            }
        }
        !ways.is_empty() && ways.iter().all(|is_checked| *is_checked)
    }

    /// Where its requests go, in short.
    fn ways(&self, targets: &[&Target]) -> String {
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

/// A sidecar's listener for calls of its workload. A mesh's gateways call all of theirs outbound, clients' too.
pub fn is_outbound(model: &Model, listener: &Listener) -> bool {
    listener.node.get("traffic_direction").is_value("OUTBOUND", 2) && !model.node_id.starts_with("router~")
}

fn is_operational(route: &Node) -> bool {
    let matches = route.get("match");
    let path = ["path", "prefix", "path_separated_prefix"].map(|kind| matches.get(kind).text());
    path.iter().any(|path| {
        OPERATIONAL.iter().any(|known| {
            path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    })
}
