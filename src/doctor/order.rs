//! The order of the filters of a request: what comes before the check, and what can still change the request behind it.

use super::codes::Code;
use super::http::FILE_SERVER;
use super::model::{Filter, JWT, ROUTER};
use super::node::{Node, Typed};
use super::report::{Place, Report};
use super::routes::Routes;
use super::watch;

/// What a filter behind the check can do.
enum Later {
    /// It certainly clears the route cache.
    Reroutes(&'static str),
    /// It can, and whether it does is not in what was read.
    MayReroute(&'static str),
    Harmless,
}

pub fn examine(filters: &[Filter], routes: &Routes, place: &Place, report: &mut Report) {
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
        if is_before && filter.is(FILE_SERVER) && !filter.is_disabled {
            report.add(Code::AfterFiles, &at(&filters[first]), format!("{} comes first", filter.name));
        }
        if is_before
            && ["cache.v3.CacheConfig", "cache_v2.v3.CacheV2Config"].iter().any(|kind| filter.is(kind))
        {
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
        if filter.outer.is_set() && (filter.is_conditional || filter.is_composite()) {
            filter.outer.each_message(&mut |typed| add(&later(filters, filter, typed), &at(filter), report));
        } else {
            add(&later(filters, filter, typed(filter)), &at(filter), report);
        }
        for target in &routes.targets {
            let Some(own) = target.settings(filter) else { continue };
            let place = target.place.filter(&filter.name, own.fields.line());
            own.fields.each_message(&mut |typed| add(&later(filters, filter, typed), &place, report));
        }
    }
}

fn typed(filter: &Filter) -> Typed<'_> {
    Typed { name: &filter.message, fields: &filter.fields }
}

fn add(later: &Later, place: &Place, report: &mut Report) {
    match later {
        Later::Reroutes(how) => report.add(Code::RouteCacheCleared, place, *how),
        Later::MayReroute(how) => report.add(Code::FilterCanReroute, place, *how),
        Later::Harmless => {}
    }
}

fn later(filters: &[Filter], filter: &Filter, typed: Typed<'_>) -> Later {
    let fields = typed.fields;
    let last = typed.name.rsplit("filters.http.").next().unwrap_or_default();
    match last {
        "lua.v3.Lua" | "lua.v3.LuaPerRoute" => lua(fields),
        "ext_proc.v3.ExternalProcessor" => ext_proc(filters, filter, fields),
        "ext_proc.v3.ExtProcPerRoute" => {
            let mode = fields.at(&["overrides", "processing_mode"]);
            let sends = mode.is_set() && !mode.get("request_header_mode").is_value("SKIP", 2);
            let is_watch = watch::is_watch(filters, filter);
            if sends && !is_watch { Later::MayReroute("an external processor") } else { Later::Harmless }
        }
        "transform.v3.TransformConfig" if fields.get("clear_route_cache").is_true() => {
            Later::Reroutes("clear_route_cache: true")
        }
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
    let is_file =
        ["default_source_code", "source_code"].iter().any(|name| fields.at(&[name, "filename"]).is_set());
    let says = |word: &str| fields.any_text(&|text| code(text).any(|line| line.contains(word)));
    if says("clearRouteCache") {
        Later::Reroutes("the script calls clearRouteCache")
    } else if is_file || says("envoy_on_request") {
        Later::MayReroute("a script")
    } else {
        Later::Harmless
    }
}

/// The lines of a script that are no comment. One that ends a long comment or a long text may have code behind it.
pub fn code(script: &str) -> impl Iterator<Item = &str> {
    script.lines().filter(|line| !line.trim_start().starts_with("--") || line.contains([']', '[']))
}

/// The header that a mutation sets or removes.
pub fn mutated(mutation: &Node) -> &str {
    let remove = mutation.get("remove").text();
    if remove.is_empty() { mutation.at(&["append", "header", "key"]).text() } else { remove }
}

fn ext_proc(filters: &[Filter], filter: &Filter, fields: &Node) -> Later {
    if watch::is_watch(filters, filter) {
        return Later::Harmless;
    }
    if fields.get("route_cache_action").is_value("CLEAR", 1) {
        return Later::Reroutes("route_cache_action: CLEAR");
    }
    let sends = !fields.at(&["processing_mode", "request_header_mode"]).is_value("SKIP", 2);
    let observes = fields.get("observability_mode").is_true();
    if sends && !observes { Later::MayReroute("an external processor") } else { Later::Harmless }
}
