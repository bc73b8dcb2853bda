//! A server of bundles that does what it is told, also what no server should do. Raw TCP: libraries are too well-behaved.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What to do with a request.
#[derive(Clone)]
pub enum Reply {
    /// These bytes, and the end of the connection.
    Bytes(Vec<u8>),
    /// These, and then silence on an open connection.
    Hang(Vec<u8>),
    /// After a while.
    Late(Duration, Vec<u8>),
}

type Script = dyn Fn(&str) -> Reply + Send + Sync;

pub struct BundleServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Mutex<Arc<Script>>,
    requests: Mutex<Vec<String>>,
}

impl BundleServer {
    pub fn start(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(script, Some)
    }

    /// With something between the stream and the script, such as TLS.
    pub fn start_with<S: Read + Write + Send + 'static>(
        script: impl Fn(&str) -> Reply + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { script: Mutex::new(Arc::new(script)), requests: Mutex::new(Vec::new()) });
        let weak = Arc::downgrade(&shared);
        let wrap = Arc::new(wrap);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(shared) = weak.upgrade() else { return };
                let wrap = Arc::clone(&wrap);
                std::thread::spawn(move || {
                    let Some(stream) = stream.ok().and_then(|stream| wrap(stream)) else { return };
                    serve(stream, &shared);
                });
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, script: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for BundleServer {
    fn drop(&mut self) {
        // Wakes the thread that accepts, which then finds nobody here.
        self.shared.requests.lock().unwrap().clear();
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: impl Read + Write, shared: &Shared) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    shared.requests.lock().unwrap().push(request.clone());
    let script = Arc::clone(&shared.script.lock().unwrap());
    // The client may be gone: that is what some tests are about.
    match script(&request) {
        Reply::Bytes(bytes) => _ = stream.write_all(&bytes),
        Reply::Late(delay, bytes) => {
            std::thread::sleep(delay);
            let _ = stream.write_all(&bytes);
        }
        Reply::Hang(bytes) => {
            let _ = stream.write_all(&bytes);
            let _ = stream.flush();
            let _ = stream.read(&mut byte);
        }
    }
    let _ = stream.flush();
}

pub fn response(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// 200 with the archive, or 304 where the client has it already.
pub fn conditional(etag: &str, archive: &[u8]) -> impl Fn(&str) -> Reply + Send + Sync + 'static {
    let known = format!("if-none-match: {etag}\r\n");
    let (new, same) = (
        response("200 OK", &[("etag", etag), ("content-type", "application/gzip")], archive),
        response("304 Not Modified", &[("etag", etag)], b""),
    );
    move |request: &str| {
        Reply::Bytes(if request.to_ascii_lowercase().contains(&known) { same.clone() } else { new.clone() })
    }
}

/// Packed by `tar`, and not by what will read it.
pub fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files);
    let output = Command::new("tar").args(["-czf-", "."]).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

pub fn write(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}
