//! A redis-server, or several, of one's own.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::{Cmd, Connection, FromRedisValue, IntoConnectionInfo};
use tempfile::TempDir;

use super::proxy::Proxy;
use super::{Process, free_port, tool, wait_for};

/// The programs that speak the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Redis,
    Valkey,
}

impl Flavour {
    const fn binary(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
        }
    }
}

pub struct Redis {
    pub process: Process,
    pub port: u16,
    flavour: Flavour,
    arguments: Vec<String>,
    /// Name and password of the user that the test is.
    user: Option<(String, String)>,
    dir: TempDir,
}

impl Redis {
    /// None if there is no redis-server here.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_as(Flavour::Redis, arguments)
    }

    pub fn start_as(flavour: Flavour, arguments: &[&str]) -> Option<Self> {
        tool(flavour.binary())?;
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = Self::spawn(flavour, port, dir.path(), &arguments);
        let redis = Self { process, port, flavour, arguments, user: None, dir };
        redis.wait_until_up();
        Some(redis)
    }

    /// With a configuration file, in which the user that the test is has the password.
    pub fn start_configured(file: &str, arguments: &[&str], user: (&str, &str)) -> Option<Self> {
        tool(Flavour::Redis.binary())?;
        let arguments: Vec<String> =
            [&[file], arguments].concat().iter().map(|argument| (*argument).to_owned()).collect();
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        let process = Self::spawn(Flavour::Redis, port, dir.path(), &arguments);
        let user = Some((user.0.to_owned(), user.1.to_owned()));
        let redis = Self { process, port, flavour: Flavour::Redis, arguments, user, dir };
        redis.wait_until_up();
        Some(redis)
    }

    fn spawn(flavour: Flavour, port: u16, dir: &Path, arguments: &[String]) -> Process {
        let mut command = Command::new(tool(flavour.binary()).unwrap());
        // A configuration file stands before everything else, and what follows wins over it.
        let (file, arguments) = match arguments {
            [file, rest @ ..] if !file.starts_with("--") => (Some(file), rest),
            all => (None, all),
        };
        command
            .args(file)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(dir)
            // DEBUG is how active expiry is switched off, and a server made slow.
            .args(["--enable-debug-command", "yes"]);
        if !arguments.iter().any(|argument| argument == "--save") {
            command.args(["--save", ""]);
        }
        Process::spawn(command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// The server is killed and comes back, on the same port, with what its persistence kept.
    pub fn restart(&mut self) {
        self.kill();
        self.revive();
    }

    pub fn kill(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
    }

    pub fn revive(&mut self) {
        self.respawn();
        self.wait_until_up();
    }

    /// As [`Self::revive`], without waiting for it to answer.
    pub fn respawn(&mut self) {
        self.process = Self::spawn(self.flavour, self.port, self.dir.path(), &self.arguments);
    }

    fn wait_until_up(&self) {
        wait_for("redis-server", || {
            let mut connection = self.client().get_connection().ok()?;
            redis::cmd("PING").query::<String>(&mut connection).ok()
        });
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }

    pub fn try_connect(&self) -> redis::RedisResult<Connection> {
        self.client().get_connection()
    }

    /// One command, its words separated by spaces.
    pub fn run<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut built = redis::cmd(words.next().unwrap());
        built.arg(words.collect::<Vec<_>>());
        self.query(&built)
    }

    pub fn query<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query(&mut self.connect()).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn set(&self, id: &str, value: &str, px: u64) {
        self.query::<()>(redis::cmd("SET").arg(format!("{{jit}}:grant:{id}")).arg(value).arg("PX").arg(px));
    }

    pub fn del(&self, id: &str) {
        self.query::<()>(redis::cmd("DEL").arg(format!("{{jit}}:grant:{id}")));
    }

    /// A field of INFO; empty also while the server cannot be asked.
    /// Documents of the journal's events, in their order.
    pub fn events(&self) -> Vec<String> {
        type Entry = (String, std::collections::BTreeMap<String, String>);
        let entries: Vec<Entry> = self.query(redis::cmd("XRANGE").arg("{jit}:events").arg("-").arg("+"));
        entries.into_iter().map(|(_, mut fields)| fields.remove("document").unwrap()).collect()
    }

    pub fn info(&self, name: &str) -> String {
        let asked = self.try_connect().and_then(|mut connection| redis::cmd("INFO").query(&mut connection));
        let info: String = asked.unwrap_or_default();
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default().trim_end().to_owned()
    }

    /// With the password from the server's own arguments, if there is one.
    fn client(&self) -> redis::Client {
        let info = self.url().into_connection_info().unwrap();
        let password = self.arguments.iter().skip_while(|argument| *argument != "--requirepass").nth(1);
        let settings = info.redis_settings().clone();
        let settings = match (&self.user, password) {
            (Some((user, password)), _) => settings.set_username(user).set_password(password),
            (None, Some(password)) => settings.set_password(password),
            (None, None) => settings,
        };
        redis::Client::open(info.set_redis_settings(settings)).unwrap()
    }
}

/// A master and a replica that follows it.
pub struct Replicated {
    pub master: Redis,
    pub replica: Redis,
}

impl Replicated {
    pub fn start(arguments: &[&str]) -> Option<Self> {
        let pair = Self { master: Redis::start(arguments)?, replica: Redis::start(arguments)? };
        pair.replica.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", pair.master.port));
        wait_for("the replica to be online", || {
            (pair.master.info("slave0").contains("state=online")).then_some(())
        });
        Some(pair)
    }
}

impl Replicated {
    /// With a network between the two that can fall silent.
    pub fn start_apart() -> Option<(Self, Proxy)> {
        let pair = Self { master: Redis::start(&[])?, replica: Redis::start(&[])? };
        let between = Proxy::to(pair.master.port);
        pair.replica.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", between.port));
        wait_for("the replica to be online", || {
            pair.master.info("slave0").contains("state=online").then_some(())
        });
        Some((pair, between))
    }
}

/// Three masters that share the slots, with the test's prefix on one of them.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

/// Redis' own sum of `{jit}`.
pub const SLOT_OF_JIT: u16 = 4875;
/// How long a node must be silent before the others call it failed.
const NODE_TIMEOUT: Duration = Duration::from_millis(1000);

impl Cluster {
    pub fn start(flavour: Flavour) -> Option<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let (bus, timeout) = (free_port().to_string(), NODE_TIMEOUT.as_millis().to_string());
            let arguments =
                ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", &timeout];
            nodes.push((Redis::start_as(flavour, &arguments)?, bus));
        }
        for ((node, _), range) in nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
            node.run::<()>(&format!("CLUSTER ADDSLOTSRANGE {range}"));
        }
        for (epoch, (node, _)) in nodes.iter().enumerate() {
            node.run::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", epoch + 1));
        }
        for (other, bus) in &nodes[1..] {
            nodes[0].0.run::<()>(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", other.port));
        }
        let cluster = Self { nodes: nodes.into_iter().map(|(node, _)| node).collect() };
        assert_eq!(cluster.nodes[0].run::<u16>("CLUSTER KEYSLOT {jit}:hb"), SLOT_OF_JIT);
        for node in &cluster.nodes {
            wait_for("the cluster", || {
                let info: String = node.run("CLUSTER INFO");
                (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")).then_some(())
            });
        }
        Some(cluster)
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].run("CLUSTER MYID")
    }

    /// Declares the slot on the move; keys go by [`Self::migrate`].
    pub fn begin_move(&self, from: usize, to: usize) {
        let (source, target) = (self.id(from), self.id(to));
        self.nodes[to].run::<()>(&format!("CLUSTER SETSLOT {SLOT_OF_JIT} IMPORTING {source}"));
        self.nodes[from].run::<()>(&format!("CLUSTER SETSLOT {SLOT_OF_JIT} MIGRATING {target}"));
    }

    pub fn migrate(&self, from: usize, to: usize, key: &str) {
        let port = self.nodes[to].port;
        self.nodes[from].run::<()>(&format!("MIGRATE 127.0.0.1 {port} {key} 0 5000"));
    }

    /// Moves what is left, and gives the slot to its new owner.
    pub fn end_move(&self, from: usize, to: usize) {
        let rest: Vec<String> = self.nodes[from].run(&format!("CLUSTER GETKEYSINSLOT {SLOT_OF_JIT} 1000"));
        for key in rest {
            self.migrate(from, to, &key);
        }
        let target = self.id(to);
        for node in [to, from] {
            self.nodes[node].run::<()>(&format!("CLUSTER SETSLOT {SLOT_OF_JIT} NODE {target}"));
        }
    }
}

/// A sentinel that watches a master, alone entitled to replace it.
pub struct Sentinel {
    _process: Process,
    pub port: u16,
    _dir: TempDir,
}

impl Sentinel {
    pub fn start(master: u16) -> Option<Self> {
        Self::start_with(
            &format!(
                "port 26379\nsentinel monitor jit 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds jit 1000\nsentinel failover-timeout jit 3000\n"
            ),
            None,
        )
    }

    /// With the text of its configuration, but for the port, and the password in it.
    pub fn start_with(config: &str, password: Option<&str>) -> Option<Self> {
        let binary = tool("redis-server")?;
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let config = config.replace("port 26379", &format!("port {port}"));
        let path = dir.path().join("sentinel.conf");
        std::fs::write(&path, format!("bind 127.0.0.1\ndir {}\n{config}", dir.path().display())).unwrap();
        let mut command = Command::new(binary);
        command.arg(&path).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
        let sentinel = Self { _process: Process::spawn(&mut command), port, _dir: dir };
        wait_for("the sentinel to know the replica", || {
            let login = password.map(|password| format!(":{password}@")).unwrap_or_default();
            let client = redis::Client::open(format!("redis://{login}127.0.0.1:{port}")).unwrap();
            let replicas: redis::RedisResult<Vec<redis::Value>> =
                redis::cmd("SENTINEL").arg(&["REPLICAS", "jit"]).query(&mut client.get_connection().ok()?);
            replicas.is_ok_and(|replicas| !replicas.is_empty()).then_some(())
        });
        Some(sentinel)
    }

    /// One command, its words separated by spaces.
    pub fn run(&self, command: &str) {
        let mut words = command.split(' ');
        let mut built = redis::cmd(words.next().unwrap());
        built.arg(words.collect::<Vec<_>>());
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        built.query::<()>(&mut client.get_connection().unwrap()).unwrap();
    }

    /// With a sentinel in front that does not answer: one of several is always away.
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/jit", free_port(), self.port)
    }
}
