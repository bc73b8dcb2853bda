//! A TCP proxy that can fall silent as networks do: no reset, no end, just nothing, for the connections that are there,
//! for all, or in one direction. What was held is delivered when it is let go.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// What the client sends.
    Requests,
    /// What the server answers, and its pushes.
    Replies,
}

#[derive(Default)]
struct Gate {
    requests: AtomicBool,
    replies: AtomicBool,
}

impl Gate {
    fn of(&self, direction: Held) -> &AtomicBool {
        match direction {
            Held::Requests => &self.requests,
            Held::Replies => &self.replies,
        }
    }
}

#[derive(Default)]
struct State {
    /// Of each connection that was ever made.
    gates: Mutex<Vec<(Arc<Gate>, TcpStream, TcpStream)>>,
    /// For connections to come.
    holds_new: AtomicBool,
    target: AtomicU16,
    delay_ms: AtomicU64,
    is_over: AtomicBool,
}

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { target: target.into(), ..State::default() });
        std::thread::spawn({
            let state = Arc::clone(&state);
            move || accept(&listener, &state)
        });
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where new connections go.
    pub fn point_to(&self, target: u16) {
        self.state.target.store(target, Ordering::SeqCst);
    }

    /// The connections that are there fall silent; new ones work.
    pub fn hold_existing(&self) {
        self.hold(&[Held::Requests, Held::Replies]);
    }

    /// In one direction only.
    pub fn hold(&self, directions: &[Held]) {
        for (gate, _, _) in self.state.gates.lock().unwrap().iter() {
            for direction in directions {
                gate.of(*direction).store(true, Ordering::SeqCst);
            }
        }
    }

    /// New ones too: they are accepted and hear nothing.
    pub fn hold_all(&self) {
        self.state.holds_new.store(true, Ordering::SeqCst);
        self.hold_existing();
    }

    pub fn release(&self) {
        self.state.holds_new.store(false, Ordering::SeqCst);
        for (gate, _, _) in self.state.gates.lock().unwrap().iter() {
            gate.requests.store(false, Ordering::SeqCst);
            gate.replies.store(false, Ordering::SeqCst);
        }
    }

    /// Both ends are told, at once.
    pub fn cut(&self) {
        for (_, client, server) in self.state.gates.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Of every portion, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.state.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        self.release();
        self.cut();
        // Wakes the one that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming().map_while(Result::ok) {
        if state.is_over.load(Ordering::SeqCst) {
            return;
        }
        let target = state.target.load(Ordering::SeqCst);
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        let gate = Arc::new(Gate::default());
        if state.holds_new.load(Ordering::SeqCst) {
            gate.requests.store(true, Ordering::SeqCst);
            gate.replies.store(true, Ordering::SeqCst);
        }
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let clone = |stream: &TcpStream| stream.try_clone().unwrap();
        state.gates.lock().unwrap().push((Arc::clone(&gate), clone(&client), clone(&server)));
        pump(clone(&client), clone(&server), Held::Requests, &gate, state);
        pump(server, client, Held::Replies, &gate, state);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, direction: Held, gate: &Arc<Gate>, state: &Arc<State>) {
    let (gate, state) = (Arc::clone(gate), Arc::clone(state));
    std::thread::spawn(move || {
        let mut portion = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut portion) {
            let delay = state.delay_ms.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(delay));
            while gate.of(direction).load(Ordering::SeqCst) && !state.is_over.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if to.write_all(&portion[..length]).is_err() {
                break;
            }
        }
        // An end is news too, and a silent network does not carry it.
        while gate.of(direction).load(Ordering::SeqCst) && !state.is_over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
