//! Restarts under load: of daypass, of Envoy, of both in turn. Whoever holds no grant never gets through, and where there are
//! two of each, whoever does always gets through.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::daypass::Daypass;
use crate::support::envoy::{self, Envoy, port};
use crate::support::redis::Redis;
use crate::support::{free_port, wait_for};

const REQUESTS_A_SECOND: u32 = 300;
const CLIENTS: u32 = 6;
/// How long things go on as usual between two restarts.
const BETWEEN: Duration = Duration::from_millis(1500);
/// For whoever routes to Envoys to see that one is leaving, as load balancers do by their health checks.
const NOTICE: Duration = Duration::from_millis(300);

/// What clients saw.
#[derive(Default)]
struct Tally {
    /// Granted and answered, and not granted and denied.
    good: AtomicU64,
    /// Granted, and answered with something else than 200.
    lost: Mutex<Vec<String>>,
    /// Not granted, and let through.
    leaked: AtomicU64,
    /// Asked at the other Envoy, because this one was gone.
    again: AtomicU64,
}

/// The Envoys that requests may go to.
struct Fleet {
    ingress: [String; 2],
    is_leaving: [AtomicBool; 2],
}

fn ask(ingress: &str, token: &str, host: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(ingress).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!(
        "GET /db HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // A reset behind the answer takes nothing from it.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

/// Asks as clients behind a load balancer do: at the Envoy whose turn it is and that is not leaving, and at the other if it
/// cannot be reached.
fn send(fleet: &Fleet, tally: &Tally, token: &str, turn: usize, is_granted: bool) {
    let host = if is_granted { "granted.svc" } else { "forbidden.svc" };
    let first = if fleet.is_leaving[turn % 2].load(Ordering::Acquire) { turn + 1 } else { turn } % 2;
    let status = ask(&fleet.ingress[first], token, host).or_else(|| {
        tally.again.fetch_add(1, Ordering::Relaxed);
        ask(&fleet.ingress[1 - first], token, host)
    });
    match (is_granted, status) {
        (false, Some(200)) => {
            tally.leaked.fetch_add(1, Ordering::Relaxed);
        }
        (true, Some(200)) | (false, Some(403)) => {
            tally.good.fetch_add(1, Ordering::Relaxed);
        }
        // A denial is right, whatever its reason.
        (false, _) => {}
        (true, status) => tally.lost.lock().unwrap().push(format!("{status:?} from {first}")),
    }
}

fn load(
    fleet: &Arc<Fleet>,
    tally: &Arc<Tally>,
    token: &str,
    stop: &Arc<AtomicBool>,
) -> Vec<thread::JoinHandle<()>> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let client = |_| {
        let (fleet, tally, token, stop) =
            (Arc::clone(fleet), Arc::clone(tally), token.to_owned(), Arc::clone(stop));
        thread::spawn(move || {
            let mut next = Instant::now();
            while !stop.load(Ordering::Acquire) {
                let turn = TURN.fetch_add(1, Ordering::Relaxed);
                send(&fleet, &tally, &token, turn, !turn.is_multiple_of(3));
                next += Duration::from_secs(1) * CLIENTS / REQUESTS_A_SECOND;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        })
    };
    (0..CLIENTS).map(client).collect()
}

/// `jwt.yaml` for two instances of daypass, of which a check that fails on one is asked at the other.
fn start_envoy(dir: &Path, checks: [&str; 2], upstream: u16, ports: Option<(u16, u16)>) -> Option<Envoy> {
    let one =
        "        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9191 } } }\n";
    let both = checks.map(|check| one.replace("port_value: 9191", &port(check))).concat();
    let upstream = port(&upstream.to_string());
    let changes = [
        (one, both.as_str()),
        (
            "                timeout: 0.25s\n",
            "                timeout: 0.25s\n                retry_policy: { retry_on: \"connect-failure,refused-stream,reset,unavailable\", num_retries: 2, \
             retry_back_off: { base_interval: 0.005s, max_interval: 0.02s }, \
             retry_host_predicate: [{ name: envoy.retry_host_predicates.previous_hosts, typed_config: { \"@type\": \
             type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } }] }\n",
        ),
        ("port_value: 8080", upstream.as_str()),
    ];
    Envoy::start_at("jwt.yaml", dir, &changes, ports)
}

struct Stack {
    redis: Redis,
    dirs: [Arc<tempfile::TempDir>; 2],
    checks: [String; 2],
    daypass: [Option<Daypass>; 2],
    envoy: [Option<Envoy>; 2],
    upstream: u16,
    fleet: Arc<Fleet>,
}

impl Stack {
    fn start_daypass(&mut self, index: usize) {
        let args = ["--store", &self.redis.url(), "--listen", &self.checks[index]];
        let daypass = Daypass::start_in(&self.dirs[index], &args);
        wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
        self.daypass[index] = Some(daypass);
    }

    /// As an orchestrator does it: asked to stop, waited for, started again.
    fn restart_daypass(&mut self, index: usize) {
        let daypass = self.daypass[index].take().unwrap();
        daypass.process.signal("-TERM");
        wait_for("daypass to be gone", || TcpStream::connect(&daypass.check).is_err().then_some(()));
        drop(daypass);
        self.start_daypass(index);
    }

    fn start_envoy(&mut self, index: usize) {
        let number = |address: &str| address.rsplit(':').next().unwrap().parse().unwrap();
        let ports = (number(&self.fleet.ingress[index]), free_port());
        let checks = self.checks.each_ref().map(String::as_str);
        self.envoy[index] = start_envoy(self.dirs[index].path(), checks, self.upstream, Some(ports));
        self.fleet.is_leaving[index].store(false, Ordering::Release);
    }

    fn restart_envoy(&mut self, index: usize) {
        self.fleet.is_leaving[index].store(true, Ordering::Release);
        thread::sleep(NOTICE);
        let envoy = self.envoy[index].take().unwrap();
        envoy.process.signal("-TERM");
        drop(envoy);
        self.start_envoy(index);
    }
}

fn start_stack(upstream: u16) -> Option<(Stack, String)> {
    let redis = Redis::start(&[])?;
    let dirs = [(); 2].map(|()| Arc::new(tempfile::tempdir().unwrap()));
    let token = envoy::token(dirs[0].path(), "alice")?;
    let keys = std::fs::read_to_string(dirs[0].path().join("envoy/keys/jwks.json")).unwrap();
    crate::support::daypass::write_file(dirs[1].path(), "envoy/keys/jwks.json", &keys);
    let address = || format!("127.0.0.1:{}", free_port());
    let fleet = Fleet {
        ingress: [address(), address()],
        is_leaving: [AtomicBool::new(false), AtomicBool::new(false)],
    };
    let mut stack = Stack {
        redis,
        dirs,
        checks: [address(), address()],
        daypass: [None, None],
        envoy: [None, None],
        upstream,
        fleet: Arc::new(fleet),
    };
    for index in 0..2 {
        stack.start_daypass(index);
        stack.start_envoy(index);
    }
    let grant = r#"{"v":1,"subject":"user:alice","permissions":[{"hosts":["granted.svc"]}]}"#;
    stack.redis.set("g", grant, 600_000);
    stack.envoy[0].is_some().then_some((stack, token))
}

#[test]
fn a_rolling_restart_of_everything_loses_no_request_and_lets_nobody_through() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let upstream = runtime.block_on(crate::support::ticker::short_answers());
    let Some((mut stack, token)) = start_stack(upstream) else { return };
    for ingress in stack.fleet.ingress.clone() {
        wait_for("the grant", || (ask(&ingress, &token, "granted.svc") == Some(200)).then_some(()));
    }
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let clients = load(&stack.fleet, &tally, &token, &stop);
    let mut lost = 0;
    for (what, act) in [
        ("nothing", (|_, _| {}) as fn(&mut Stack, usize)),
        ("daypass", Stack::restart_daypass),
        ("Envoy", Stack::restart_envoy),
        ("daypass and Envoy", |stack, index| {
            stack.restart_envoy(index);
            stack.restart_daypass(index);
        }),
    ] {
        for index in 0..2 {
            act(&mut stack, index);
            thread::sleep(BETWEEN);
        }
        let now = tally.lost.lock().unwrap().len();
        let (good, again) = (tally.good.load(Ordering::Relaxed), tally.again.load(Ordering::Relaxed));
        println!(
            "restarted {what}, one after the other: {good} right so far, {again} asked elsewhere, {} lost",
            now - lost
        );
        lost = now;
    }
    // A grant that goes while everything is up is gone at both.
    stack.redis.del("g");
    thread::sleep(Duration::from_millis(200));
    for ingress in &stack.fleet.ingress {
        assert_eq!(ask(ingress, &token, "granted.svc"), Some(403));
    }
    stop.store(true, Ordering::Release);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(tally.leaked.load(Ordering::Relaxed), 0, "let through without a grant");
    let lost = tally.lost.lock().unwrap();
    // The grant was gone for the last moments.
    let lost: Vec<_> = lost.iter().filter(|what| !what.starts_with("Some(403)")).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// One of each: what cannot be decided is denied, and afterwards all is as before.
#[test]
fn a_lonely_daypass_that_restarts_lets_nobody_through() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let upstream = runtime.block_on(crate::support::ticker::short_answers());
    let Some((mut stack, token)) = start_stack(upstream) else { return };
    // The second leaves, and the first is all there is.
    stack.daypass[1] = None;
    let ingress = stack.fleet.ingress[0].clone();
    wait_for("the grant", || (ask(&ingress, &token, "granted.svc") == Some(200)).then_some(()));
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    stack.fleet.is_leaving[1].store(true, Ordering::Release);
    let clients = load(&stack.fleet, &tally, &token, &stop);
    thread::sleep(BETWEEN);
    stack.restart_daypass(0);
    thread::sleep(BETWEEN);
    stop.store(true, Ordering::Release);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let lost = tally.lost.lock().unwrap();
    println!(
        "a restart without a second instance: {} right, {} denied that were granted",
        tally.good.load(Ordering::Relaxed),
        lost.len()
    );
    assert_eq!(tally.leaked.load(Ordering::Relaxed), 0, "let through without a grant");
    assert!(lost.iter().all(|what| what.starts_with("Some(503)")), "{lost:?}");
    assert_eq!(ask(&ingress, &token, "granted.svc"), Some(200));
    assert_eq!(ask(&ingress, &token, "forbidden.svc"), Some(403));
}
