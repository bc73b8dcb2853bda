//! What the benchmarks share: servers of one's own, and what they cost.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub fn mib(kib: usize) -> f64 {
    f64::from(u32::try_from(kib).unwrap()) / 1024.0
}

/// User and system time of all threads (proc(5), fields 14 and 15), in ticks of 10 ms.
pub fn cpu(process: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// `daypass serve` on ports of its own.
pub fn daypass(data_dir: &Path, store: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daypass"));
    let any = "127.0.0.1:0";
    command.args(["serve", "--listen", any, "--api-listen", any, "--ops-listen", any, "--store", store]);
    command.arg("--data-dir").arg(data_dir);
    command
}

pub struct Server {
    pub process: Child,
    pub check: String,
    /// The line that said it was ready.
    pub ready: String,
}

impl Server {
    /// Waits for the line that says it is ready, and finds its port in the line that names it.
    pub fn start(command: &mut Command, ready: &str) -> Self {
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut check = None;
        let mut found = None;
        while check.is_none() || found.is_none() {
            let line = lines.next().expect("the server ended");
            if let Some(rest) = line.split("listening check=").nth(1) {
                check = rest.split_whitespace().next().map(str::to_owned);
            }
            if line.contains(ready) {
                found = Some(line);
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, check: check.unwrap(), ready: found.unwrap() }
    }

    pub fn rss_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A Redis on a unix socket, so that it needs no port.
pub struct Redis {
    pub process: Child,
    pub url: String,
}

impl Redis {
    pub fn start(dir: &Path) -> Self {
        let socket = dir.join("redis.sock");
        let server = find("redis-server").expect("redis-server is not installed");
        let mut command = Command::new(server);
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).stdout(Stdio::null());
        let process = command.spawn().unwrap();
        let url = format!("unix://{}", socket.display());
        let deadline = Instant::now() + Duration::from_secs(10);
        while redis::Client::open(url.as_str()).unwrap().get_connection().is_err() {
            assert!(Instant::now() < deadline, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, url }
    }

    pub fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Grants of many subjects, as a company would have them.
pub fn load_grants(redis: &Redis, subjects: usize, per_subject: usize) {
    let mut connection = redis.connect();
    for subject in 0..subjects {
        let mut pipeline = redis::pipe();
        for grant in 0..per_subject {
            let value = format!(
                r#"{{"v":1,"subject":"user:user-{subject}@corp.example","permissions":[{{"hosts":["service-{grant}.*.svc"],"methods":["GET","HEAD"],"paths":["/api/v{grant}/**"]}}],"approved_by":["user:boss@corp.example"],"ticket":"OPS-{subject}"}}"#
            );
            pipeline
                .cmd("SET")
                .arg(format!("{{jit}}:grant:g-{subject}-{grant}"))
                .arg(value)
                .arg("PX")
                .arg(3_600_000)
                .ignore();
        }
        pipeline.query::<()>(&mut connection).unwrap();
    }
}
