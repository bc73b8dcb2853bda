//! The order of the filters of a request: what comes before the check, and what can still change the request behind it.

use super::codes::Code;
use super::model::{EXT_PROC, Filter, JWT, ROUTER};
use super::node::Node;
use super::report::{Place, Report};
use super::watch;

/// What a filter behind the check can do.
enum Later {
    /// It certainly clears the route cache.
    Reroutes(&'static str),
    /// It can, and whether it does is not in what was read.
    MayReroute(&'static str),
    Harmless,
}

pub fn examine(filters: &[Filter], place: &Place, report: &mut Report) {
    let Some(first) = filters.iter().position(Filter::may_be_ext_authz) else { return };
    let last = filters.iter().rposition(Filter::may_be_ext_authz).unwrap_or(first);
    let at = |filter: &Filter| place.filter(&filter.name, filter.line);
    for (index, filter) in filters.iter().enumerate() {
        let is_check = filter.may_be_ext_authz();
        if filter.message.is_empty() {
            report.add(Code::FilterUnknown, &at(filter), "");
        } else if (filter.is_conditional || filter.is_composite()) && !is_check {
            report.add(Code::ConditionalFilter, &at(filter), "");
        }
        let is_before = index < first;
        if is_before && filter.is(ROUTER) {
            report.add(Code::AfterRouter, &at(&filters[first]), "");
        }
        if is_before && filter.message.ends_with("cache.v3.CacheConfig") {
            report.add(Code::AfterCache, &at(&filters[first]), format!("{} comes first", filter.name));
        }
        if index > first && filter.is(JWT) {
            report.add(
                Code::ExtAuthzBeforeJwt,
                &at(&filters[first]),
                format!("{} comes behind it", filter.name),
            );
        }
        if index <= last || is_check {
            continue;
        }
        match later(filters, filter) {
            Later::Reroutes(how) => report.add(Code::RouteCacheCleared, &at(filter), how),
            Later::MayReroute(how) => report.add(Code::FilterCanReroute, &at(filter), how),
            Later::Harmless => {}
        }
    }
}

fn later(filters: &[Filter], filter: &Filter) -> Later {
    let fields = &filter.fields;
    let last = filter.message.rsplit("filters.http.").next().unwrap_or_default();
    match last {
        "lua.v3.Lua" => lua(fields),
        "ext_proc.v3.ExternalProcessor" => ext_proc(filters, filter),
        "wasm.v3.Wasm" => Later::MayReroute("a Wasm module"),
        "golang.v3alpha.Config" => Later::MayReroute("a Go plugin"),
        "dynamic_modules.v3.DynamicModuleFilter" => Later::MayReroute("a dynamic module"),
        "grpc_json_transcoder.v3.GrpcJsonTranscoder"
            if !fields.get("match_incoming_request_route").is_true() =>
        {
            Later::MayReroute("transcoding changes the path and takes the route again")
        }
        "on_demand.v3.OnDemand" => Later::MayReroute("it takes the route again when it was discovered"),
        "header_to_metadata.v3.Config" | "json_to_metadata.v3.JsonToMetadata" | JWT_FIELDS
            if fields.any_flag("clear_route_cache") =>
        {
            Later::Reroutes("clear_route_cache: true")
        }
        _ => Later::Harmless,
    }
}

const JWT_FIELDS: &str = "jwt_authn.v3.JwtAuthentication";

/// A script without a function for requests does nothing to them.
fn lua(fields: &Node) -> Later {
    let is_file = fields.at(&["default_source_code", "filename"]).is_set();
    if fields.any_text(&|text| text.contains("clearRouteCache")) {
        Later::Reroutes("the script calls clearRouteCache")
    } else if is_file || fields.any_text(&|text| text.contains("envoy_on_request")) {
        Later::MayReroute("a script")
    } else {
        Later::Harmless
    }
}

/// The header that a mutation sets or removes.
pub fn mutated(mutation: &Node) -> &str {
    let remove = mutation.get("remove").text();
    if remove.is_empty() { mutation.at(&["append", "header", "key"]).text() } else { remove }
}

fn ext_proc(filters: &[Filter], filter: &Filter) -> Later {
    let fields = &filter.fields;
    if watch::is_watch(filters, filter) || !filter.is(EXT_PROC) {
        return Later::Harmless;
    }
    if fields.get("route_cache_action").is_value("CLEAR", 1) {
        return Later::Reroutes("route_cache_action: CLEAR");
    }
    let sends = !fields.at(&["processing_mode", "request_header_mode"]).is_value("SKIP", 2);
    let observes = fields.get("observability_mode").is_true();
    if sends && !observes { Later::MayReroute("an external processor") } else { Later::Harmless }
}
