//! The API by HTTP and JSON: over services of the test's own, which give canned answers, and over the real one.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use daypass::api::rest::Rest;
use daypass::api::v1;
use daypass::api::v1::event_service_server::{EventService, EventServiceServer};
use daypass::api::v1::grant_service_client::GrantServiceClient;
use daypass::api::v1::request_service_server::{RequestService, RequestServiceServer};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::{Code, Response, Status};

use crate::support::daypass::{Daypass, channel};
use crate::support::random::Random;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

type Sender = mpsc::Sender<Result<v1::AccessRequest, Status>>;

/// Says back what it is told; an id `code-N` is an error with that code.
#[derive(Clone, Default)]
struct Fake {
    /// The other ends of streams that do not end by themselves.
    endless: Arc<Mutex<Vec<Sender>>>,
}

#[derive(Clone)]
struct WhoCalls(&'static str);

fn coded(id: &str) -> Option<Status> {
    let code: i32 = id.strip_prefix("code-")?.parse().unwrap();
    let mut status = Status::new(Code::from(code), "because: \"ü\"\n");
    status.metadata_mut().insert("retry-after", "7".parse().unwrap());
    Some(status)
}

fn named(id: impl Into<String>) -> v1::AccessRequest {
    v1::AccessRequest { id: id.into(), ..v1::AccessRequest::default() }
}

#[tonic::async_trait]
impl RequestService for Fake {
    async fn create_request(
        &self,
        request: tonic::Request<v1::CreateAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let message = request.into_inner();
        Ok(Response::new(v1::AccessRequest {
            entitlement: message.entitlement,
            duration: message.duration,
            justification: message.justification,
            ticket: message.ticket,
            not_before: message.not_before,
            subject: message.subject,
            grant: message.request_id,
            reason: message.validate_only.to_string(),
            ..named("r1")
        }))
    }

    async fn get_request(
        &self,
        request: tonic::Request<v1::GetAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let text = |name: &str| match request.metadata().get(name) {
            Some(value) => value.to_str().unwrap().to_owned(),
            None => String::new(),
        };
        let (requester, ticket) = (text("authorization"), text("x-request-id"));
        let reason = ["grpc-timeout", "grpc-encoding", "content-length", "accept", "host"].map(text).concat();
        let subject = request.extensions().get::<WhoCalls>().map_or("", |who| who.0).to_owned();
        let id = request.into_inner().id;
        if let Some(status) = coded(&id) {
            return Err(status);
        }
        let found = v1::AccessRequest { requester, ticket, reason, subject, ..named(id) };
        let mut response = Response::new(found);
        response.metadata_mut().insert("x-revision", "42".parse().unwrap());
        Ok(response)
    }

    async fn list_requests(
        &self,
        request: tonic::Request<v1::ListAccessRequests>,
    ) -> Result<Response<v1::ListAccessRequestsResponse>, Status> {
        let message = request.into_inner();
        let v1::ListAccessRequests { page_size, page_token, state, entitlement } = message;
        let next_page_token = format!("{page_size}|{page_token}|{state}|{entitlement}");
        Ok(Response::new(v1::ListAccessRequestsResponse { requests: Vec::new(), next_page_token }))
    }

    async fn search_requests(
        &self,
        request: tonic::Request<v1::SearchAccessRequests>,
    ) -> Result<Response<v1::ListAccessRequestsResponse>, Status> {
        let next_page_token = format!("{}", request.into_inner().relation);
        let requests = vec![v1::AccessRequest {
            state: v1::RequestState::Approved.into(),
            reviews: vec![v1::Review { decision: 2, ..v1::Review::default() }],
            ..named("r1")
        }];
        Ok(Response::new(v1::ListAccessRequestsResponse { requests, next_page_token }))
    }

    async fn approve_request(
        &self,
        request: tonic::Request<v1::ApproveAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let v1::ApproveAccessRequest { id, reason, duration } = request.into_inner();
        Ok(Response::new(v1::AccessRequest { reason, duration, ..named(id) }))
    }

    async fn deny_request(
        &self,
        request: tonic::Request<v1::DenyAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        Ok(Response::new(named(request.into_inner().id)))
    }

    async fn withdraw_request(
        &self,
        request: tonic::Request<v1::WithdrawAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        Ok(Response::new(named(request.into_inner().id)))
    }

    type WatchRequestStream = Streamed<v1::AccessRequest>;

    async fn watch_request(
        &self,
        request: tonic::Request<v1::WatchAccessRequest>,
    ) -> Result<Response<Self::WatchRequestStream>, Status> {
        let id = request.into_inner().id;
        let items = match id.as_str() {
            "fails" => vec![Ok(named("first")), Err(Status::unavailable("the store is away"))],
            "fails-at-once" => vec![Err(Status::aborted("no"))],
            "endless" => {
                let (sender, receiver) = mpsc::channel(4);
                sender.send(Ok(named("first\nline"))).await.unwrap();
                self.endless.lock().unwrap().push(sender);
                return Ok(Response::new(Box::pin(ReceiverStream::new(receiver))));
            }
            _ => match coded(&id) {
                Some(status) => return Err(status),
                None => vec![Ok(named("1")), Ok(named("2"))],
            },
        };
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }
}

#[tonic::async_trait]
impl EventService for Fake {
    async fn list_events(
        &self,
        _request: tonic::Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let last = v1::Event { number: u64::MAX, ..v1::Event::default() };
        Ok(Response::new(v1::ListEventsResponse { events: vec![last], next_after: 1 << 60, last_number: 0 }))
    }

    type WatchEventsStream = Streamed<v1::Event>;

    async fn watch_events(
        &self,
        request: tonic::Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let v1::WatchEventsRequest { after, r#type, .. } = request.into_inner();
        let events = (1..=2).map(move |step| {
            Ok(v1::Event { number: after + step, r#type: r#type.clone(), ..v1::Event::default() })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }
}

impl Fake {
    fn routes(&self) -> Routes {
        let services = Routes::new(RequestServiceServer::new(self.clone()));
        Rest::new().unwrap().over(services.add_service(EventServiceServer::new(self.clone())))
    }
}

fn request(verb: &str, path: &str) -> http::request::Builder {
    Request::builder().method(verb).uri(path)
}

fn with_json(verb: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    request(verb, path).header("content-type", "application/json").body(body.into()).unwrap()
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The message of an error, which has the form that all have.
    fn error(&self, status: u16) -> String {
        let json = self.json();
        assert_eq!(self.status, status, "{json}");
        assert_eq!(json["error"]["code"], status);
        assert!(json["error"]["status"].is_string());
        json["error"]["message"].as_str().unwrap().to_owned()
    }
}

async fn send(request: Request<Body>) -> Answer {
    send_to(&Fake::default().routes(), request).await
}

async fn send_to(routes: &Routes, request: Request<Body>) -> Answer {
    let response = routes.clone().call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(path: &str) -> Answer {
    send(request("GET", path).body(Body::empty()).unwrap()).await
}

async fn post(path: &str, body: &str) -> Answer {
    send(with_json("POST", path, body.to_owned())).await
}

#[tokio::test]
async fn every_status_has_its_meaning() {
    let meanings = [
        (1, 499, "CANCELLED"),
        (2, 500, "UNKNOWN"),
        (3, 400, "INVALID_ARGUMENT"),
        (4, 504, "DEADLINE_EXCEEDED"),
        (5, 404, "NOT_FOUND"),
        (6, 409, "ALREADY_EXISTS"),
        (7, 403, "PERMISSION_DENIED"),
        (8, 429, "RESOURCE_EXHAUSTED"),
        (9, 400, "FAILED_PRECONDITION"),
        (10, 409, "ABORTED"),
        (11, 400, "OUT_OF_RANGE"),
        (12, 501, "UNIMPLEMENTED"),
        (13, 500, "INTERNAL"),
        (14, 503, "UNAVAILABLE"),
        (15, 500, "DATA_LOSS"),
        (16, 401, "UNAUTHENTICATED"),
    ];
    for (code, http, name) in meanings {
        // Of streams too, while nothing is sent.
        for path in [format!("/v1/requests/code-{code}"), format!("/v1/requests/code-{code}:watch")] {
            let answer = get(&path).await;
            assert_eq!(answer.error(http), "because: \"ü\"\n");
            assert_eq!(answer.json()["error"]["status"], name);
            assert_eq!(answer.headers["retry-after"], "7");
            assert_eq!(answer.headers.contains_key("www-authenticate"), code == 16);
            assert!(!answer.headers.keys().any(|header| header.as_str().starts_with("grpc-")));
        }
    }
    // A service that this server has not got.
    assert!(!get("/v1/locks").await.error(501).is_empty());
}

#[tokio::test]
async fn the_caller_goes_on_to_the_service() {
    let mut call = request("GET", "/v1/requests/r1")
        .header("authorization", "Bearer secret")
        .header("x-request-id", "id-1")
        .header("grpc-timeout", "1n")
        .header("grpc-encoding", "gzip")
        .header("accept", "text/html")
        .header("host", "api")
        .body(Body::empty())
        .unwrap();
    call.extensions_mut().insert(WhoCalls("user:alice"));
    let answer = send(call).await;
    let expected =
        json!({"id": "r1", "requester": "Bearer secret", "ticket": "id-1", "subject": "user:alice"});
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.headers["x-revision"], "42");
    assert_eq!(answer.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn paths_are_decoded_once() {
    for (path, id) in [
        ("/v1/requests/a%2Fb", "a/b"),
        ("/v1/requests/a%252Fb", "a%2Fb"),
        ("/v1/requests/a%3Awatch", "a:watch"),
        ("/v1/requests/a:b", "a:b"),
        ("/v1/requests/%C3%BC+%20", "ü+ "),
        ("/v1/requests/..", ".."),
    ] {
        assert_eq!(get(path).await.json()["id"], id, "{path}");
    }
    let approved = post("/v1/requests/a%2Fb%3Ac:approve", r#"{"reason":"ok","duration":"90.5s"}"#).await;
    assert_eq!(approved.json(), json!({"id": "a/b:c", "reason": "ok", "duration": "90.500s"}));
    assert!(get("/v1/requests/%ff").await.error(400).contains("UTF-8"));
    assert!(get("/v1/requests/%f").await.error(400).contains("percent"));
    for path in
        ["/", "/v1/requests/", "/v1/requests/a/b", "/v1/requests:", "/v2/requests", "/v1/requests/:watch"]
    {
        get(path).await.error(404);
    }
}

#[tokio::test]
async fn verbs_that_a_path_does_not_take_are_named() {
    for (verb, path, allow) in [
        ("PUT", "/v1/requests", "POST, GET, HEAD, OPTIONS"),
        ("TRACE", "/v1/requests/x", "GET, HEAD, OPTIONS"),
        ("GET", "/v1/requests/x:approve", "POST, OPTIONS"),
        ("HEAD", "/v1/requests/x:approve", "POST, OPTIONS"),
        ("POST", "/v1/openapi.json", "GET, HEAD, OPTIONS"),
    ] {
        let answer = send(request(verb, path).body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.headers["allow"].to_str().unwrap()),
            (405, allow),
            "{verb} {path}"
        );
        let answer = send(request("OPTIONS", path).body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.headers["allow"].to_str().unwrap()),
            (204, allow),
            "{verb} {path}"
        );
    }
    send(request("OPTIONS", "/nothing").body(Body::empty()).unwrap()).await.error(404);
    let head = send(request("HEAD", "/v1/requests/r1").body(Body::empty()).unwrap()).await;
    let length = get("/v1/requests/r1").await.body.len().to_string();
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(head.headers["content-length"].to_str().unwrap(), length);
}

#[tokio::test]
async fn parameters_are_read_by_their_types() {
    for (query, told) in [
        ("", "0||0|"),
        ("pageSize=5&pageToken=a%26b+c&state=PENDING&entitlement=e%3D", "5|a&b c|1|e="),
        ("page_size=4294967295&", "4294967295||0|"),
        ("pageSize=1e2", "100||0|"),
        ("entitlement", "0||0|"),
    ] {
        let answer = get(&format!("/v1/requests?{query}")).await;
        assert_eq!(answer.json()["nextPageToken"], told, "{query}");
    }
    for (query, why) in [
        ("pageSize=", "`pageSize`: must be a whole number from 0 to 4294967295"),
        ("pageSize=4294967296", "must be a whole number"),
        ("pageSize=-1", "must be a whole number"),
        ("pageSize=1.5", "must be a whole number"),
        ("pageSize=%201", "must be a whole number"),
        ("pageSize=0x1", "must be a whole number"),
        ("pageSize=01", "must be a whole number"),
        ("pageSize=%221%22", "must be a whole number"),
        ("pageSize=1e99999999999", "must be a whole number"),
        ("state=pending", "must be one of REQUEST_STATE_UNSPECIFIED, PENDING"),
        ("state=1", "must be one of"),
        ("pageSize=1&pageSize=1", "`pageSize`: is given twice"),
        ("pageSize=1&page_size=1", "`page_size`: is given twice"),
        ("pagesize=1", "`pagesize`: there is no such parameter"),
        ("=1", "there is no such parameter"),
        ("a.b=1", "`a.b`: there is no such parameter"),
        ("entitlement=%ff", "UTF-8"),
        ("entitlement=%", "percent-encoded"),
    ] {
        let message = get(&format!("/v1/requests?{query}")).await.error(400);
        assert!(message.contains(why), "{query}: {message}");
    }
    assert_eq!(get("/v1/requests/x?id=y").await.error(400), "`id`: is given by the path");
    assert_eq!(get("/v1/requests:search").await.error(400), "`relation`: is missing");
    let found = get("/v1/requests:search?relation=CAN_REVIEW").await.json();
    let request = json!({"id": "r1", "state": "APPROVED", "reviews": [{"decision": "REVIEW_DENIED"}]});
    assert_eq!(found, json!({"requests": [request], "nextPageToken": "2"}));
    let message = send(with_json("POST", "/v1/requests?ticket=x", "{}")).await.error(400);
    assert_eq!(message, "`ticket`: belongs into the body");
    let long = format!("/v1/requests?{}=1", "x".repeat(10_000));
    assert!(get(&long).await.error(400).len() < 200);
    // Numbers of 64 bits are text, or a reader in JavaScript would lose digits.
    let events = get("/v1/events?after=18446744073709551615").await.json();
    assert_eq!(events["events"][0]["number"], "18446744073709551615");
    assert!(get("/v1/events?after=18446744073709551616").await.error(400).contains("whole number"));
}

#[tokio::test]
async fn bodies_are_read_by_their_types() {
    let body = r#"{"entitlement": "e\u00fc", "duration": "3600s", "not_before": "2026-01-31T13:00:00.25+01:00",
        "request_id": "i", "validateOnly": true, "ticket": ""}"#;
    let made = post("/v1/requests", body).await.json();
    let expected = json!({
        "id": "r1", "entitlement": "eü", "duration": "3600s", "notBefore": "2026-01-31T12:00:00.250Z",
        "grant": "i", "reason": "true",
    });
    assert_eq!(made, expected);
    for (body, why) in [
        ("", "`entitlement`: is missing"),
        ("{}", "`entitlement`: is missing"),
        ("[]", "`body`: must be an object, not a list"),
        ("null", "`body`: must be an object, not null"),
        ("{", "the body: EOF while parsing"),
        (r#"{"entitlement":"e"} x"#, "trailing characters at line 1 column 21"),
        (r#"{"entitlement":"e","entitlement":"f"}"#, "`entitlement` is there twice"),
        (r#"{"entitlement":"e","requestId":"a","request_id":"b"}"#, "by both of its names"),
        (r#"{"entitlement":"e","Duration":"1s"}"#, "`Duration`: there is no such field"),
        (r#"{"entitlement":null}"#, "`entitlement`: must be a string, not null; leave it out"),
        (r#"{"entitlement":1}"#, "`entitlement`: must be a string, not a number"),
        (r#"{"entitlement":["e"]}"#, "must be a string, not a list"),
        (
            r#"{"entitlement":"e","validateOnly":"true"}"#,
            "`validateOnly`: must be true or false, not a string",
        ),
        (r#"{"entitlement":"e","validateOnly":1}"#, "must be true or false"),
        (r#"{"entitlement":"e","duration":3600}"#, "must be a duration such as \"3600s\", not a number"),
        (r#"{"entitlement":"e","duration":"1h"}"#, "must be a duration"),
        (r#"{"entitlement":"e","duration":{"seconds":1}}"#, "must be a duration"),
        (r#"{"entitlement":"e","notBefore":"tomorrow"}"#, "must be a moment"),
        (r#"{"entitlement":"e","notBefore":0}"#, "must be a moment"),
    ] {
        let message = post("/v1/requests", body).await.error(400);
        assert!(message.contains(why), "{body}: {message}");
    }
    assert_eq!(
        post("/v1/requests/r1:approve", r#"{"id":"r1"}"#).await.error(400),
        "`id`: is given by the path"
    );
    // Nothing but the path, so no body is needed, nor a type of one.
    let withdrawn = send(request("POST", "/v1/requests/r1:withdraw").body(Body::empty()).unwrap()).await;
    assert_eq!(withdrawn.json(), json!({"id": "r1"}));
    assert_eq!(post("/v1/requests/r1:withdraw", "{}").await.json(), json!({"id": "r1"}));
    let get = send(with_json("GET", "/v1/requests/r1", "{}")).await;
    assert_eq!(get.error(400), "this call takes no body");
}

#[tokio::test]
async fn a_body_says_what_it_is() {
    let of_type = |kind: &str| {
        let request = request("POST", "/v1/requests/r1:deny").header("content-type", kind);
        request.body(Body::from("{}")).unwrap()
    };
    for kind in ["application/json", "Application/JSON; charset=\"UTF-8\"", "application/json;x=y"] {
        assert_eq!(send(of_type(kind)).await.status, StatusCode::OK, "{kind}");
    }
    for kind in [
        "text/plain",
        "application/json; charset=latin1",
        "application/jsonp",
        "",
        "application/x-www-form-urlencoded",
        "application/json, text/plain",
    ] {
        send(of_type(kind)).await.error(415);
    }
    send(request("POST", "/v1/requests").body(Body::from("{}")).unwrap()).await.error(415);
    let mut packed = of_type("application/json");
    packed.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    send(packed).await.error(415);
    let mut twice = of_type("application/json");
    twice.headers_mut().append("content-type", "application/json".parse().unwrap());
    send(twice).await.error(415);
}

#[tokio::test(start_paused = true)]
async fn a_body_has_an_end() {
    let padded = |size: usize| {
        let frame = r#"{"entitlement":"e","justification":""}"#;
        format!(r#"{{"entitlement":"e","justification":"{}"}}"#, "x".repeat(size - frame.len()))
    };
    assert_eq!(post("/v1/requests", &padded(1 << 20)).await.status, StatusCode::OK);
    assert!(post("/v1/requests", &padded((1 << 20) + 1)).await.error(413).contains("1048576"));
    // In pieces that never end, and by a client that stops.
    let pieces =
        tokio_stream::iter(std::iter::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(b"[[[["))));
    send(with_json("POST", "/v1/requests", Body::from_stream(pieces))).await.error(413);
    let silent = tokio_stream::pending::<Result<Bytes, std::io::Error>>();
    send(with_json("POST", "/v1/requests", Body::from_stream(silent))).await.error(408);
    let broken = tokio_stream::once(Err::<Bytes, _>(std::io::Error::other("reset")));
    send(with_json("POST", "/v1/requests", Body::from_stream(broken))).await.error(400);
}

#[tokio::test]
async fn hostile_bodies_are_refused() {
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(50_000), close.repeat(50_000));
    let many: Vec<String> = (0..90_000).map(|number| format!("\"f{number}\":0")).collect();
    let duplicates = format!("{{{}}}", "\"ticket\":\"\",".repeat(50_000));
    for body in [
        nested("[", "]"),
        nested("{\"grant\":", "}"),
        format!("{{\"entitlement\":{}}}", nested("[", "]")),
        format!("{{{}}}", many.join(",")),
        duplicates,
        format!("[{}0]", "0,".repeat(100_000)),
        format!("{{\"duration\":\"{}s\"}}", "9".repeat(500_000)),
        format!("{{\"duration\":{}}}", "9".repeat(500_000)),
        "{\"duration\":1e999999999999999999}".to_owned(),
        "{\"\\ud800\":1}".to_owned(),
        "{\"$serde_json::private::Number\":\"1\"}".to_owned(),
        "\u{feff}{}".to_owned(),
    ] {
        let message = post("/v1/requests", &body).await.error(400);
        assert!(message.len() < 400, "{message}");
    }
    let message = send(with_json("POST", "/v1/requests", &b"{\"ticket\":\"\xff\"}"[..])).await.error(400);
    assert!(message.contains("unicode"), "{message}");
}

/// Whatever is sent, the answer is one, and it is not the server's fault.
#[tokio::test]
async fn no_input_makes_a_5xx() {
    let routes = Fake::default().routes();
    let mut random = Random::new(7);
    let seeds = [
        r#"{"entitlement":"e","duration":"1s","notBefore":"2026-01-01T00:00:00Z","validateOnly":true}"#,
        r#"{"grant":{"subject":"user:a","attributes":{"a":[1,{"b":null}]}},"ttl":"1s"}"#,
    ];
    let paths =
        ["/v1/requests", "/v1/requests/a:approve", "/v1/requests/%61%3a?x=%20&y", "/v1/events?after=1"];
    let mutated = |text: &str, random: &mut Random| {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
            match random.below(3) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"\"{}[],:0e%&="[usize::try_from(random.below(12)).unwrap()]),
            }
        }
        bytes
    };
    for round in 0..4000 {
        let path = mutated(paths[round % paths.len()], &mut random);
        let body = mutated(seeds[round % seeds.len()], &mut random);
        let verb = if round % 3 == 0 { Method::GET } else { Method::POST };
        let built = Request::builder().method(verb).uri(path.as_slice());
        let built = built.header("content-type", "application/json").body(Body::from(body.clone()));
        let Ok(request) = built else { continue };
        let answer = send_to(&routes, request).await;
        assert!(
            answer.status.as_u16() < 500 || answer.status == StatusCode::NOT_IMPLEMENTED,
            "{} {} {}",
            String::from_utf8_lossy(&path),
            String::from_utf8_lossy(&body),
            answer.text()
        );
    }
}

#[tokio::test]
async fn streams_are_events_or_lines() {
    let answer = get("/v1/requests/r:watch").await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(answer.text(), "data: {\"id\":\"1\"}\n\ndata: {\"id\":\"2\"}\n\n");
    let lines = |path: &str| request("GET", path).header("accept", "text/plain, Application/X-NDJSON;q=1");
    let answer = send(lines("/v1/requests/r:watch").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    assert_eq!(answer.text(), "{\"id\":\"1\"}\n{\"id\":\"2\"}\n");

    let error = r#"{"error":{"code":503,"message":"the store is away","status":"UNAVAILABLE"}}"#;
    let answer = get("/v1/requests/fails:watch").await;
    assert_eq!(answer.text(), format!("data: {{\"id\":\"first\"}}\n\nevent: error\ndata: {error}\n\n"));
    let answer = send(lines("/v1/requests/fails:watch").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.text(), format!("{{\"id\":\"first\"}}\n{error}\n"));
    let answer = get("/v1/requests/fails-at-once:watch").await;
    assert!(answer.text().starts_with("event: error\ndata: {\"error\":{\"code\":409,"), "{}", answer.text());
}

#[tokio::test]
async fn a_stream_of_events_goes_on_where_it_broke_off() {
    let answer = get("/v1/events:watch?after=5&type=grant.*").await;
    let event =
        |number: u64| format!("id: {number}\ndata: {{\"number\":\"{number}\",\"type\":\"grant.*\"}}\n\n");
    assert_eq!(answer.text(), [event(6), event(7)].concat());
    let again = |id: &str| {
        request("GET", "/v1/events:watch?after=5&type=grant.*")
            .header("last-event-id", id)
            .body(Body::empty())
            .unwrap()
    };
    assert_eq!(send(again("7")).await.text(), [event(8), event(9)].concat());
    assert!(send(again("x")).await.error(400).contains("`after`"));
    // No other call takes it.
    let call = request("GET", "/v1/requests/r1").header("last-event-id", "x").body(Body::empty()).unwrap();
    assert_eq!(send(call).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_shows_that_it_lives() {
    let fake = Fake::default();
    let call = request("GET", "/v1/requests/endless:watch").body(Body::empty()).unwrap();
    let mut body = fake.routes().call(call).await.unwrap().into_body();
    let mut next = async || body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(next().await, "data: {\"id\":\"first\\nline\"}\n\n");
    let began = tokio::time::Instant::now();
    for round in 1..=3 {
        assert_eq!(next().await, ": keep-alive\n\n");
        assert_eq!(began.elapsed().as_secs(), 15 * round);
    }
    let sender = fake.endless.lock().unwrap().remove(0);
    sender.send(Ok(named("second"))).await.unwrap();
    assert_eq!(next().await, "data: {\"id\":\"second\"}\n\n");
    assert!(!sender.is_closed());
    drop(body);
    assert!(sender.is_closed(), "the service's stream outlives its reader");
}

#[tokio::test]
async fn a_stream_ends_when_its_reader_hangs_up() {
    let fake = Fake::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().accept_http1(true).add_routes(fake.routes());
    let server = tokio::spawn(server.serve_with_incoming(incoming));
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET /v1/requests/endless:watch HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    while !seen.contains("first") {
        let mut piece = [0; 1024];
        let count = socket.read(&mut piece).await.unwrap();
        assert!(count > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    let sender = fake.endless.lock().unwrap().remove(0);
    drop(socket);
    tokio::time::timeout(Duration::from_secs(10), sender.closed()).await.expect("still open");
    server.abort();
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(place) => {
            document.pointer(place.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{place}"))
        }
        None => schema,
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if let ("$ref", Some(place)) = (name.as_str(), value.as_str()) {
                    found.insert(place.to_owned());
                }
                references(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_has_every_route_and_no_other() {
    let answer = get("/v1/openapi.json").await;
    let document = answer.json();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (verb, operation) in operations.as_object().unwrap() {
            documented.insert((verb.clone(), path.clone()));
            assert!(operation["responses"]["default"]["$ref"].is_string());
            let in_path = path.matches('{').count();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            assert_eq!(parameters.iter().filter(|parameter| parameter["in"] == "path").count(), in_path);
            // What is in the document is served.
            let request = request(&verb.to_uppercase(), &path.replace(['{', '}'], ""));
            let served = send(request.body(Body::empty()).unwrap()).await;
            assert!(![404, 405].contains(&served.status.as_u16()), "{verb} {path}: {}", served.status);
        }
    }
    // As the comments of the options in `proto/` have it, read by other means than the server's.
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/daypass/v1");
    let mut declared = BTreeSet::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for rule in text.split("(google.api.http) = {").skip(1) {
            let (verb, rest) = rule.split_once(": \"").unwrap();
            declared.insert((verb.to_owned(), rest.split('"').next().unwrap().to_owned()));
        }
    }
    assert_eq!(documented, declared);
    let for_people = include_str!("../../docs/api.md");
    for (verb, path) in &documented {
        let call = format!("`{} {path}`", verb.to_uppercase());
        assert!(for_people.contains(&call), "docs/api.md does not list {call}");
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut places = BTreeSet::new();
    references(&document, &mut places);
    for place in &places {
        resolved(&document, &json!({"$ref": place}));
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in schemas.keys() {
        assert!(places.contains(&format!("#/components/schemas/{name}")), "nobody uses {name}");
    }
}

#[tokio::test]
async fn the_document_says_what_is_taken() {
    let document = get("/v1/openapi.json").await.json();
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let create = schema("CreateAccessRequest");
    assert_eq!(create["required"], json!(["entitlement"]));
    assert_eq!(create["additionalProperties"], false);
    assert_eq!(create["properties"]["duration"]["$ref"], "#/components/schemas/Duration");
    assert!(
        create["properties"]["requestId"]["description"].as_str().unwrap().contains("Chosen by the caller")
    );
    let approve = schema("ApproveAccessRequest");
    assert!(approve["properties"].get("id").is_none(), "the path has it");
    assert_eq!(schema("GrantState")["enum"][1], "SCHEDULED");
    assert_eq!(schema("Grant")["properties"]["state"]["readOnly"], true);
    assert_eq!(schema("Grant")["properties"]["maxUses"]["type"], json!(["integer", "string"]));
    assert_eq!(schema("RevokeAllGrantsRequest")["oneOf"][1], json!({"required": ["entitlement"]}));
    let operation = &document["paths"]["/v1/requests/{id}:withdraw"]["post"];
    assert_eq!(
        (&operation["operationId"], &operation["requestBody"]["required"]),
        (&json!("withdrawRequest"), &json!(false))
    );
    let search = &document["paths"]["/v1/requests:search"]["get"]["parameters"][0];
    assert_eq!((&search["name"], &search["required"]), (&json!("relation"), &json!(true)));
    // A contract that outgrows what is read and described here shows.
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            let property = resolved(&document, property);
            assert!(property["type"].is_string() || property["type"].is_array(), "{name}.{field}");
        }
    }
}

fn token(daypass: &Daypass) -> String {
    std::fs::read_to_string(daypass.data_dir().join("token")).unwrap().trim().to_owned()
}

/// One call over a connection of HTTP/1.1.
async fn over_http1(daypass: &Daypass, verb: &str, path: &str, body: &str) -> (u16, Value) {
    let mut socket = tokio::net::TcpStream::connect(&daypass.api).await.unwrap();
    let head = format!(
        "{verb} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        token(daypass),
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn one_grant_by_http_and_by_grpc() {
    let daypass = Daypass::start(&[]);
    // A client that stops in the middle of its body keeps nobody waiting.
    let mut slow = tokio::net::TcpStream::connect(&daypass.api).await.unwrap();
    slow.write_all(b"POST /v1/grants HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await.unwrap();

    // As deep as a body may be, and the other side must read it.
    let deep = (0..21).fold(json!(1), |inner, _| json!({"a": inner}));
    let grant = json!({
        "id": "g1", "subject": "user:a", "maxUses": 7, "permissions": [{"hosts": ["h"]}],
        "conditions": {"source_cidrs": ["10.0.0.0/8"]}, "attributes": {"deep": deep, "list": [true, null, "x", 1, 1.5]},
    });
    let body = json!({"grant": grant, "ttl": "60s"}).to_string();
    let (status, made) = over_http1(&daypass, "POST", "/v1/grants", &body).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(made["maxUses"], "7");
    assert_eq!(made["conditions"]["sourceCidrs"][0], "10.0.0.0/8");
    assert_eq!(made["attributes"], grant["attributes"]);

    let mut client = GrantServiceClient::new(channel(&daypass.api).await);
    let mut call = tonic::Request::new(v1::GetGrantRequest { id: "g1".into() });
    call.metadata_mut().insert("authorization", format!("Bearer {}", token(&daypass)).parse().unwrap());
    let found = client.get_grant(call).await.unwrap().into_inner();
    assert_eq!((found.max_uses, found.subject.as_str()), (7, "user:a"));

    assert_eq!(over_http1(&daypass, "GET", "/v1/grants/g1", "").await, (200, made));
    let (status, error) = over_http1(&daypass, "GET", "/v1/grants/none", "").await;
    assert_eq!((status, &error["error"]["status"]), (404, &json!("NOT_FOUND")));
    assert_eq!(over_http1(&daypass, "POST", "/v1/grants", &body).await.0, 409);
    let (status, revoked) =
        over_http1(&daypass, "POST", "/v1/grants/g1:revoke", r#"{"reason":"done"}"#).await;
    assert_eq!((status, revoked), (200, json!({"ids": ["g1"]})));
}

#[tokio::test]
async fn by_http_2_too_and_not_without_identity() {
    let daypass = Daypass::start(&[]);
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<Body>();
    for path in ["/v1/grants", "/v1/openapi.json"] {
        let uri = format!("http://{}{path}", daypass.api);
        for (authorization, status) in
            [(format!("Bearer {}", token(&daypass)), 200), ("Bearer x".to_owned(), 401)]
        {
            let call = Request::get(&uri).header("authorization", authorization).body(Body::empty()).unwrap();
            let response = client.request(call).await.unwrap();
            assert_eq!((response.version(), response.status().as_u16()), (http::Version::HTTP_2, status));
        }
        let call = Request::get(&uri).body(Body::empty()).unwrap();
        assert_eq!(client.request(call).await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
    }
}

/// The options for HTTP do not disturb clients that ask for the contract.
#[tokio::test]
async fn reflection_still_works() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let daypass = Daypass::start(&["--reflection"]);
    let mut client = ServerReflectionClient::new(channel(&daypass.api).await);
    let symbol = MessageRequest::FileContainingSymbol("daypass.v1.GrantService".into());
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
    let mut asked = tonic::Request::new(tokio_stream::once(ask));
    asked.metadata_mut().insert("authorization", format!("Bearer {}", token(&daypass)).parse().unwrap());
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{answer:?}");
}
