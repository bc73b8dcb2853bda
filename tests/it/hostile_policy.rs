//! Policies, bundles and tokens that somebody broke on purpose: nothing panics, nothing hangs, memory has a bound, and no
//! token verifies that was not signed.
//!
//! Each part runs for `FUZZ_SECONDS` (a few by default), from a seed that it prints and that `FUZZ_SEED` repeats.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use daypass::bundle::{Limits, read};
use daypass::policy::{BuiltinErrors, DecisionPath, Document, Evaluator, Policy, Sources};
use serde_json::{Value, json};

use crate::support::bundle_server::pack;
use crate::support::random::{Random, seconds};
use crate::support::shared;

/// Of one evaluation. Debug builds on a busy machine take several times what a decision may.
const EVALUATION_LIMIT: Duration = Duration::from_millis(500);
/// Of one round, far above what any takes.
const ROUND_LIMIT: Duration = Duration::from_secs(20);
/// Of the process, with everything the rounds before left behind.
const MAX_RSS_BYTES: usize = 2 << 30;
/// As much as the threads that decide have.
const STACK_BYTES: usize = 16 << 20;

static PANICS: AtomicUsize = AtomicUsize::new(0);
/// What is being tried, to be shown if it breaks something.
static TRIED: Mutex<String> = Mutex::new(String::new());

fn tried(text: &str) {
    text.clone_into(&mut TRIED.lock().unwrap());
}

/// Runs rounds until time is up, each against the limits. Panics that something caught count, too.
fn fuzz(name: &str, round: impl FnMut(&mut Random) + Send + 'static) {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        eprintln!("{panic}\n--- tried:\n{}\n---", TRIED.lock().unwrap());
    }));
    let name = name.to_owned();
    let mut round = round;
    let run = move || {
        let mut random = Random::from_env("FUZZ_SEED");
        let (time, began, mut rounds) = (seconds("FUZZ_SECONDS", 3), Instant::now(), 0);
        let mut slowest = Duration::ZERO;
        while began.elapsed() < time {
            let started = Instant::now();
            round(&mut random);
            if started.elapsed() > slowest.max(Duration::from_secs(1)) {
                println!("{:?} for:\n{}\n---", started.elapsed(), TRIED.lock().unwrap());
            }
            slowest = slowest.max(started.elapsed());
            rounds += 1;
            assert!(slowest < ROUND_LIMIT, "{name}: a round took {slowest:?}");
            assert!(rss() < MAX_RSS_BYTES, "{name}: {} bytes", rss());
            assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{name}: something panicked");
        }
        println!("{name}: {rounds} rounds, the slowest {slowest:?}, {} MiB", rss() >> 20);
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap().join().unwrap();
}

fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn index(random: &mut Random, len: usize) -> usize {
    usize::try_from(random.below(u64::try_from(len.max(1)).unwrap())).unwrap()
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, dictionary: &[&str]) {
    for _ in 0..=random.below(5) {
        let at = index(random, bytes.len() + 1);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            2 => bytes.truncate(at),
            3 => {
                let end = (at + index(random, 60)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = index(random, bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            4 => {
                let end = (at + index(random, 30)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let word = dictionary[index(random, dictionary.len())];
                bytes.splice(at..at, word.bytes());
            }
        }
    }
}

/// Modules of OPA's suite, and those shipped here.
fn modules() -> Vec<String> {
    let mut modules = vec![include_str!("../../policies/authz.rego").to_owned()];
    for name in ["jwt", "roles", "workloads", "body"] {
        let path = format!("{}/policies/recipes/{name}.rego", env!("CARGO_MANIFEST_DIR"));
        modules.push(std::fs::read_to_string(path).unwrap());
    }
    if let Some(dir) = shared("rego-compliance") {
        for entry in std::fs::read_dir(dir).unwrap() {
            let cases: Vec<Value> =
                serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
            let texts = cases.iter().flat_map(|case| case["modules"].as_array().into_iter().flatten());
            modules.extend(texts.map(|text| text.as_str().unwrap().to_owned()));
        }
    }
    modules
}

const REGO: [&str; 40] = [
    " if ",
    " := ",
    " contains ",
    " not ",
    " some ",
    " every ",
    " with ",
    " as ",
    " else ",
    " default ",
    " in ",
    "$\"{",
    "$`",
    "}\"",
    "`",
    "\"",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "|",
    ":",
    ",",
    ".",
    "\n",
    "# ",
    "data",
    "input",
    "import ",
    "package ",
    "set()",
    "x",
    " + 1",
    "é",
    "numbers.range(1, 1000000000)",
    "walk(input, [p, v])",
    "f(x) := f(x)",
    " as.b",
];

#[test]
fn broken_policies() {
    let modules = modules();
    let input = json!({"a": [1, {"b": "x"}], "s": "text", "jit": {"grants": []}}).to_string();
    fuzz("policies", move |random| {
        let mut text = modules[index(random, modules.len())].clone().into_bytes();
        mutate(random, &mut text, &REGO);
        let text = String::from_utf8_lossy(&text).into_owned();
        tried(&text);
        let mut sources = Sources::from_text("fuzz.rego", &text);
        if random.below(4) == 0 {
            let second = modules[index(random, modules.len())].clone();
            sources.modules.extend(Sources::from_text("second.rego", &second).modules);
        }
        if let Ok(mut evaluator) = Evaluator::new(&sources, EVALUATION_LIMIT, BuiltinErrors::Undefined) {
            let _ = evaluator.query("data", Some(Document::from_json(&input).unwrap()));
            let _ = evaluator.query(&text, None);
        }
        if let Ok(policy) = Policy::compile(&sources, &DecisionPath::new("test/p"), EVALUATION_LIMIT) {
            let _ = policy.decide(Document::from_json(&input).unwrap());
        }
    });
}

const BUNDLE: [&str; 12] = [
    "../",
    "/",
    ".manifest",
    "data.json",
    "patch.json",
    "{\"roots\": [\"\"]}",
    "\0",
    "0000777",
    "[[[[",
    "&a [*a]",
    "x.rego",
    ".signatures.json",
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut plain).unwrap();
    plain
}

#[test]
fn broken_bundles() {
    let archive = pack(&[
        (".manifest", r#"{"revision": "1", "roots": ["a", "b"], "metadata": {"x": [1, 2]}}"#),
        (".signatures.json", r#"{"signatures": ["eyJhbGciOiJIUzI1NiJ9.eyJmaWxlcyI6W119.AAAA"]}"#),
        ("a/data.json", r#"{"x": {"y": [1, 2.5e3, "é", null]}}"#),
        ("b/data.yaml", "x: &x [1, 2]\ny: *x\nz: {a: |\n  text}\n"),
        ("a/p.rego", "package a.p\n\nallow if data.a.x.y[_] == 1\n"),
    ]);
    let plain = gunzip(&archive);
    fuzz("bundles", move |random| {
        // Under the compression more often than above it: a checksum catches most of what is done above.
        let bytes = if random.below(4) == 0 {
            let mut bytes = archive.clone();
            mutate(random, &mut bytes, &BUNDLE);
            bytes
        } else {
            let mut bytes = plain.clone();
            mutate(random, &mut bytes, &BUNDLE);
            gzip(&bytes)
        };
        let limits = Limits { size_bytes: 1 << 20 };
        if let Ok(bundle) = read("fuzz", &bytes, limits, None) {
            let sources = Sources::new(bundle.modules, bundle.data);
            let _ = Policy::compile(&sources, &DecisionPath::new("a/p/allow"), EVALUATION_LIMIT);
        }
    });
}

const TOKEN: [&str; 16] = [
    ".",
    "..",
    "=",
    "eyJhbGciOiJub25lIn0",
    "eyJhbGciOiJIUzI1NiJ9",
    "\"",
    "{",
    "}",
    "[",
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----",
    "{\"keys\":[",
    "\"kty\":\"oct\",\"k\":\"\"",
    "MIIB",
    "AAAA",
    "\n",
];

/// Made by the functions under test, with keys from RFC 7515 and 7517.
const KEYS: &str = r#"
ec := {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
	"y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}
secret := {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}
"#;

#[test]
fn broken_tokens() {
    let text = format!(
        "package t\n{KEYS}\npayload := {{\"iss\": \"i\", \"n\": 1.5}}\n\
         by_ec := io.jwt.encode_sign({{\"alg\": \"ES256\"}}, payload, ec)\n\
         by_secret := io.jwt.encode_sign({{\"alg\": \"HS256\"}}, payload, secret)\n\
         public := json.marshal({{\"keys\": [object.remove(ec, [\"d\"])]}})\n\
         plain := base64url.decode(secret.k)\n\
         verified_ec := io.jwt.decode_verify(input.token, {{\"cert\": input.key}})\n\
         verified_secret := io.jwt.decode_verify(input.token, {{\"secret\": input.key}})\n\
         decoded := io.jwt.decode(input.token)\n\
         certificates := crypto.x509.parse_certificates(input.key)\n\
         keys := crypto.parse_private_keys(input.key)\n\
         pair := crypto.x509.parse_keypair(input.key, input.token)\n"
    );
    let sources = Sources::from_text("t.rego", &text);
    let mut evaluator = Evaluator::new(&sources, EVALUATION_LIMIT, BuiltinErrors::Undefined).unwrap();
    let mut ask = move |query: &str, input: Option<&Value>| -> Value {
        let input = input.map(|input| Document::from_json(&input.to_string()).unwrap());
        let answers = evaluator.query(query, input).unwrap_or_default();
        let value = answers.first().and_then(|answer| answer.expressions.first());
        value.map_or(Value::Null, |found| serde_json::from_str(&found.value.to_json().unwrap()).unwrap())
    };
    let own = |value: &Value| value.as_str().unwrap().to_owned();
    let by_ec = (own(&ask("data.t.by_ec", None)), own(&ask("data.t.public", None)), "data.t.verified_ec");
    let by_secret = (own(&ask("data.t.by_secret", None)), String::new(), "data.t.verified_secret");
    let secret = json!({"token": by_ec.0, "key": by_ec.1});
    assert_eq!(ask(by_ec.2, Some(&secret))[0], true, "the token is good before it is broken");
    fuzz("tokens", move |random| {
        let (token, key, query) = if random.below(2) == 0 { &by_ec } else { &by_secret };
        let (mut changed, mut changed_key) = (token.clone().into_bytes(), key.clone().into_bytes());
        mutate(random, &mut changed, &TOKEN);
        if random.below(3) == 0 {
            mutate(random, &mut changed_key, &TOKEN);
        }
        let changed = String::from_utf8_lossy(&changed).into_owned();
        tried(&changed);
        let input = json!({"token": changed, "key": String::from_utf8_lossy(&changed_key)});
        if ask(query, Some(&input))[0] == true {
            // What was signed is what it was.
            let signed = |token: &str| token.rsplit_once('.').unwrap().0.trim().to_owned();
            assert_eq!(signed(&changed), signed(token), "{changed} verifies");
        }
        for query in ["data.t.decoded", "data.t.certificates", "data.t.keys", "data.t.pair"] {
            ask(query, Some(&input));
        }
    });
}
