//! What was read, sorted: listeners with their filters, clusters, route configurations, and what the admin listener is.
//! A bootstrap, a /config_dump and a discovery response all end up here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::node::{NOTHING, Node, Typed};

#[derive(Debug, Default)]
pub struct Model {
    pub admin: Option<Node>,
    pub listeners: Vec<Listener>,
    pub clusters: BTreeMap<String, Node>,
    pub routes: BTreeMap<String, Node>,
    /// Extension configurations that came by discovery, by name.
    pub extensions: BTreeMap<String, Node>,
    /// What Envoy's own headers begin with, if not with x-envoy.
    pub header_prefix: String,
    /// Listeners come by discovery too, and this is a bootstrap.
    pub has_more_listeners: bool,
    /// Layers of runtime values that do not change, the one that counts last.
    runtime: Vec<Node>,
    /// Secrets of the input, by name.
    pub secrets: BTreeMap<String, Node>,
    /// What Envoy refused, by kind and name.
    pub rejected: Vec<(&'static str, String)>,
    /// `sidecar~10.0.0.1~...` in a mesh.
    pub node_id: String,
}

#[derive(Debug)]
pub struct Listener {
    pub name: String,
    pub node: Node,
    pub chains: Vec<Chain>,
}

#[derive(Debug)]
pub struct Chain {
    pub name: String,
    pub node: Node,
    pub filters: Vec<Filter>,
}

/// A filter of a connection or of a request.
#[derive(Debug, Clone)]
pub struct Filter {
    pub name: String,
    /// The type of its configuration; empty where that is not known.
    pub message: String,
    pub fields: Node,
    pub is_disabled: bool,
    /// A matcher decides whether it runs.
    pub is_conditional: bool,
    /// It is ext_authz, or what a matcher may choose is.
    pub is_check: bool,
    /// With the matcher around it, if there is one.
    pub outer: Node,
    /// The filter whose chain it is in, and whether that one is disabled.
    pub within: Option<(String, bool)>,
    pub line: Option<usize>,
}

/// What an endpoint is to whoever listens on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A socket of this machine, or no address at all.
    Local,
    Remote,
}

pub const HCM: &str = "http_connection_manager.v3.HttpConnectionManager";
pub const EXT_AUTHZ: &str = "filters.http.ext_authz.v3.ExtAuthz";
pub const NETWORK_EXT_AUTHZ: &str = "filters.network.ext_authz.v3.ExtAuthz";
pub const TCP_PROXY: &str = "tcp_proxy.v3.TcpProxy";
pub const ROUTER: &str = "router.v3.Router";
pub const JWT: &str = "jwt_authn.v3.JwtAuthentication";
pub const RBAC: &str = "filters.http.rbac.v3.RBAC";
pub const EXT_PROC: &str = "ext_proc.v3.ExternalProcessor";
const FILTER_CHAIN: &str = "filter_chain.v3.FilterChainConfig";
const COMPOSITE: &str = "composite.v3.Composite";
const WITH_MATCHER: &str = "matching.v3.ExtensionWithMatcher";

impl Filter {
    pub fn is(&self, message: &str) -> bool {
        self.message.ends_with(message)
    }

    /// Whether ext_authz is among what a matcher may choose.
    pub fn may_be_ext_authz(&self) -> bool {
        self.is_check
    }

    pub fn is_composite(&self) -> bool {
        self.is(COMPOSITE)
    }
}

impl Model {
    /// Sorts a document, or says why it is none of Envoy's.
    ///
    /// # Errors
    /// It has none of the parts that a bootstrap, a dump or a discovery response has.
    pub fn of(document: &Node) -> Result<Self, String> {
        let mut model = Self::default();
        if !document.get("configs").items().is_empty() {
            model.take_dump(document.get("configs").items());
        } else if !document.get("resources").items().is_empty() {
            document.get("resources").items().iter().for_each(|resource| model.take_resource(resource));
        } else {
            let is_bootstrap = ["static_resources", "admin", "dynamic_resources", "node"]
                .iter()
                .any(|name| document.get(name).is_set());
            if !is_bootstrap {
                return Err(
                    "is no configuration of Envoy: it has neither static_resources (a bootstrap) nor \
                            configs (what the admin's /config_dump says)"
                        .to_owned(),
                );
            }
            model.take_bootstrap(document, Static::Take);
        }
        model.resolve();
        Ok(model)
    }

    fn take_bootstrap(&mut self, bootstrap: &Node, resources: Static) {
        if bootstrap.get("admin").is_set() {
            self.admin = Some(bootstrap.get("admin").clone());
        }
        bootstrap.at(&["node", "id"]).text().clone_into(&mut self.node_id);
        bootstrap.get("header_prefix").text().clone_into(&mut self.header_prefix);
        let layers = bootstrap.at(&["layered_runtime", "layers"]).items().iter();
        self.runtime = layers.map(|layer| layer.get("static_layer").clone()).collect();
        self.has_more_listeners = resources == Static::Take
            && ["lds_config", "lds_resources_locator"]
                .iter()
                .any(|name| bootstrap.at(&["dynamic_resources", name]).is_set());
        if resources == Static::Leave {
            return;
        }
        let resources = bootstrap.get("static_resources");
        resources.get("listeners").items().iter().for_each(|listener| self.take_listener(listener));
        resources.get("clusters").items().iter().for_each(|cluster| self.take_cluster(cluster));
        resources.get("secrets").items().iter().for_each(|secret| self.take_secret(secret));
    }

    /// The parts of a dump. What the bootstrap says of listeners and clusters is in their own parts again.
    fn take_dump(&mut self, configs: &[Node]) {
        let part = |end: &str| -> Vec<&Node> {
            configs.iter().filter(|config| config.any().name.ends_with(end)).collect()
        };
        let has_listeners = !part("ListenersConfigDump").is_empty();
        let has_clusters = !part("ClustersConfigDump").is_empty();
        let resources = if has_listeners || has_clusters { Static::Leave } else { Static::Take };
        for dump in part("BootstrapConfigDump") {
            self.take_bootstrap(dump.get("bootstrap"), resources);
        }
        for dump in part("ListenersConfigDump") {
            for item in dump.get("static_listeners").items() {
                self.take_listener(item.get("listener").any().fields);
            }
            for item in dump.get("dynamic_listeners").items() {
                self.take_dynamic_listener(item);
            }
        }
        for dump in part("ClustersConfigDump") {
            for item in
                ["static_clusters", "dynamic_active_clusters"].map(|name| dump.get(name).items()).concat()
            {
                self.take_cluster(item.get("cluster").any().fields);
                self.note_rejected("cluster", &item, item.at(&["cluster", "name"]).text());
            }
        }
        for dump in part("RoutesConfigDump") {
            for item in
                ["static_route_configs", "dynamic_route_configs"].map(|name| dump.get(name).items()).concat()
            {
                self.take_routes(item.get("route_config").any().fields);
                self.note_rejected("route configuration", &item, item.at(&["route_config", "name"]).text());
            }
        }
        for dump in part("SecretsConfigDump") {
            for item in
                ["static_secrets", "dynamic_active_secrets"].map(|name| dump.get(name).items()).concat()
            {
                self.take_secret(item.get("secret").any().fields);
            }
        }
        for item in part("EcdsConfigDump").iter().flat_map(|dump| dump.get("ecds_filters").items()) {
            self.take_extension(item.get("ecds_filter"));
        }
    }

    fn take_dynamic_listener(&mut self, item: &Node) {
        let name = item.get("name").text();
        self.note_rejected("listener", item, name);
        // One that only warms serves nobody yet, but soon will.
        let state = ["active_state", "warming_state"].map(|state| item.at(&[state, "listener"]));
        if let Some(listener) = state.into_iter().find(|listener| listener.is_set()) {
            self.take_listener(listener.any().fields);
        }
    }

    fn note_rejected(&mut self, kind: &'static str, item: &Node, name: &str) {
        if item.at(&["error_state", "details"]).is_set() {
            self.rejected.push((kind, name.to_owned()));
        }
    }

    fn take_resource(&mut self, resource: &Node) {
        let Typed { name, fields } = resource.any();
        match name {
            "envoy.config.listener.v3.Listener" => self.take_listener(fields),
            "envoy.config.cluster.v3.Cluster" => self.take_cluster(fields),
            "envoy.config.route.v3.RouteConfiguration" => self.take_routes(fields),
            "envoy.config.core.v3.TypedExtensionConfig" => self.take_extension(fields),
            _ => {}
        }
    }

    fn take_listener(&mut self, node: &Node) {
        let name = node.get("name").text();
        let name = if name.is_empty() { address(node) } else { name.to_owned() };
        let mut chains: Vec<Chain> = Vec::new();
        for (index, chain) in node.get("filter_chains").items().iter().enumerate() {
            let name = chain.get("name").text();
            let name = if name.is_empty() { index.to_string() } else { name.to_owned() };
            chains.push(Chain { name, node: chain.clone(), filters: Vec::new() });
        }
        let default = node.get("default_filter_chain");
        if default.is_set() {
            let name = default.get("name").text();
            let name = if name.is_empty() { "default" } else { name };
            chains.push(Chain { name: name.to_owned(), node: default.clone(), filters: Vec::new() });
        }
        self.listeners.push(Listener { name, node: node.clone(), chains });
    }

    fn take_cluster(&mut self, node: &Node) {
        self.clusters.insert(node.get("name").text().to_owned(), node.clone());
    }

    fn take_secret(&mut self, node: &Node) {
        self.secrets.insert(node.get("name").text().to_owned(), node.clone());
    }

    fn take_routes(&mut self, node: &Node) {
        self.routes.insert(node.get("name").text().to_owned(), node.clone());
    }

    fn take_extension(&mut self, node: &Node) {
        self.extensions.insert(node.get("name").text().to_owned(), node.clone());
    }

    /// Filters can be named before what they are is read.
    fn resolve(&mut self) {
        let mut listeners = std::mem::take(&mut self.listeners);
        for chain in listeners.iter_mut().flat_map(|listener| &mut listener.chains) {
            chain.filters = self.filters(chain.node.get("filters"));
        }
        self.listeners = listeners;
    }

    /// Filters in their order, with what discovery and matchers hide.
    pub fn filters(&self, list: &Node) -> Vec<Filter> {
        let mut filters = Vec::new();
        list.items().iter().for_each(|item| self.take_filter(item, &mut filters));
        filters
    }

    /// A filter that is a chain of filters comes with them.
    fn take_filter(&self, item: &Node, filters: &mut Vec<Filter>) {
        let filter = self.filter(item);
        let chain = filter.fields.at(&["default_filter_chain", "filters"]).clone();
        let is_chain = filter.is(FILTER_CHAIN);
        let within = (filter.name.clone(), filter.is_disabled);
        let is_conditional = filter.is_conditional;
        filters.push(filter);
        if is_chain {
            for mut inner in self.filters(&chain) {
                inner.is_conditional |= is_conditional;
                inner.within.get_or_insert_with(|| within.clone());
                filters.push(inner);
            }
        }
    }

    fn filter(&self, item: &Node) -> Filter {
        let name = item.get("name").text();
        let discovery = item.get("config_discovery");
        let mut typed = item.typed_config();
        if discovery.is_set() {
            let default = discovery.get("default_config");
            typed = match self.extensions.get(name) {
                Some(extension) => extension.typed_config(),
                None if default.is_set() => default.any(),
                None => Typed { name: "", fields: &NOTHING },
            };
        }
        let outer = typed.fields.clone();
        let mut is_conditional = false;
        if typed.name.ends_with(WITH_MATCHER) {
            is_conditional = true;
            typed = typed.fields.get("extension_config").typed_config();
        }
        let is_ext_authz = |name: &str| name.ends_with(EXT_AUTHZ);
        let is_chosen = is_conditional || typed.name.ends_with(COMPOSITE);
        let is_check = is_ext_authz(typed.name) || is_chosen && outer.any_message(&is_ext_authz);
        Filter {
            is_check,
            outer,
            within: None,
            name: name.to_owned(),
            message: typed.name.to_owned(),
            fields: typed.fields.clone(),
            is_disabled: item.get("disabled").is_true(),
            is_conditional,
            line: item.line(),
        }
    }

    /// A runtime value that the configuration itself says.
    pub fn runtime(&self, key: &str) -> Option<&Node> {
        self.runtime.iter().rev().find_map(|layer| value_of(layer, key))
    }

    /// What settings of a route may name.
    pub fn http_filter_names(&self) -> BTreeSet<String> {
        let chains = self.listeners.iter().flat_map(|listener| &listener.chains);
        let managers = chains.flat_map(|chain| &chain.filters).filter(|filter| filter.is(HCM));
        let lists = managers.flat_map(|filter| {
            let upgrades = filter.fields.get("upgrade_configs").items().iter();
            upgrades.map(|upgrade| upgrade.get("filters")).chain([filter.fields.get("http_filters")])
        });
        lists.flat_map(|list| self.filters(list)).map(|filter| filter.name).collect()
    }

    /// Whether this configuration asks anybody, anywhere.
    pub fn has_ext_authz(&self) -> bool {
        self.listeners.iter().flat_map(|listener| &listener.chains).flat_map(|chain| &chain.filters).any(
            |filter| {
                filter.is(NETWORK_EXT_AUTHZ)
                    || filter.is(HCM)
                        && self
                            .filters(filter.fields.get("http_filters"))
                            .iter()
                            .any(Filter::may_be_ext_authz)
            },
        )
    }
}

/// `a.b` is also the member b of a.
fn value_of<'a>(layer: &'a Node, key: &str) -> Option<&'a Node> {
    layer.members().iter().find_map(|(name, node)| match key.strip_prefix(name.as_str())? {
        "" => Some(node),
        rest => value_of(node, rest.strip_prefix('.')?),
    })
}

/// What to do with the listeners and clusters of a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Static {
    Take,
    Leave,
}

impl Listener {
    pub fn is_internal(&self) -> bool {
        self.node.get("internal_listener").is_set()
            || self.node.at(&["address", "envoy_internal_address"]).is_set()
    }

    /// Whether anybody on another machine can connect.
    pub fn reach(&self) -> Reach {
        if self.is_internal() { Reach::Local } else { reach(self.node.get("address")) }
    }
}

fn address(listener: &Node) -> String {
    let socket = listener.at(&["address", "socket_address"]);
    let port = socket.get("port_value").number().map(|port| format!(":{port}")).unwrap_or_default();
    match (socket.get("address").text(), listener.at(&["address", "pipe", "path"]).text()) {
        ("", "") => "unnamed".to_owned(),
        ("", path) => path.to_owned(),
        (address, _) => format!("{address}{port}"),
    }
}

/// Of an address of Envoy's.
pub fn reach(address: &Node) -> Reach {
    let host = address.at(&["socket_address", "address"]).text();
    let is_local = match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    };
    let is_socket = address.get("socket_address").is_set();
    if is_socket && !is_local { Reach::Remote } else { Reach::Local }
}

/// The addresses that a cluster names itself.
pub fn endpoints(cluster: &Node) -> Vec<&Node> {
    let localities = cluster.at(&["load_assignment", "endpoints"]).items().iter();
    localities
        .flat_map(|locality| locality.get("lb_endpoints").items())
        .map(|endpoint| endpoint.at(&["endpoint", "address"]))
        .filter(|address| address.is_set())
        .collect()
}

/// The HTTP options of a cluster.
pub fn http_options(cluster: &Node) -> &Node {
    cluster
        .get("typed_extension_protocol_options")
        .entry("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")
        .map_or(&NOTHING, |options| options.any().fields)
}
