//! What the Compose file runs, without containers: its Envoy, its issuer of tokens and its daypass, each with the shipped
//! configuration, on ports of this test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::support::daypass::{Daypass, binary, write_file};
use crate::support::envoy::{Envoy, port};
use crate::support::{Process, free_port, tool, wait_for};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The issuer in the shipped configurations.
const ISSUER: &str = "127.0.0.1:9000";

struct Issuer {
    _process: Process,
    address: String,
}

impl Issuer {
    fn start() -> Option<Self> {
        let mut command = Command::new(tool("python3")?);
        command.arg(Path::new(ROOT).join("envoy/demo/issuer.py")).arg("0").stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Some(Self { _process: process, address })
    }

    fn token(&self, subject: &str, group: &str) -> String {
        let body = format!("sub={subject}&groups={group}");
        let head = format!("POST /token HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len());
        let (status, body) = exchange(&self.address, &format!("{head}connection: close\r\n\r\n{body}"));
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

fn exchange(address: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// As the person whose token it is.
fn run(daypass: &Daypass, token: &str, args: &[&str]) -> String {
    let output = binary()
        .args(args)
        .env("DAYPASS_API", format!("http://{}", daypass.api))
        .env("DAYPASS_TOKEN", token)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_story_of_the_compose_file_goes_as_printed() {
    let (Some(python), Some(issuer)) = (tool("python3"), Issuer::start()) else { return };
    let upstream = free_port();
    let mut echo = Command::new(python);
    echo.arg(Path::new(ROOT).join("envoy/demo/echo.py")).arg(upstream.to_string()).stdout(Stdio::null());
    let _echo = Process::spawn(&mut echo);
    wait_for("the echo upstream", || TcpStream::connect(("127.0.0.1", upstream)).ok());

    let dir = Arc::new(tempfile::tempdir().unwrap());
    let entitlements = format!("{ROOT}/policies/entitlements.yaml");
    let config = std::fs::read_to_string(Path::new(ROOT).join("envoy/demo/daypass.yaml")).unwrap();
    let config =
        config.replace(ISSUER, &issuer.address).replace("/etc/daypass/entitlements.yaml", &entitlements);
    let config = write_file(dir.path(), "daypass.yaml", &config);
    let daypass = Daypass::start_in(&dir, &["--config", &config]);

    let changes = [
        ("address: 0.0.0.0", "address: 127.0.0.1".to_owned()),
        (ISSUER, issuer.address.clone()),
        ("port_value: 9000", port(&issuer.address)),
        ("port_value: 9191", port(&daypass.check)),
        ("port_value: 8080", port(&upstream.to_string())),
    ];
    let changes = changes.each_ref().map(|(from, to)| (*from, to.as_str()));
    let Some(envoy) = Envoy::start("compose.yaml", dir.path(), &changes) else { return };

    let (alice, bob) = (issuer.token("alice@corp", "engineering"), issuer.token("bob@corp", "orders-team"));
    let orders = || {
        let head = "GET /db/orders HTTP/1.1\r\nhost: orders.example\r\nconnection: close\r\n";
        exchange(&envoy.ingress, &format!("{head}authorization: Bearer {alice}\r\n\r\n"))
    };
    let (status, body) = orders();
    assert!(status == 403 && body.contains("no_grant") && body.contains("orders-db-read"), "{status} {body}");
    let asked = ["request", "create", "orders-db-read", "--reason", "customer 4711", "--no-wait", "--json"];
    let request: Value = serde_json::from_str(&run(&daypass, &alice, &asked)).unwrap();
    run(&daypass, &bob, &["request", "approve", request["id"].as_str().unwrap()]);
    let body = wait_for("the grant", || Some(orders()).filter(|(status, _)| *status == 200)).1;
    assert!(body.contains("x-daypass-grant"), "{body}");
}
