//! The threads that decide.
//!
//! Envoy keeps one HTTP/2 connection per worker of its own, so connections are few and live long: given out in turn
//! they spread evenly, and a check that stays on its connection's thread needs no wake-up of another one.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::keeper::Turn;
use super::office::reflection;
use super::wait_until_stopped;
use crate::authz::watch::{WatchService, Watcher};
use crate::authz::{Checker, GuardedService, LiveRules};
use crate::config::Config;
use crate::policy;

/// Evaluation recurses: deep documents and long rule chains need more than a thread's usual 2 MiB.
pub(super) const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Between two pings on a connection, and for the answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// An accepted connection on its way to its worker, bound to no runtime.
pub enum Connection {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Gives connections to workers in turn.
pub struct Connections {
    workers: Vec<mpsc::UnboundedSender<Connection>>,
    next: AtomicUsize,
}

impl Connections {
    /// # Errors
    /// The worker whose turn it is has ended.
    pub fn give(&self, connection: Connection) -> io::Result<()> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1);
        let worker = self.workers.get(turn).ok_or_else(|| io::Error::other("there are no workers"))?;
        worker.send(connection).map_err(|_| io::Error::other("a worker has ended"))
    }
}

pub struct Workers {
    ended: Vec<oneshot::Receiver<Result<(), String>>>,
}

impl Workers {
    pub fn start<H: Health>(
        checker: &Arc<Checker>,
        health: &HealthServer<H>,
        config: &Config,
        stopped: &watch::Receiver<bool>,
        turns: &watch::Receiver<Turn>,
    ) -> io::Result<(Self, Connections)> {
        let mut workers = Self { ended: Vec::new() };
        let mut connections = Connections { workers: Vec::new(), next: AtomicUsize::new(0) };
        for index in 0..count() {
            let (give, take) = mpsc::unbounded_channel();
            let (end, ended) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let checker = Arc::clone(checker);
            let (health, stopped, turns) = (health.clone(), stopped.clone(), turns.clone());
            let limits = Limits {
                max_message_bytes: config.max_message_bytes,
                max_concurrent_calls: config.authz.max_concurrent_checks + config.authz.watched_streams.all,
                has_reflection: config.reflection,
            };
            thread::Builder::new().name(format!("check-{index}")).stack_size(STACK_BYTES).spawn(
                move || {
                    checker.rules.current().policy.install();
                    let rules = Arc::clone(&checker.rules);
                    let watcher = Arc::new(Watcher::new(Arc::clone(&checker)));
                    let watch = WatchService::new(Arc::clone(&watcher));
                    let result = runtime.block_on(async {
                        tokio::select! {
                            result = serve(checker, watch, health, limits, take, stopped.clone()) => result,
                            never = follow(&rules, turns.clone()) => match never {},
                            never = watcher.keep(turns, stopped) => match never {},
                        }
                    });
                    // Nobody listens any more only if the process is going down.
                    let _ = end.send(result.map_err(|error| error.to_string()));
                },
            )?;
            connections.workers.push(give);
            workers.ended.push(ended);
        }
        Ok((workers, connections))
    }

    /// Resolves when all have ended as they should, or the first as it should not.
    pub async fn ended(self) -> Result<(), String> {
        let mut workers: JoinSet<_> = self.ended.into_iter().collect();
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|error| error.to_string())?.map_err(|_| "a worker panicked".to_owned())??;
        }
        Ok(())
    }
}

/// One per core.
pub fn count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Takes this thread's engine of each new policy before a check needs it.
async fn follow(rules: &LiveRules, mut turns: watch::Receiver<Turn>) -> Infallible {
    loop {
        let Ok(()) = turns.changed().await else { return std::future::pending().await };
        let turn = *turns.borrow_and_update();
        match turn {
            Turn::Install => rules.current().policy.install(),
            Turn::Retire(generation) => policy::retire_before(generation),
        }
    }
}

#[derive(Clone, Copy)]
struct Limits {
    max_message_bytes: usize,
    /// On one connection. What there may be of each in all is counted elsewhere.
    max_concurrent_calls: usize,
    has_reflection: bool,
}

async fn serve<H: Health>(
    checker: Arc<Checker>,
    watch: WatchService,
    health: HealthServer<H>,
    limits: Limits,
    connections: mpsc::UnboundedReceiver<Connection>,
    stopped: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let authorization = GuardedService::new(checker, limits.max_message_bytes);
    let incoming = UnboundedReceiverStream::new(connections).map(Stream::register);
    Server::builder()
        // An Envoy that is gone without a word must not hold its streams' places.
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(u32::try_from(limits.max_concurrent_calls).unwrap_or(u32::MAX))
        .add_service(authorization)
        .add_service(watch)
        .add_service(health)
        .add_optional_service(limits.has_reflection.then(reflection))
        .serve_with_incoming_shutdown(incoming, wait_until_stopped(stopped))
        .await
}

/// A connection registered with the worker's runtime.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn register(connection: Connection) -> io::Result<Self> {
        match connection {
            Connection::Tcp(stream) => TcpStream::from_std(stream).map(Self::Tcp),
            Connection::Unix(stream) => UnixStream::from_std(stream).map(Self::Unix),
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_any_worker_is_noticed() {
        let (_running, first) = oneshot::channel();
        let (panicked, second) = oneshot::channel();
        drop(panicked);
        let workers = Workers { ended: vec![first, second] };
        assert_eq!(workers.ended().await, Err("a worker panicked".to_owned()));
    }
}
