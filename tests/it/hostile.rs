//! Whatever is thrown at a check, it does not panic, and nobody passes without a grant.
//!
//! Each part runs for `FUZZ_SECONDS` (a few by default), from a seed that it prints and that `FUZZ_SEED` repeats.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use daypass::clock::{BootTime, Now};
use daypass::policy::Sources;
use daypass::store::record::{ReadAt, Ttl, decode};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use jiff::Timestamp;
use prost::Message;

use crate::support::checker::checker;
use crate::support::request::{ALICES_GRANT, alice, is_allow, metadata, reason};
use crate::support::shared;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Panics inside evaluation are caught and denied; here they must not happen at all.
fn count_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        eprintln!("{panic}");
    }));
}

fn fuzz_time() -> Duration {
    Duration::from_secs(std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3))
}

struct Random(u64);

impl Random {
    fn seeded(name: &str) -> Self {
        let seed = std::env::var("FUZZ_SEED")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| u64::try_from(Timestamp::now().as_microsecond()).unwrap() | 1);
        println!("{name}: FUZZ_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    /// A message whose path, host, body and a header are each mutated half of the time.
    fn mutate_parts(&mut self, bytes: &[u8], dictionary: &[&[u8]]) -> CheckRequest {
        let mut request = CheckRequest::decode(bytes).unwrap();
        let http = request.attributes.as_mut().and_then(|a| a.request.as_mut()).and_then(|r| r.http.as_mut());
        let Some(http) = http else { return request };
        let kinds =
            ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"];
        http.headers.insert("content-type".to_owned(), kinds[self.below(kinds.len())].to_owned());
        if http.body.is_empty() {
            let bodies = [
                r#"{"a":[1,{"b":"c"}]}"#,
                "a=1&b=%20;",
                "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--",
            ];
            bodies[self.below(bodies.len())].clone_into(&mut http.body);
        }
        let names: Vec<String> = http.headers.keys().cloned().collect();
        let header = http.headers.get_mut(&names[self.below(names.len())]).unwrap();
        for text in [&mut http.path, &mut http.host, &mut http.body, header] {
            if self.below(2) == 0 {
                let mut bytes = std::mem::take(text).into_bytes();
                self.mutate(&mut bytes, dictionary);
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        request
    }

    /// Flips, cuts, repeats and splices.
    fn mutate(&mut self, bytes: &mut Vec<u8>, dictionary: &[&[u8]]) {
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                2 => bytes.truncate(at),
                3 => {
                    let end = (at + self.below(40)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let word = dictionary[self.below(dictionary.len())];
                    bytes.splice(at..at, word.iter().copied());
                }
            }
        }
    }
}

/// Captured from a real Envoy, and made here.
fn requests() -> Vec<Vec<u8>> {
    let mut requests = vec![Vec::new(), alice().encode_to_vec()];
    for name in ["checkrequests/http-jwt-mtls-check.b64", "checkrequests/tcp-check.b64"] {
        let Some(path) = shared(name) else { continue };
        let text = std::fs::read_to_string(path).unwrap();
        requests.extend(text.split_whitespace().map(|line| BASE64.decode(line.as_bytes()).unwrap()));
    }
    requests
}

#[tokio::test]
async fn captured_requests_are_denied_without_a_grant() {
    let checker = checker(&Sources::built_in(), &[]);
    let requests = requests();
    for bytes in &requests {
        let request = CheckRequest::decode(&bytes[..]).unwrap();
        assert_eq!(reason(&checker.check(&request).await), "no_grant", "{request:?}");
    }
    println!("{} requests denied", requests.len());
}

#[tokio::test]
async fn no_mutation_of_a_request_panics_or_passes_without_a_grant() {
    count_panics();
    let mut random = Random::seeded("requests");
    let seeds = requests();
    let nobody = checker(&Sources::built_in(), &[]);
    let granted = checker(&Sources::built_in(), &[ALICES_GRANT]);
    let echo = checker(
        &Sources::from_text(
            "echo.rego",
            "package envoy.authz\nallow := {\"allowed\": false, \"body\": json.marshal(input)}",
        ),
        &[ALICES_GRANT],
    );
    let dictionary: [&[u8]; 12] = [
        b"/../",
        b"%2e",
        b"%2f",
        b"//",
        b"\xff",
        b"?a=%zz;",
        b"application/json",
        b"multipart/form-data; boundary=x",
        b"x-user",
        b"content-type",
        b"{\"a\":[",
        b"\x00",
    ];
    assert!(is_allow(&granted.check(&alice()).await), "what is mutated passes as it is");
    let (mut tried, mut decoded, mut allowed) = (0_u64, 0_u64, 0_u64);
    let deadline = Instant::now() + fuzz_time();
    while Instant::now() < deadline {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        if random.below(2) == 0 {
            random.mutate(&mut bytes, &dictionary);
        } else {
            // Most broken messages end at the decoder; a message with broken parts gets further.
            bytes = random.mutate_parts(&bytes, &dictionary).encode_to_vec();
        }
        tried += 1;
        let Ok(request) = CheckRequest::decode(&bytes[..]) else { continue };
        decoded += 1;
        let response = nobody.check(&request).await;
        assert!(!is_allow(&response), "allowed without any grant: {}", BASE64.encode(&bytes));
        let response = granted.check(&request).await;
        if is_allow(&response) {
            allowed += 1;
            let http = request.attributes.as_ref().unwrap().request.as_ref().unwrap().http.as_ref().unwrap();
            let is_covered = http.path.starts_with("/db/")
                && !http.path.contains("..")
                && http.method.eq_ignore_ascii_case("GET");
            assert!(metadata(&response, "grant") == "g-0" && is_covered, "{}", BASE64.encode(&bytes));
        }
        assert!(!is_allow(&echo.check(&request).await));
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "panic on {}", BASE64.encode(&bytes));
    }
    println!("{tried} mutations, {decoded} still messages, {allowed} allowed by the grant");
    assert!(decoded > 0);
}

#[test]
fn no_value_of_a_grant_key_panics() {
    count_panics();
    let mut random = Random::seeded("grants");
    let full = r#"{"v":1,"id":"g","subject":"user:a","permissions":[{"hosts":["a.*"],"methods":["GET"],"paths":["/x/**"],"grpc_methods":["a.B/*"]}],"not_before":"2026-01-01T00:00:00Z","expires_at":"2030-01-01T00:00:00+01:00","max_uses":3,"conditions":{"source_cidrs":["10.0.0.0/8"]},"roles":["r"],"attributes":{"a":[1,{"b":null}]},"approved_by":["x"],"break_glass":true}"#;
    let seeds = [full, ALICES_GRANT, "{}", "[]"];
    let dictionary: [&[u8]; 10] = [
        b"{\"v\":1,",
        b"\"subject\":",
        b"\"user:\"",
        b"null",
        b"1e999",
        b"[[[[",
        b"\\ud800",
        b"**",
        b"-1",
        b"::/129",
    ];
    let now = Now { boot: BootTime::from_millis(1), wall: Timestamp::now() };
    let whole = ReadAt { sent: now, ttl: Ttl::Left(Duration::from_secs(60)) };
    assert!(
        decode("g", full.as_bytes(), whole, Duration::from_secs(60)).is_ok(),
        "what is mutated is a grant as it is"
    );
    let (mut tried, mut read) = (0_u64, 0_u64);
    let deadline = Instant::now() + fuzz_time();
    while Instant::now() < deadline {
        let mut bytes = seeds[random.below(seeds.len())].as_bytes().to_vec();
        random.mutate(&mut bytes, &dictionary);
        let millis = random.next() >> random.below(64);
        let read_at = ReadAt { sent: now, ttl: Ttl::Left(Duration::from_millis(millis)) };
        tried += 1;
        if let Ok(grant) = decode("g", &bytes, read_at, Duration::from_secs(86_400)) {
            read += 1;
            assert!(
                grant.subject.as_str().contains(':')
                    && grant.lifetime.remaining(now) <= Duration::from_secs(86_400)
            );
        }
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "panic on {}", BASE64.encode(&bytes));
    }
    println!("{tried} values, {read} grants");
}

/// The body of the request is what policy says.
#[tokio::test]
async fn no_result_of_a_policy_panics_or_passes_unless_it_says_so() {
    count_panics();
    let mut random = Random::seeded("results");
    let policy = "package envoy.authz\nallow := json.unmarshal(input.attributes.request.http.body)\nignored := input.jit";
    let checker = checker(&Sources::from_text("result.rego", policy), &[ALICES_GRANT]);
    let seeds = [
        r#"{"allowed":true,"headers":{"a":"1","b":["2"]},"dynamic_metadata":{"k":[1,null]},"grants":["g-0"]}"#,
        r#"{"allowed":true,"request_headers_to_remove":["x"],"response_headers_to_add":[{"a":"b"}],"query_parameters_to_set":{"q":"1"},"query_parameters_to_remove":["r"]}"#,
        r#"{"allowed":false,"http_status":401,"body":"no","headers":[{"a":["1","2"]}],"reason":"no_grant"}"#,
        "true",
        "false",
    ];
    let dictionary: [&[u8]; 12] = [
        b"true",
        b"false",
        b"null",
        b"{}",
        b"[]",
        b"1e400",
        b"-0",
        b"\"\"",
        b"\"grants\":[],",
        b"\"allowed\":",
        b"418",
        b"\\u0000",
    ];
    let (mut tried, mut allowed) = (0_u64, 0_u64);
    let deadline = Instant::now() + fuzz_time();
    while Instant::now() < deadline {
        let mut bytes = seeds[random.below(seeds.len())].as_bytes().to_vec();
        random.mutate(&mut bytes, &dictionary);
        let body = String::from_utf8_lossy(&bytes).into_owned();
        let http = HttpRequest { body: body.clone(), ..HttpRequest::default() };
        let request = CheckRequest {
            attributes: Some(AttributeContext {
                request: Some(Request { http: Some(http), ..Request::default() }),
                ..AttributeContext::default()
            }),
        };
        let response = checker.check(&request).await;
        tried += 1;
        if is_allow(&response) {
            allowed += 1;
            let said: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert!(said == true || said["allowed"] == true, "{body}");
            // Nobody is identified, so no grant is held, and none may be named.
            assert!(said["grants"].as_array().is_none_or(Vec::is_empty), "{body}");
        }
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "panic on {body}");
    }
    println!("{tried} results, {allowed} allows");
    assert!(allowed < tried);
}
