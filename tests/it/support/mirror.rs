//! An upstream that answers with the head of the request it got, and remembers it. Raw TCP, so that it reads nothing into it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

const UPGRADED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";

pub struct Mirror {
    pub address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Mirror {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let weak = Arc::downgrade(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Some(heads), Ok(stream)) = (weak.upgrade(), stream) else { return };
                std::thread::spawn(move || serve(stream, &heads));
            }
        });
        Self { address, heads }
    }

    /// The heads that came since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.heads.lock().unwrap())
    }
}

/// One request after another, as long as Envoy keeps the connection.
fn serve(mut stream: TcpStream, heads: &Mutex<Vec<String>>) {
    let mut input = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let text = String::from_utf8_lossy(&input).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let length = length.and_then(|length| length.trim().parse::<usize>().ok()).unwrap_or(0);
            let is_chunked = lower.contains("transfer-encoding: chunked");
            let used = if is_chunked {
                rest.find("0\r\n\r\n").map(|at| at + 5)
            } else {
                (rest.len() >= length).then_some(length)
            };
            if let Some(used) = used {
                heads.lock().unwrap().push(head.to_owned());
                let answer = if lower.contains("upgrade: websocket") {
                    UPGRADED.to_owned()
                } else {
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len())
                };
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
                input.drain(..head.len() + 4 + used);
                continue;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => input.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}
