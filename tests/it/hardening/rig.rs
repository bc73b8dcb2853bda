//! Two Envoys side by side, over one checker and one upstream: `bare.yaml`, and a configuration of the repository.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::support::daypass::Daypass;
use crate::support::envoy::{self, Authority, Envoy, port};
use crate::support::fake_checker::FakeChecker;
use crate::support::mirror::Mirror;
use crate::support::wire::{Answer, Wire};

pub const BARE: &str = include_str!("bare.yaml");
pub const HOST: &str = "orders.example";
/// A text that stands once in each configuration: before it another filter can be put.
pub const ROUTER: &str = "          - name: envoy.filters.http.router\n";
/// The line after which a filter's own fields can be put.
pub const EXT_AUTHZ: &str = "              transport_api_version: V3\n";

pub type Changes<'a> = &'a [(&'a str, &'a str)];

pub struct Side {
    pub envoy: Envoy,
    pub wire: Wire,
    pub token: String,
}

/// Keys and certificates of one test, and its upstream.
pub struct Ground {
    pub dir: Arc<TempDir>,
    pub mirror: Mirror,
    pub token: String,
    pub authority: Authority,
}

impl Ground {
    pub fn new() -> Option<Self> {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let token = envoy::token(dir.path(), "alice")?;
        let authority = Authority::new(dir.path());
        authority.issue("server", &[HOST]);
        Some(Self { dir, mirror: Mirror::start(), token, authority })
    }

    pub fn keys(&self) -> std::path::PathBuf {
        self.dir.path().join("envoy/keys")
    }

    /// The bare Envoy before that checker.
    pub fn bare(&self, check: &str, changes: Changes<'_>) -> Option<Side> {
        self.start(BARE, check, changes)
    }

    /// A configuration of the repository.
    pub fn shipped(&self, name: &str, check: &str, changes: Changes<'_>) -> Option<Side> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy").join(name);
        self.start(&std::fs::read_to_string(path).unwrap(), check, changes)
    }

    /// A whole configuration.
    pub fn text(&self, text: &str, check: &str) -> Option<Side> {
        self.start(text, check, &[])
    }

    fn start(&self, text: &str, check: &str, changes: Changes<'_>) -> Option<Side> {
        let (check, upstream) = (port(check), port(&self.mirror.address));
        let own = [("port_value: 9191", check.as_str()), ("port_value: 8080", upstream.as_str())];
        let envoy = Envoy::start_text(text, self.dir.path(), &[&own[..], changes].concat())?;
        let wire = if text.contains("DownstreamTlsContext") {
            Wire::tls(&envoy.ingress, &self.keys(), None)
        } else {
            Wire::clear(&envoy.ingress)
        };
        Some(Side { envoy, wire, token: self.token.clone() })
    }

    /// A real daypass with its files in the same directory.
    pub fn daypass(&self, args: &[&str]) -> Daypass {
        Daypass::start_in(&self.dir, args)
    }
}

impl Side {
    /// The lines that a request of alice's ends with.
    pub fn credentials(&self) -> String {
        format!("authorization: Bearer {}\r\n", self.token)
    }

    /// Alice's request for a target, with more lines of headers.
    pub fn get(&self, target: &str, headers: &str) -> Answer {
        self.method("GET", target, HOST, headers)
    }

    pub fn method(&self, method: &str, target: &str, host: &str, headers: &str) -> Answer {
        self.wire.request(method, target, host, &format!("{}{headers}", self.credentials()))
    }
}

/// Two Envoys before a checker that allows everything and remembers what it was asked.
pub struct Pair {
    pub checker: FakeChecker,
    pub bare: Side,
    pub hardened: Side,
    pub ground: Ground,
}

impl Pair {
    pub fn start() -> Option<Self> {
        let ground = Ground::new()?;
        let checker = FakeChecker::start();
        let bare = ground.bare(&checker.address, &[])?;
        let hardened = ground.shipped("hardened.yaml", &checker.address, &[])?;
        Some(Self { checker, bare, hardened, ground })
    }

    /// What became of a request, `200 <target>` if it reached the upstream. What the checker saw must be the same.
    pub fn outcome(&self, send: impl Fn() -> Answer) -> String {
        self.checker.take();
        self.ground.mirror.take();
        let answer = send();
        let checked = self.checker.take();
        let Some(head) = self.ground.mirror.take().pop() else { return answer.status.to_string() };
        let target = head.split(' ').nth(1).unwrap();
        assert_eq!(checked.len(), 1, "reached the upstream: {head}");
        let seen = checked[0].attributes.as_ref().and_then(|a| a.request.as_ref()).unwrap();
        assert_eq!(seen.http.as_ref().unwrap().path, target, "decided about another path than served");
        format!("{} {target}", answer.status)
    }
}

/// Differences between what was expected and what is, all at once.
#[derive(Default)]
pub struct Findings(Vec<String>);

impl Findings {
    pub fn compare(&mut self, what: &str, found: &str, expected: &str) {
        if found != expected {
            self.0.push(format!("{what}: {found}, not {expected}"));
        }
    }

    pub fn check(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}
