//! The built binary, and clients of its listeners.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{Process, wait_for};

pub struct Daypass {
    pub process: Process,
    pub check: String,
    pub api: String,
    pub ops: String,
    pub dir: Arc<TempDir>,
    log: Arc<Mutex<String>>,
}

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daypass"));
    for name in ["TOKEN", "TOKEN_FILE", "API", "CONFIG", "DATA_DIR"] {
        command.env_remove(format!("DAYPASS_{name}"));
    }
    // No login of whoever runs the tests.
    command.env("XDG_CONFIG_HOME", "/nonexistent").env_remove("COLUMNS");
    command
}

/// Runs to its end.
pub fn run(args: &[&str]) -> Output {
    binary().args(args).output().unwrap()
}

impl Daypass {
    /// With free ports, a data directory of its own, and the arguments on top.
    pub fn start(args: &[&str]) -> Self {
        Self::start_in(&Arc::new(tempfile::tempdir().unwrap()), args)
    }

    pub fn start_in(dir: &Arc<TempDir>, args: &[&str]) -> Self {
        Self::try_start(dir, args).unwrap_or_else(|log| panic!("daypass did not start:\n{log}"))
    }

    pub fn start_with_env(env: &[(&str, &str)], args: &[&str]) -> Self {
        let mut command = binary();
        command.envs(env.iter().copied());
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::try_spawn(command, &dir, args).unwrap_or_else(|log| panic!("daypass did not start:\n{log}"))
    }

    /// The log, if it ends instead of listening.
    pub fn try_start(dir: &Arc<TempDir>, args: &[&str]) -> Result<Self, String> {
        Self::try_spawn(binary(), dir, args)
    }

    fn try_spawn(mut command: Command, dir: &Arc<TempDir>, args: &[&str]) -> Result<Self, String> {
        command.args(["serve", "--data-dir"]).arg(dir.path().join("data"));
        for flag in ["--listen", "--api-listen", "--ops-listen"] {
            if !args.contains(&flag) {
                command.args([flag, "127.0.0.1:0"]);
            }
        }
        if !args.contains(&"--store") {
            command.args(["--store", "embedded:memory"]);
        }
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(process.0.stderr.take().unwrap());
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let listening = wait_for("daypass to listen or end", || {
            let found =
                log.lock().unwrap().lines().find(|line| line.contains("listening check=")).map(str::to_owned);
            found.map(Some).or_else(|| reader.is_finished().then_some(None))
        });
        let Some(line) = listening else { return Err(log.lock().unwrap().clone()) };
        let field = |name: &str| {
            let rest = line.split(&format!("{name}=")).nth(1).unwrap();
            rest.split_whitespace().next().unwrap().to_owned()
        };
        let (check, api, ops) = (field("check"), field("api"), field("ops"));
        Ok(Self { process, check, api, ops, dir: Arc::clone(dir), log })
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub async fn client(&self) -> Client {
        Client(AuthorizationClient::new(channel(&self.check).await))
    }

    /// `daypass grant ...` against this server. Standard output, or standard error if it failed.
    pub fn grant(&self, args: &[&str]) -> Result<String, String> {
        let output = binary()
            .args(["grant", "--api", &format!("http://{}", self.api), "--data-dir"])
            .arg(self.data_dir())
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Status and body of a GET on the ops listener.
    pub fn ops(&self, path: &str) -> (u16, String) {
        http_get(&self.ops, path)
    }

    /// The value of one series, whole numbers only; 0 if it is not there.
    pub fn metric(&self, name: &str) -> u64 {
        series(&self.ops("/metrics").1, name)
    }
}

/// The value of one series in a page of metrics, whole numbers only; 0 if it is not there.
pub fn series(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or(0)
}

pub async fn channel(address: &str) -> Channel {
    match address.strip_prefix("unix://") {
        Some(path) => tonic::transport::Endpoint::from_shared(format!("unix://{path}")),
        None => tonic::transport::Endpoint::from_shared(format!("http://{address}")),
    }
    .unwrap()
    .connect()
    .await
    .unwrap()
}

pub fn http_get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[derive(Clone)]
pub struct Client(AuthorizationClient<Channel>);

impl Client {
    /// A check never ends in a gRPC error.
    pub async fn check(&mut self, request: CheckRequest) -> CheckResponse {
        self.0.check(request).await.expect("a check ended in a gRPC error").into_inner()
    }
}

pub fn write_file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
