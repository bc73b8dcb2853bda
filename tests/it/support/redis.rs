//! A redis-server of one's own.

use std::process::{Command, Stdio};

use redis::{Connection, IntoConnectionInfo};
use tempfile::TempDir;

use super::{Process, free_port, tool, wait_for};

pub struct Redis {
    pub process: Process,
    pub port: u16,
    arguments: Vec<String>,
    dir: TempDir,
}

impl Redis {
    /// None if there is no redis-server here.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        tool("redis-server")?;
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = Self::spawn(port, &dir, &arguments);
        let redis = Self { process, port, arguments, dir };
        redis.wait_until_up();
        Some(redis)
    }

    fn spawn(port: u16, dir: &TempDir, arguments: &[String]) -> Process {
        let mut command = Command::new(tool("redis-server").unwrap());
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(dir.path());
        // DEBUG is how active expiry is switched off.
        command.args(["--enable-debug-command", "yes"]).args(arguments);
        Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// The server is killed and comes back, on the same port, with what its persistence kept.
    pub fn restart(&mut self) {
        self.kill();
        self.process = Self::spawn(self.port, &self.dir, &self.arguments);
        self.wait_until_up();
    }

    pub fn kill(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
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
        self.client().get_connection().unwrap()
    }

    /// With the password from the server's own arguments, if there is one.
    fn client(&self) -> redis::Client {
        let info = self.url().into_connection_info().unwrap();
        let password = self.arguments.iter().skip_while(|argument| *argument != "--requirepass").nth(1);
        let settings = match password {
            Some(password) => info.redis_settings().clone().set_password(password),
            None => info.redis_settings().clone(),
        };
        redis::Client::open(info.set_redis_settings(settings)).unwrap()
    }
}
