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
mod model;
mod node;
mod order;
mod paths;
mod read;
mod report;
mod routes;
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
    Ok(examine_model(&model))
}

fn examine_model(model: &Model) -> Report {
    let mut report = Report::default();
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
    if !model.has_ext_authz() {
        nobody_asks(model, &mut report);
        return report.finish();
    }
    let mut all = Vec::new();
    for listener in &model.listeners {
        for chain in &listener.chains {
            let mut https = chain.filters.iter().filter(|filter| filter.is(HCM)).peekable();
            if https.peek().is_none() {
                tcp::examine(model, listener, chain, &mut report);
            }
            for filter in https {
                let http = Http::of(model, listener, chain, filter);
                http.examine(&mut report);
                all.push((http.routes, http.filters));
            }
        }
        tcp::datagrams(listener, &model.filters(listener.node.get("listener_filters")), &mut report);
    }
    routes::unmatched(&all, &mut report);
    report.finish()
}

/// One finding, not one for each listener; a configuration of nothing but TCP may never have been meant for it.
fn nobody_asks(model: &Model, report: &mut Report) {
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
    let address = admin.get("address");
    if reach(address) == Reach::Remote {
        let host = address.at(&["socket_address", "address"]).text();
        let place = Place::default().at(address.line().or(admin.line()));
        report.add(Code::AdminExposed, &place, format!("the admin listens on {host}"));
    }
}
