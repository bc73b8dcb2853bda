//! daypass behind a real Envoy with `streams.yaml`, before an upstream that ticks; and one token and many grants.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use daypass::api::v1;
use daypass::api::v1::grant_service_client::GrantServiceClient;
use daypass::api::v1::lock_service_client::LockServiceClient;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Request;
use tonic::transport::Channel;

use super::PATIENCE;
use super::daypass::{Daypass, channel};
use super::envoy::{self, Envoy, port};
use super::streaming::{self, Kind, Ran};
use super::ticker::Ticker;

/// daypass, Envoy with `streams.yaml`, and an upstream that ticks.
#[derive(Clone)]
pub struct Lab {
    pub daypass: Arc<Daypass>,
    pub envoy: Arc<Envoy>,
    pub ticker: Ticker,
    pub token: String,
    admin: String,
    grants: GrantServiceClient<Channel>,
}

impl Lab {
    pub async fn start(args: &[&str], changes: &[(&str, &str)]) -> Option<Self> {
        Self::start_in(&Arc::new(tempfile::tempdir().unwrap()), args, changes).await
    }

    /// Whose streams are watched by another instance than decides them. Alice is in the group `sre`.
    pub async fn watched_by(other: &Daypass, dir: &Arc<TempDir>, args: &[&str]) -> Option<Self> {
        let config =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/streams.yaml")).unwrap();
        let begin = config.find("cluster_name: daypass_watch\n").unwrap();
        let end = begin + config[begin..].find("port_value: 9191").unwrap() + "port_value: 9191".len();
        let watch = &config[begin..end];
        let elsewhere = watch.replace("port_value: 9191", &port(&other.check));
        Self::build(dir, args, &[(watch, &elsewhere)], &[]).await
    }

    pub async fn start_in(dir: &Arc<TempDir>, args: &[&str], changes: &[(&str, &str)]) -> Option<Self> {
        Self::build(dir, args, &[], changes).await
    }

    async fn build(
        dir: &Arc<TempDir>,
        args: &[&str],
        first: &[(&str, &str)],
        changes: &[(&str, &str)],
    ) -> Option<Self> {
        let daypass = Daypass::start_in(dir, args);
        let ticker = Ticker::start().await;
        let token = envoy::token_of(dir.path(), "alice", "sre")?;
        let ports = [
            ("9191", port(&daypass.check)),
            ("8080", port(&ticker.http.to_string())),
            ("5432", port(&ticker.tcp.to_string())),
        ];
        let ports = ports.map(|(from, to)| (format!("port_value: {from}"), to));
        let ports = ports.iter().map(|(from, to)| (from.as_str(), to.as_str()));
        let changes: Vec<_> = first.iter().copied().chain(ports).chain(changes.iter().copied()).collect();
        let envoy = Arc::new(Envoy::start("streams.yaml", dir.path(), &changes)?);
        let admin = std::fs::read_to_string(daypass.data_dir().join("token")).unwrap().trim().to_owned();
        let grants = GrantServiceClient::new(channel(&daypass.api).await);
        Some(Self { daypass: Arc::new(daypass), envoy, ticker, token, admin, grants })
    }

    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.admin).parse().unwrap());
        request
    }

    /// Alice may talk to the host of this name. When that ends.
    pub async fn grant(&self, name: &str, ttl: Duration) -> Instant {
        let permission = v1::Permission { hosts: vec![name.to_owned()], ..Default::default() };
        let grant = v1::Grant {
            id: name.to_owned(),
            subject: "user:alice".to_owned(),
            permissions: vec![permission],
            ..Default::default()
        };
        let ttl = Some(prost_types::Duration { seconds: i64::try_from(ttl.as_secs()).unwrap(), nanos: 0 });
        let create = self.request(v1::CreateGrantRequest { grant: Some(grant), ttl });
        let made = self.grants.clone().create_grant(create).await.unwrap().into_inner();
        let end = SystemTime::try_from(made.expires_at.unwrap()).unwrap();
        Instant::now() + end.duration_since(SystemTime::now()).unwrap()
    }

    pub async fn revoke(&self, name: &str) {
        let revoke = self.request(v1::RevokeGrantRequest { id: name.to_owned(), reason: String::new() });
        self.grants.clone().revoke_grant(revoke).await.unwrap();
    }

    pub async fn lock(&self, id: &str, target: v1::lock::Target) {
        let (id, message) = (id.to_owned(), "an incident".to_owned());
        let lock = v1::Lock { id, message, target: Some(target), ..Default::default() };
        let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let request = self.request(v1::CreateLockRequest { lock: Some(lock), ttl });
        LockServiceClient::new(channel(&self.daypass.api).await).create_lock(request).await.unwrap();
    }

    /// Runs a stream, and does `then` when it has begun.
    pub async fn stream<F>(&self, kind: Kind, name: &str, then: impl FnOnce() -> F) -> (Ran, F::Output)
    where
        F: Future + Send,
    {
        let stream = match kind {
            Kind::Silent => self.spawn(kind, name).0,
            _ => self.begun(kind, name).await,
        };
        let done = then().await;
        (stream.await.unwrap(), done)
    }

    /// The same, while somebody else does something.
    pub fn spawn(&self, kind: Kind, name: &str) -> (JoinHandle<Ran>, oneshot::Receiver<()>) {
        let (give, began) = oneshot::channel();
        let (lab, name) = (self.clone(), name.to_owned());
        let stream = tokio::spawn(async move {
            let began = move || {
                // Not everybody waits for it.
                let _ = give.send(());
            };
            streaming::run(kind, &lab.envoy.ingress, &lab.token, &name, began).await
        });
        (stream, began)
    }

    /// A stream that has begun.
    pub async fn begun(&self, kind: Kind, name: &str) -> JoinHandle<Ran> {
        let (stream, began) = self.spawn(kind, name);
        let has_begun = matches!(tokio::time::timeout(PATIENCE, began).await, Ok(Ok(())));
        assert!(has_begun, "{kind:?} did not begin: {:?}\n{}", stream.await, self.daypass.log());
        stream
    }

    pub fn live(&self) -> u64 {
        self.daypass.metric("daypass_streams_live")
    }

    pub fn ended(&self, reason: &str) -> u64 {
        self.daypass.metric(&format!("daypass_streams_ended_total{{reason=\"{reason}\"}}"))
    }
}
