//! The office: everything of a process that serves the API, as opposed to one that only answers checks. The desk and
//! what happens by itself, the gate in front of it, and its listener.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::tls::LiveTls;
use super::{ServeError, Vital, api_listener};
use crate::api::rest::Rest;
use crate::api::tokens::LiveTokens;
use crate::api::{Api, Explain, Gate, v1};
use crate::authz::Checker;
use crate::clock::Clock;
use crate::config::Config;
use crate::desk::admission::LiveAdmission;
use crate::desk::{self, Desk};
use crate::webhook::Webhooks;

pub struct Office {
    desk: Arc<Desk>,
    gate: Arc<Gate>,
    tls: Option<Arc<LiveTls>>,
    webhooks: Webhooks,
}

impl Office {
    /// None where there is no API.
    ///
    /// # Errors
    /// Tokens, TLS files or secrets of webhooks cannot be used.
    pub fn open(
        config: &Config,
        checker: &Checker,
        admission: &Arc<LiveAdmission>,
    ) -> Result<Option<Self>, ServeError> {
        if config.api_listen.is_none() {
            return Ok(None);
        }
        let tokens = LiveTokens::open(&config.api.tokens_file, &config.data_dir)?;
        Ok(Some(Self {
            desk: Arc::new(Desk::new(
                Arc::clone(&checker.store),
                Arc::clone(&checker.replica),
                Arc::clone(admission),
                desk::Limits { max_grant_ttl: config.max_grant_ttl },
            )),
            gate: Arc::new(Gate::new(config.api.gate.clone(), tokens, Clock::System)),
            tls: config.api.tls.as_ref().map(LiveTls::load).transpose()?.map(Arc::new),
            webhooks: Webhooks::open(
                config.webhooks.clone(),
                Arc::clone(&checker.store),
                Arc::clone(admission),
                Arc::clone(&checker.metrics),
            )?,
        }))
    }

    /// Its tasks, each of which must not end.
    ///
    /// # Errors
    /// The contract of the API contradicts itself.
    pub fn start<H: Health>(
        &self,
        vital: &mut Vital,
        config: &Config,
        checker: &Arc<Checker>,
        health: &HealthServer<H>,
        listener: TcpListener,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), ServeError> {
        vital.spawn_endless(Arc::clone(&self.desk).keep_time());
        vital.spawn_endless(Arc::clone(&self.gate).follow());
        for task in self.webhooks.tasks() {
            let desk = Arc::clone(&self.desk);
            vital.spawn_endless(async move {
                desk.noted().await;
                task.await
            });
        }
        if let Some(tls) = &self.tls {
            vital.spawn_endless(Arc::clone(tls).follow());
        }
        // Whatever is added here is behind the gate.
        let api = Api::new(Arc::clone(&self.desk), explainer(Arc::clone(checker)));
        let mut services = api.services().add_service(health.clone());
        if config.reflection {
            services = services.add_service(reflection()).add_service(reflection_before());
        }
        let router = Rest::new()?.over(services).prepare().into_axum_router();
        let (tls, gate) = (self.tls.clone(), Arc::clone(&self.gate));
        vital.spawn("the grant API", api_listener::serve(listener, tls, gate, router, stopped.clone()));
        Ok(())
    }
}

/// Faces do not know each other: the API asks the check path through this.
fn explainer(checker: Arc<Checker>) -> Explain {
    Arc::new(move |caller, asked| {
        let checker = Arc::clone(&checker);
        Box::pin(async move { checker.standing(&caller, &asked).await })
    })
}

/// Reflection for clients such as grpcurl: our own API. Envoy's protos come without descriptors.
pub fn reflection()
-> tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection> {
    match descriptors().build_v1() {
        Ok(service) => service,
        Err(error) => unreachable!("descriptors that this build made itself: {error}"),
    }
}

/// The same as clients ask that know only the version before.
fn reflection_before() -> tonic_reflection::server::v1alpha::ServerReflectionServer<
    impl tonic_reflection::server::v1alpha::ServerReflection,
> {
    match descriptors().build_v1alpha() {
        Ok(service) => service,
        Err(error) => unreachable!("descriptors that this build made itself: {error}"),
    }
}

fn descriptors() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
