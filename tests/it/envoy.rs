//! A real Envoy in front.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::daypass::{Daypass, http_get};
use crate::support::envoy::{self, Envoy, port};
use crate::support::{Process, free_port, tool, wait_for};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn demo(more: &[&str]) {
    let (Some(envoy), Some(python)) = (tool("envoy"), tool("python3")) else { return };
    let output = Command::new(python)
        .arg(Path::new(ROOT).join("envoy/demo/demo.py"))
        .args(["--daypass", env!("CARGO_BIN_EXE_daypass"), "--envoy"])
        .arg(envoy)
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("steps went as they should."), "{text}");
}

#[test]
fn the_demo_goes_as_it_says() {
    demo(&[]);
}

#[test]
fn the_demo_goes_as_it_says_with_redis() {
    let Some(redis) = tool("redis-server") else { return };
    demo(&["--redis-server", &redis.display().to_string()]);
}

/// An upstream that sends a line every 100 ms for ten seconds, and counts the requests it got.
pub fn ticking_upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 8192]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                for _ in 0..100 {
                    if stream.write_all(b"5\r\ntick\n\r\n").is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    port
}

struct Demo {
    envoy: Envoy,
    token: String,
}

/// Envoy with the configuration of the README.
fn start_envoy(dir: &Path, check: &str, upstream: u16) -> Option<Demo> {
    let token = envoy::token(dir, "alice")?;
    let changes = [("port_value: 9191", port(check)), ("port_value: 8080", port(&upstream.to_string()))];
    let changes = changes.each_ref().map(|(from, to)| (*from, to.as_str()));
    Some(Demo { envoy: Envoy::start("jwt.yaml", dir, &changes)?, token })
}

impl Demo {
    /// Everything that comes back on one connection, and how long it took to end.
    fn get(&self, path: &str) -> (String, Duration) {
        let mut stream = TcpStream::connect(&self.envoy.ingress).unwrap();
        let token = &self.token;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: orders.svc\r\nauthorization: Bearer {token}\r\n\r\n")
            .unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let started = Instant::now();
        let (mut answer, mut last) = (Vec::new(), started);
        let mut buffer = [0; 4096];
        // Envoy half-closes a second after it cut the stream; the last byte is what counts.
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..count]);
            last = Instant::now();
            let is_complete =
                String::from_utf8_lossy(&answer).split_once("\r\n\r\n").is_some_and(|(head, body)| {
                    head.to_lowercase().split("content-length: ").nth(1).is_some_and(|rest| {
                        rest.lines().next().and_then(|length| length.trim().parse().ok()) == Some(body.len())
                    })
                });
            if is_complete {
                break;
            }
        }
        (String::from_utf8_lossy(&answer).into_owned(), last - started)
    }
}

#[test]
fn a_stream_ends_when_its_grant_ends() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let daypass = Daypass::start_in(&dir, &[]);
    let Some(envoy) = start_envoy(dir.path(), &daypass.check, ticking_upstream()) else { return };
    daypass.grant(&["create", "--subject", "user:alice", "--host", "orders.svc", "--ttl", "2s"]).unwrap();
    let (answer, lasted) = envoy.get("/db/stream");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    println!("a stream under a grant of 2 s lasted {lasted:?}");
    // Never past the end by more than a tick and a busy machine's slack; not cut before it either.
    assert!(
        lasted > Duration::from_millis(1600) && lasted < Duration::from_millis(2500),
        "{lasted:?} {answer}"
    );
}

#[test]
fn a_daypass_that_is_gone_denies() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let daypass = Daypass::start_in(&dir, &[]);
    let Some(envoy) = start_envoy(dir.path(), &daypass.check, ticking_upstream()) else { return };
    assert!(envoy.get("/db").0.starts_with("HTTP/1.1 403"));
    drop(daypass);
    let (answer, _) = envoy.get("/db");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[test]
fn what_only_daypass_may_say_cannot_be_said_by_a_client() {
    let (Some(envoy), Some(python)) = (tool("envoy"), tool("python3")) else { return };
    drop((envoy, python));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let daypass = Daypass::start_in(&dir, &[]);
    let mut echo = Command::new(tool("python3").unwrap());
    let port = free_port();
    echo.arg(Path::new(ROOT).join("envoy/demo/echo.py")).arg(port.to_string()).stdout(Stdio::null());
    let _echo = Process::spawn(&mut echo);
    wait_for("the echo upstream", || TcpStream::connect(("127.0.0.1", port)).ok());
    let Some(envoy) = start_envoy(dir.path(), &daypass.check, port) else { return };
    daypass
        .grant(&["create", "--id", "real", "--subject", "user:alice", "--host", "orders.svc", "--ttl", "1m"])
        .unwrap();
    let (answer, _) = envoy.get("/db HTTP/1.1\r\nx-daypass-grant: forged\r\nx-ignored:");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"real\"") && !answer.contains("forged"),
        "{answer}"
    );
}

#[test]
fn the_ops_listener_speaks_http() {
    let daypass = Daypass::start(&[]);
    assert_eq!(http_get(&daypass.ops, "/livez").0, 200);
}

#[test]
fn shipped_configurations_are_valid() {
    let Some(envoy) = tool("envoy") else { return };
    let dir = tempfile::tempdir().unwrap();
    if envoy::token(dir.path(), "alice").is_none() {
        return;
    }
    envoy::Authority::new(dir.path()).issue("server", &["orders.example"]);
    for entry in std::fs::read_dir(Path::new(ROOT).join("envoy")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let output = Command::new(&envoy)
                .current_dir(&dir)
                .args(["--mode", "validate", "-l", "error", "-c"])
                .arg(&path)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}
