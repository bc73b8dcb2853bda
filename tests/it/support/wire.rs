//! An HTTP/1.1 client that sends exactly the bytes it is given, in clear or over TLS: libraries would mend them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longer than anything here waits for on purpose.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Wire {
    address: String,
    tls: Option<Arc<ClientConfig>>,
}

#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// 0 if the connection ended without an answer.
    pub status: u16,
    pub body: String,
}

pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Wire {
    pub fn clear(address: &str) -> Self {
        Self { address: address.to_owned(), tls: None }
    }

    /// Trusts `ca.crt` of the directory, and shows `<client>.crt` of it if one is named.
    pub fn tls(address: &str, keys: &Path, client: Option<&str>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(keys.join("ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(name) => {
                let certificate = CertificateDer::from_pem_file(keys.join(format!("{name}.crt"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(keys.join(format!("{name}.key"))).unwrap();
                config.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        Self { address: address.to_owned(), tls: Some(Arc::new(config)) }
    }

    fn connect(&self) -> Box<dyn Stream> {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::try_from("orders.example").unwrap();
                let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
                Box::new(StreamOwned::new(connection, stream))
            }
        }
    }

    /// A connection for frames of HTTP/2; over TLS it is agreed upon.
    pub fn with_http2(&self, talk: impl FnOnce(&mut dyn Stream)) {
        let tls = self.tls.as_ref().map(|config| {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        });
        talk(&mut *Self { address: self.address.clone(), tls }.connect());
    }

    /// The first answer to these bytes.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect();
        // Envoy may end the connection before all is sent; what it said before counts.
        let _ = stream.write_all(bytes.as_ref()).and_then(|()| stream.flush());
        read(&mut *stream, is_whole)
    }

    /// Everything that comes until the connection ends, or nothing came for a while.
    pub fn send_and_drain(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes.as_ref()).and_then(|()| stream.flush());
        let mut all = Vec::new();
        let mut last = Instant::now();
        let mut buffer = [0; 8192];
        while last.elapsed() < Duration::from_millis(600) {
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => {
                    all.extend_from_slice(&buffer[..count]);
                    last = Instant::now();
                }
                Err(error) if is_pause(&error) => {}
                Ok(0) | Err(_) => break,
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// A request without a body. `headers` are lines, each with its end.
    pub fn request(&self, method: &str, target: &str, host: &str, headers: &str) -> Answer {
        self.send(format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n"))
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn read(stream: &mut dyn Stream, is_whole: impl Fn(&[u8]) -> bool) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    let mut buffer = [0; 8192];
    while Instant::now() < deadline && !is_whole(&all) {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => all.extend_from_slice(&buffer[..count]),
            Err(error) if is_pause(&error) => {}
            Ok(0) | Err(_) => break,
        }
    }
    parse(&String::from_utf8_lossy(&all))
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    if head.starts_with("http/1.1 101") {
        return true;
    }
    match head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()) {
        Some(length) => length.trim().parse() == Ok(body.len()),
        // Ends with a last chunk, or with the connection.
        None => head.contains("transfer-encoding: chunked") && body.ends_with("0\r\n\r\n"),
    }
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, body: body.to_owned() }
}
