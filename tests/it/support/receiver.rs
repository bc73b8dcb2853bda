//! A receiver of webhooks that answers as it is told, and remembers what came. Raw TCP, as [`super::bundle_server`].

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::wait_for;

/// What came.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    /// By names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub at: Instant,
    /// What it was answered with; 0 for nothing.
    pub status: u16,
}

/// That the policy was loaded, and one for each of its three entitlements: nobody is told of them.
pub const POLICY_EVENTS: u64 = 4;

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Counted from the first event after those of the policy.
    pub fn number(&self) -> u64 {
        self.json()["number"].as_u64().unwrap() - POLICY_EVENTS
    }

    pub fn kind(&self) -> String {
        self.headers["x-daypass-event"].clone()
    }
}

/// What to do with a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// With a header.
    With(u16, &'static str, String),
    /// After a while.
    Late(Duration, u16),
    /// The status, and a body that never ends.
    Endless(u16),
    /// Nothing, on an open connection.
    Hang,
    /// The end of the connection.
    Close,
}

/// Told how many came before, and what came.
type Script = dyn Fn(usize, &Received) -> Answer + Send + Sync;

pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Mutex<Arc<Script>>,
    received: Mutex<Vec<Received>>,
}

impl Receiver {
    pub fn start(script: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script)
    }

    /// One that takes everything.
    pub fn willing() -> Self {
        Self::start(|_, _| Answer::Status(200))
    }

    pub fn start_at(
        address: &str,
        script: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(address, script, Some)
    }

    /// With something between the stream and the script, such as TLS.
    pub fn start_with<S: Read + Write + Send + 'static>(
        address: &str,
        script: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { script: Mutex::new(Arc::new(script)), received: Mutex::new(Vec::new()) });
        let (weak, wrap) = (Arc::downgrade(&shared), Arc::new(wrap));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(shared) = weak.upgrade() else { return };
                let wrap = Arc::clone(&wrap);
                std::thread::spawn(move || {
                    if let Some(stream) = stream.ok().and_then(|stream| wrap(stream)) {
                        serve(stream, &shared);
                    }
                });
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?x=1", self.address)
    }

    pub fn set(&self, script: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Those that were taken.
    pub fn taken(&self) -> Vec<Received> {
        self.received().into_iter().filter(|received| (200..300).contains(&received.status)).collect()
    }

    /// What came, once so many did.
    pub fn wait(&self, count: usize) -> Vec<Received> {
        wait_for(&format!("{count} deliveries"), || {
            Some(self.received()).filter(|received| received.len() >= count)
        })
    }

    /// What was taken, once so many were.
    pub fn wait_taken(&self, count: usize) -> Vec<Received> {
        wait_for(&format!("{count} deliveries to be taken"), || {
            Some(self.taken()).filter(|taken| taken.len() >= count)
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Wakes the thread that accepts, which then finds nobody here.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: impl Read + Write, shared: &Shared) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    assert_eq!(first.next(), Some("POST"));
    let path = first.next().unwrap().to_owned();
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    if stream.read_exact(&mut body).is_err() {
        return;
    }
    let body = String::from_utf8(body).unwrap();
    let mut received = Received { path, headers, body, at: Instant::now(), status: 0 };
    let script = Arc::clone(&shared.script.lock().unwrap());
    let (answer, index) = {
        let mut all = shared.received.lock().unwrap();
        let answer = script(all.len(), &received);
        if let Answer::Status(status) | Answer::With(status, ..) | Answer::Endless(status) = answer {
            received.status = status;
        }
        all.push(received);
        (answer, all.len() - 1)
    };
    let say = |stream: &mut dyn Write, status: u16, header: &str, body: &str| {
        let length = if body == "endless" { 1 << 40 } else { body.len() };
        let text = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{header}\r\n{body}");
        // The client may be gone: that is what some tests are about.
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.flush();
    };
    match answer {
        Answer::Status(status) => say(&mut stream, status, "", "thanks"),
        Answer::With(status, name, value) => say(&mut stream, status, &format!("{name}: {value}\r\n"), ""),
        Answer::Late(delay, status) => {
            std::thread::sleep(delay);
            shared.received.lock().unwrap()[index].status = status;
            say(&mut stream, status, "", "");
        }
        Answer::Endless(status) => {
            say(&mut stream, status, "", "endless");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        }
        Answer::Hang => _ = stream.read(&mut byte),
        Answer::Close => {}
    }
}
