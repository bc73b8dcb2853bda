//! What is wrong with an Envoy configuration, as far as access is concerned: requests that escape the check, failures that
//! let them pass, identities that can be made up, grants that do not end. Pure: text in, findings out.
//!
//! It knows no names but those of message types: meshes and gateways name their filters as they like. It cannot know which
//! gRPC service is daypass, so it takes every ext_authz for ours. What it cannot see, it says that it cannot see.

mod authz_filter;
mod cluster;
mod codes;
mod deadline;
mod http;
mod identity;
mod marks;
mod model;
mod node;
mod order;
mod paths;
mod read;
mod report;
mod routes;
mod spelling;
mod tcp;
mod watch;

use http::Http;
use model::{Filter, HCM, Model, Reach, reach};

pub use codes::{Code, Severity};
pub use report::{Finding, Place, Report};

/// Reads a bootstrap (YAML or JSON), a `/config_dump` or a discovery response, and reports what is wrong with it.
///
/// # Errors
/// It is none of these; the text says why.
pub fn examine(text: &str) -> Result<Report, String> {
    let document = read::read(text)?;
    let model = Model::of(&document)?;
    let mut report = Report::default();
    spelling::examine(&document, &mut report);
    Ok(examine_model(&model, report))
}

fn examine_model(model: &Model, mut report: Report) -> Report {
    admin(model, &mut report);
    for (kind, name) in &model.rejected {
        let place = match *kind {
            "listener" => Place::listener(name, None),
            "cluster" => Place::cluster(name, None),
            _ => Place::default(),
        };
        report.add(Code::UpdateRejected, &place, format!("{kind} {name}"));
    }
    if model.listeners.is_empty() {
        report.add(Code::NothingToCheck, &Place::default(), "");
        return report.finish();
    }
    if model.has_more_listeners {
        report.add(Code::ListenersUnknown, &Place::default(), "dynamic_resources: lds_config");
    }
    if !model.has_ext_authz() {
        nobody_asks(model, &mut report);
        return report.finish();
    }
    let names = model.http_filter_names();
    for listener in &model.listeners {
        for chain in &listener.chains {
            let mut https = chain.filters.iter().filter(|filter| filter.is(HCM)).peekable();
            if https.peek().is_none() {
                tcp::examine(model, listener, chain, &mut report);
            }
            for filter in https {
                let http = Http::of(model, listener, chain, filter);
                http.examine(&mut report);
                http.upgrades().iter().for_each(|upgrade| upgrade.examine(&mut report));
                routes::unmatched(&http.routes, &names, &mut report);
            }
        }
        tcp::datagrams(listener, &model.filters(listener.node.get("listener_filters")), &mut report);
    }
    report.finish()
}

/// Connections whose filter is not in the input may be served by a connection manager.
fn unknown_filters(model: &Model, report: &mut Report) {
    for listener in &model.listeners {
        for chain in &listener.chains {
            for filter in chain.filters.iter().filter(|filter| filter.message.is_empty()) {
                let place = Place::listener(&listener.name, listener.node.line());
                let place = place.chain(&chain.name, chain.node.line()).filter(&filter.name, filter.line);
                report.add(Code::FilterUnknown, &place, "");
            }
        }
    }
}

/// One finding, not one for each listener; a configuration of nothing but TCP may never have been meant for it.
fn nobody_asks(model: &Model, report: &mut Report) {
    unknown_filters(model, report);
    let mut filters =
        model.listeners.iter().flat_map(|listener| &listener.chains).flat_map(|chain| &chain.filters);
    if filters.any(|filter: &Filter| filter.is(HCM)) {
        report.add(Code::NoExtAuthz, &Place::default(), "");
    } else {
        tcp::note_all(model, report);
    }
}

fn admin(model: &Model, report: &mut Report) {
    let Some(admin) = &model.admin else { return };
    let allowed = admin.get("allow_paths").items();
    if !allowed.is_empty() && allowed.iter().all(is_harmless) {
        return;
    }
    let address = admin.get("address");
    if reach(address) == Reach::Remote {
        let host = address.at(&["socket_address", "address"]).text();
        let place = Place::default().at(address.line().or(admin.line()));
        report.add(Code::AdminExposed, &place, format!("the admin listens on {host}"));
    }
}

/// A matcher of the admin's paths that lets nothing but readiness and statistics through.
fn is_harmless(matcher: &node::Node) -> bool {
    let (exact, prefix) = (matcher.get("exact").text(), matcher.get("prefix").text());
    if exact.is_empty() { http::is_harmless_path(prefix) } else { http::is_harmless_path(exact) }
}
