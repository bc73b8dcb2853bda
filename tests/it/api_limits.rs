//! What one caller or stranger may take of the API: the built binary, under clients that do not behave.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use daypass::api::v1;
use daypass::api::v1::access_service_client::AccessServiceClient;
use daypass::api::v1::event_service_client::EventServiceClient;
use daypass::api::v1::grant_service_client::GrantServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::daypass::{Daypass, binary, channel};

fn admin(daypass: &Daypass) -> String {
    let token = std::fs::read_to_string(daypass.data_dir().join("token")).unwrap();
    format!("authorization: Bearer {}\r\n", token.trim())
}

/// From an address of this machine's own choice: all of 127/8 are.
async fn connect_from(last: u8, daypass: &Daypass) -> TcpStream {
    let address: SocketAddr = daypass.api.parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// The code of a call whose connection stays; 0 if it is closed.
async fn call(stream: &mut TcpStream, headers: &str) -> u16 {
    let request = format!("GET /v1/caller HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() { 0 } else { answer(stream).await }
}

async fn answer(stream: &mut TcpStream) -> u16 {
    let mut text = Vec::new();
    loop {
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return 0,
            Ok(bytes) => text.extend_from_slice(&part[..bytes]),
        }
        let found = String::from_utf8_lossy(&text);
        let Some((head, body)) = found.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return head.split(' ').nth(1).unwrap().parse().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_never_keep_callers_out() {
    let daypass = Daypass::start(&[]);
    let token = admin(&daypass);
    let mut first = connect_from(1, &daypass).await;
    assert_eq!(call(&mut first, &token).await, 200);
    let mut strangers = Vec::new();
    for last in 2..9 {
        for _ in 0..100 {
            let mut stream = connect_from(last, &daypass).await;
            assert!(matches!(call(&mut stream, "").await, 401 | 429));
            strangers.push(stream);
        }
    }
    let mut newcomer = connect_from(1, &daypass).await;
    assert_eq!(call(&mut newcomer, &token).await, 200);
    assert_eq!(call(&mut first, &token).await, 200, "whoever was admitted is never given up");

    // One address, all of them admitted: others are not kept out.
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut stream = connect_from(9, &daypass).await;
        crowd.push(call(&mut stream, &token).await);
        strangers.push(stream);
    }
    assert_eq!(crowd.iter().filter(|code| **code == 200).count(), 128);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_nobody_has_an_end() {
    let daypass = Daypass::start(&[]);
    let token = admin(&daypass);
    let mut known = connect_from(1, &daypass).await;
    let mut stranger = connect_from(1, &daypass).await;
    assert_eq!(call(&mut known, &token).await, 200);
    let began = Instant::now();
    while call(&mut stranger, "").await == 401 {
        assert!(began.elapsed() < Duration::from_secs(40), "it is still open");
        assert_eq!(call(&mut known, "").await, 401);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(call(&mut known, &token).await, 200);
}

/// Another token of an administrator.
fn token(daypass: &Daypass, principal: &str, ttl: &str) -> String {
    let mut command = binary();
    command.arg("token").arg("--data-dir").arg(daypass.data_dir());
    command.args(["create", "--principal", principal, "--group", "group:daypass-admins", "--ttl", ttl]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

async fn watch(channel: &Channel, token: &str) -> Result<Streaming<v1::Event>, Status> {
    let mut events = EventServiceClient::new(channel.clone());
    events.watch_events(with(token, v1::WatchEventsRequest::default())).await.map(tonic::Response::into_inner)
}

/// Tokens are good within a second of their making.
async fn until_known(channel: &Channel, token: &str) {
    let began = Instant::now();
    while AccessServiceClient::new(channel.clone())
        .get_caller(with(token, v1::GetCallerRequest {}))
        .await
        .is_err()
    {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_has_so_many_streams() {
    let daypass = Daypass::start(&[]);
    let channel = channel(&daypass.api).await;
    let (alice, bob) = (token(&daypass, "user:alice", "1h"), token(&daypass, "user:bob", "1h"));
    until_known(&channel, &bob).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(watch(&channel, &alice).await.unwrap());
    }
    assert_eq!(watch(&channel, &alice).await.unwrap_err().code(), Code::ResourceExhausted);
    let of_bob = watch(&channel, &bob).await.unwrap();
    streams.pop();
    let began = Instant::now();
    while watch(&channel, &alice).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "what ends is given back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(of_bob);
}

/// A client that opens no window is never sent anything, and would keep its streams from noticing their end.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_end_with_the_credentials() {
    let daypass = Daypass::start(&[]);
    let (short, long) = (token(&daypass, "user:alice", "6s"), token(&daypass, "user:alice", "1h"));
    let open = channel(&daypass.api).await;
    until_known(&open, &long).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", daypass.api)).unwrap();
    let closed = endpoint.initial_stream_window_size(0).connect().await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(watch(&closed, &short).await.unwrap());
    }
    // There is something to send: each stream waits for its window.
    let grant = v1::Grant {
        subject: "user:x".to_owned(),
        permissions: vec![v1::Permission { hosts: vec!["a".to_owned()], ..v1::Permission::default() }],
        ..v1::Grant::default()
    };
    let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let asked = v1::CreateGrantRequest { grant: Some(grant), ttl };
    GrantServiceClient::new(open.clone()).create_grant(with(&long, asked)).await.unwrap();
    assert_eq!(watch(&open, &long).await.unwrap_err().code(), Code::ResourceExhausted);
    let began = Instant::now();
    while watch(&open, &long).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "the streams are still held");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    drop(streams);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_size_and_an_end() {
    let daypass = Daypass::start(&[]);
    let admin = std::fs::read_to_string(daypass.data_dir().join("token")).unwrap();
    let channel = channel(&daypass.api).await;
    let mut grants = GrantServiceClient::new(channel);
    let asked = |bytes: usize| v1::GetGrantRequest { id: "x".repeat(bytes) };
    let code = grants.get_grant(with(admin.trim(), asked((1 << 20) - 100))).await.unwrap_err().code();
    assert!(!matches!(code, Code::OutOfRange | Code::ResourceExhausted), "{code:?}");
    for bytes in [(1 << 20) + 1, 3 << 20] {
        let code = grants.get_grant(with(admin.trim(), asked(bytes))).await.unwrap_err().code();
        assert_eq!(code, Code::OutOfRange);
    }

    let mut slow = connect_from(1, &daypass).await;
    let head = format!(
        "POST /daypass.v1.AccessService/GetCaller HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n\
         te: trailers\r\ncontent-length: 5\r\n{}\r\n\0",
        self::admin(&daypass)
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&text).contains("grpc-status: 4") {
            let mut part = [0; 4096];
            let bytes = slow.read(&mut part).await.unwrap();
            assert_ne!(bytes, 0, "{}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&part[..bytes]);
        }
    };
    tokio::time::timeout(Duration::from_secs(40), read).await.expect("it waits for the body for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_call_is_for_everybody() {
    let daypass = Daypass::start(&[]);
    let mut health = HealthClient::new(channel(&daypass.api).await);
    assert!(health.check(HealthCheckRequest::default()).await.is_ok());
    let watched = health.watch(HealthCheckRequest::default()).await;
    assert_eq!(watched.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_change_nothing() {
    let daypass = Daypass::start(&[]);
    let token = admin(&daypass);
    let mut stream = connect_from(1, &daypass).await;
    let mut revoke = async |headers: &str| {
        let request =
            format!("POST /v1/grants/none:revoke HTTP/1.1\r\nhost: api.example\r\n{token}{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        answer(&mut stream).await
    };
    for own in [
        "",
        "content-length: 0\r\n",
        "origin: http://api.example\r\n",
        "sec-fetch-site: same-origin\r\norigin: https://api.example\r\n",
    ] {
        assert_eq!(revoke(own).await, 404, "{own}");
    }
    for other in [
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\n",
        "origin: https://evil.example\r\n",
        "origin: null\r\n",
        "sec-fetch-site: same-origin\r\norigin: https://evil.example\r\n",
    ] {
        assert_eq!(revoke(other).await, 403, "{other}");
    }
    assert_eq!(call(&mut stream, &format!("{token}origin: https://evil.example\r\n")).await, 200);
}
