//! A real Envoy with a configuration of the repository, on this test's ports and with this test's keys.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use super::daypass::{http_get, series, write_file};
use super::{Process, free_port, tool, wait_for};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An Envoy that is up. What it logs, and its access log if that goes to stdout, is in `log`.
pub struct Envoy {
    pub process: Process,
    /// `127.0.0.1:port` of what is port 10000 in the configurations.
    pub ingress: String,
    /// The same of port 9901.
    pub admin: String,
    log: PathBuf,
}

impl Envoy {
    /// Starts `envoy/<name>` with free ports. `changes` are texts of the configuration and what is to stand there; one
    /// that is not found is a mistake of the test. Paths in it, such as `envoy/keys/jwks.json`, are below `dir`.
    pub fn start(name: &str, dir: &Path, changes: &[(&str, &str)]) -> Option<Self> {
        let text = std::fs::read_to_string(Path::new(ROOT).join("envoy").join(name)).unwrap();
        Self::start_text(&text, dir, changes)
    }

    /// The same on ports for ingress and admin that the test chose.
    pub fn start_at(
        name: &str,
        dir: &Path,
        changes: &[(&str, &str)],
        ports: Option<(u16, u16)>,
    ) -> Option<Self> {
        let text = std::fs::read_to_string(Path::new(ROOT).join("envoy").join(name)).unwrap();
        Self::spawn(&text, dir, changes, ports)
    }

    /// The same for a configuration that the test wrote.
    pub fn start_text(text: &str, dir: &Path, changes: &[(&str, &str)]) -> Option<Self> {
        Self::spawn(text, dir, changes, None)
    }

    fn spawn(text: &str, dir: &Path, changes: &[(&str, &str)], ports: Option<(u16, u16)>) -> Option<Self> {
        let envoy = tool("envoy")?;
        let (ingress, admin) = ports.unwrap_or_else(|| (free_port(), free_port()));
        let own = [
            ("port_value: 10000", port(&ingress.to_string())),
            ("port_value: 9901", port(&admin.to_string())),
        ];
        let own = own.iter().map(|(from, to)| (*from, to.as_str()));
        let mut config = text.to_owned();
        for (from, to) in own.chain(changes.iter().copied()) {
            assert!(config.contains(from), "the configuration has no {from:?}");
            config = config.replace(from, to);
        }
        let path = dir.join(format!("envoy-{ingress}.yaml"));
        std::fs::write(&path, config).unwrap();
        let log = dir.join(format!("envoy-{ingress}.log"));
        let output = File::create(&log).unwrap();
        let mut command = Command::new(envoy);
        command.current_dir(dir).arg("-c").arg(&path);
        command.args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]);
        command.args(["--file-flush-interval-msec", "50"]);
        command.stdout(Stdio::from(output.try_clone().unwrap())).stderr(Stdio::from(output));
        let process = Process::spawn(&mut command);
        let [ingress, admin] = [ingress, admin].map(|port| format!("127.0.0.1:{port}"));
        let envoy = Self { process, ingress, admin, log };
        wait_for(&format!("envoy to be ready; its log is in {}", envoy.log.display()), || {
            let is_up = TcpStream::connect(&envoy.admin).is_ok() && http_get(&envoy.admin, "/ready").0 == 200;
            is_up.then_some(())
        });
        Some(envoy)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The value of one counter or gauge.
    pub fn stat(&self, name: &str) -> u64 {
        series(&http_get(&self.admin, "/stats").1, &format!("{name}:"))
    }
}

/// For `changes`: the port of an address, or a number.
pub fn port(address: &str) -> String {
    format!("port_value: {}", address.rsplit(':').next().unwrap())
}

/// Makes `envoy/keys/jwks.json` below `dir`, once, and a token for `user` that it verifies.
pub fn token(dir: &Path, user: &str) -> Option<String> {
    token_of(dir, user, "")
}

/// The same for somebody with groups, separated by commas.
pub fn token_of(dir: &Path, user: &str, groups: &str) -> Option<String> {
    let output = Command::new(tool("python3")?)
        .arg(Path::new(ROOT).join("envoy/demo/demo_token.py"))
        .args([user, "--groups", groups, "--keys"])
        .arg(dir.join("envoy/keys"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// An authority whose certificate is `envoy/keys/ca.crt` below a directory.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    keys: PathBuf,
}

impl Authority {
    pub fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let keys = dir.join("envoy/keys");
        write_file(&keys, "ca.crt", &issuer.pem());
        Self { issuer, keys }
    }

    /// `<name>.crt` and `<name>.key` beside it, for DNS names and, with a scheme, for URIs.
    pub fn issue(&self, name: &str, subject_alt_names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let san = |san: &&str| {
            let is_uri = san.contains("://");
            let name = (*san).try_into().unwrap();
            if is_uri { SanType::URI(name) } else { SanType::DnsName(name) }
        };
        params.subject_alt_names = subject_alt_names.iter().map(san).collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            write_file(&self.keys, &format!("{name}.crt"), &certificate.pem()),
            write_file(&self.keys, &format!("{name}.key"), &key.serialize_pem()),
        )
    }
}
