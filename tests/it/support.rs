//! Servers under test and beside it. Each test owns what it starts: ports from the kernel, files in a temp dir, and
//! everything ends with the value that holds it.

pub mod bundle_server;
pub mod checker;
pub mod daypass;
pub mod desk;
pub mod envoy;
pub mod fake_api;
pub mod fake_checker;
pub mod journal;
pub mod lab;
pub mod mirror;
pub mod people;
pub mod proxy;
pub mod random;
pub mod receiver;
pub mod redis;
pub mod request;
pub mod sidecar;
pub mod streaming;
pub mod ticker;
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long a condition may take to come true on a busy machine. Not a measurement.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A child process that does not outlive its owner.
pub struct Process(pub Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a condition, or fails with `what`.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A TCP port that was free a moment ago, below the ephemeral range, where client sockets could take it meanwhile.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes run side by side; each begins at another place.
    let start = u16::try_from(std::process::id() % 1500).unwrap() * 8;
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    skip(&format!("the corpus ../shared/{name} is not here"));
    None
}

/// A tool that a test cannot do without.
pub fn tool(name: &str) -> Option<PathBuf> {
    let private = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin").join(name);
    let on_path = std::env::var_os("PATH").and_then(|paths| {
        std::env::split_paths(&paths).map(|dir| dir.join(name)).find(|path| path.is_file())
    });
    let found = private.is_file().then_some(private).or(on_path);
    if found.is_none() {
        skip(&format!("{name} is not installed; `make tools` installs it"));
    }
    found
}

/// The packages of npm that a directory's `package.json` names; `make tools` puts them into `.tools/node`.
pub fn node_packages() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/node/node_modules");
    if path.is_dir() {
        return Some(path);
    }
    skip("the packages of tests/kubernetes/package.json are not installed; `make tools` installs them");
    None
}

fn skip(why: &str) {
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "REQUIRE_ALL=1, and {why}");
    eprintln!("skipped: {why}");
}
