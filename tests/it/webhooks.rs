//! Webhooks: what real receivers get from a real server, whatever happens to either.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use daypass::store::journal::chain;
use tempfile::TempDir;

use crate::support::daypass::{Daypass, binary, run, write_file};
use crate::support::receiver::{Answer, POLICY_EVENTS, Received, Receiver};
use crate::support::redis::Redis;
use crate::support::wait_for;

/// `orders` is approved by others, `quick` by nobody, `named` names a webhook, and all are for the administrator.
const ENTITLEMENTS: &str = "
daypass:
  entitlements:
    orders:
      permissions: [{hosts: [orders.svc]}]
      eligible: [user:admin]
      approvers: [group:leads]
      justification: {required: false}
      break_glass: {eligible: [user:admin]}
    quick: {permissions: [{hosts: [quick.svc]}], eligible: [user:admin], approvals: 0, justification: {required: false}}
    named:
      permissions: [{hosts: [named.svc]}]
      eligible: [user:admin]
      approvers: [group:leads, user:boss]
      justification: {required: false}
      break_glass: {eligible: [user:admin]}
      webhooks: [pager, nobody]
";

/// A server with webhooks, and what it needs.
struct Site {
    dir: Arc<TempDir>,
    args: Vec<String>,
}

impl Site {
    fn new(store: &str, webhooks: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let policy = write_file(dir.path(), "policy/e.yaml", ENTITLEMENTS);
        let site = Self { dir, args: Vec::new() };
        let config = site.configure(webhooks);
        Self {
            args: ["--store", store, "--policy", &policy, "--config", &config].map(str::to_owned).into(),
            ..site
        }
    }

    fn configure(&self, webhooks: &str) -> String {
        write_file(self.dir.path(), "daypass.yaml", &format!("webhooks:\n{webhooks}"))
    }

    fn start(&self) -> Daypass {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let daypass = Daypass::start_in(&self.dir, &args);
        wait_for("the store", || (daypass.ops("/readyz").0 == 200).then_some(()));
        daypass
    }

    /// Also waits until new webhooks have their place in the journal.
    fn begin(&self, webhooks: usize) -> Daypass {
        let daypass = self.start();
        wait_for("the webhooks to begin", || {
            (daypass.log().matches("a new webhook begins").count() >= webhooks).then_some(())
        });
        std::thread::sleep(Duration::from_millis(50));
        daypass
    }
}

fn site(store: &str, webhooks: &str) -> (Site, Daypass) {
    let site = Site::new(store, webhooks);
    let daypass = site.begin(webhooks.matches("- name:").count());
    (site, daypass)
}

/// In one line, with more settings.
fn webhook(name: &str, receiver: &Receiver, more: &str) -> String {
    format!("  - name: {name}\n    url: {}\n{more}", receiver.url())
}

/// The command line, as the administrator.
fn cli(daypass: &Daypass, args: &[&str]) -> String {
    let output = binary()
        .env("DAYPASS_API", format!("http://{}", daypass.api))
        .env("DAYPASS_DATA_DIR", daypass.data_dir())
        .args(args)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn ask(daypass: &Daypass, entitlement: &str, reason: &str) {
    cli(daypass, &["request", "create", entitlement, "--no-wait", "--reason", reason]);
}

/// A `grant.created`.
fn grant(daypass: &Daypass, id: &str) {
    daypass.grant(&["create", "--id", id, "--subject", "user:alice", "--path", "/x", "--ttl", "1h"]).unwrap();
}

fn grants(came: &[Received]) -> Vec<String> {
    came.iter().map(|one| one.json()["event"]["grant"].as_str().unwrap().to_owned()).collect()
}

fn outcome(daypass: &Daypass, webhook: &str, outcome: &str) -> u64 {
    let series = format!("daypass_webhook_deliveries_total{{outcome=\"{outcome}\",webhook=\"{webhook}\"}}");
    daypass.metric(&series)
}

fn secret(dir: &Path, text: &str) -> String {
    let path = write_file(dir, "secret", text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// What the document tells receivers to do, word by word.
fn document(language: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/webhooks.md")).unwrap();
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
    rest.split("```").next().unwrap().to_owned()
}

/// Runs the document's verification on a delivery.
fn verify(key: &str, came: &Received, body: &str) -> bool {
    let mut child = Command::new("sh")
        .args(["-c", &document("sh")])
        .env("SECRET", key)
        .env("TIMESTAMP", &came.headers["x-daypass-timestamp"])
        .env("SIGNATURE", &came.headers["x-daypass-signature"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

#[test]
fn receivers_get_signed_events_in_order_that_they_can_verify() {
    let receiver = Receiver::willing();
    let dir = tempfile::tempdir().unwrap();
    let more = format!(
        "    secret_file: {}\n    headers: {{authorization: Bearer abc, x-team: ops}}\n",
        secret(dir.path(), "hunter2\n")
    );
    let (_site, daypass) = site("embedded:memory", &webhook("audit", &receiver, &more));
    for number in 0..5 {
        grant(&daypass, &format!("g{number}"));
    }
    ask(&daypass, "orders", "ünïcode & <tags>");
    let came = receiver.wait(6);
    assert_eq!(grants(&came[..5]), ["g0", "g1", "g2", "g3", "g4"]);
    // From the last event before them.
    let mut hash = String::new();
    for (index, one) in came.iter().enumerate() {
        let number = u64::try_from(index).unwrap() + 1;
        assert_eq!((one.number(), one.path.as_str()), (number, "/hook?x=1"));
        assert_eq!(one.headers["x-daypass-delivery"], format!("audit-{}", number + POLICY_EVENTS));
        assert_eq!(one.headers["content-type"], "application/json");
        assert_eq!(one.headers["authorization"], "Bearer abc");
        assert_eq!(one.headers["x-team"], "ops");
        assert_eq!(one.kind(), one.json()["event"]["type"].as_str().unwrap());
        // The record's own chain, from what was delivered alone.
        let (_, event) = one.body.split_once("\"event\":").unwrap();
        let found = one.json()["hash"].as_str().unwrap().to_owned();
        assert!(hash.is_empty() || found == chain(&hash, event.strip_suffix('}').unwrap()));
        hash = found;
        let age =
            jiff::Timestamp::now().as_second() - one.headers["x-daypass-timestamp"].parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{age}");
    }
    assert!(verify("hunter2", &came[5], &came[5].body));
    assert!(!verify("hunter3", &came[5], &came[5].body));
    assert!(!verify("hunter2", &came[5], &came[4].body));
    let script = document("python");
    let check = |body: &str| {
        let program = format!(
            "{script}\nimport os, sys\nsys.exit(0 if verify(b'hunter2', os.environ['T'], os.environ['S'], \
             sys.stdin.buffer.read(), now=int(os.environ['T'])) else 1)"
        );
        let mut child = Command::new("python3")
            .args(["-c", &program])
            .env("T", &came[5].headers["x-daypass-timestamp"])
            .env("S", &came[5].headers["x-daypass-signature"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        child.wait().unwrap().success()
    };
    assert!(check(&came[5].body) && !check(&came[4].body));
    wait_for("the metrics", || (daypass.metric("daypass_webhook_lag{webhook=\"audit\"}") == 0).then_some(()));
    wait_for("the count", || (outcome(&daypass, "audit", "delivered") == 6).then_some(()));
    assert_eq!(outcome(&daypass, "audit", "failed"), 0);
    for shown in ["abc", "hunter2", "hook?"] {
        assert!(!daypass.log().contains(shown), "{shown}");
    }
}

#[test]
fn each_gets_what_it_asked_for_and_a_new_one_no_history() {
    let (all, grants_only, orders, pager) =
        (Receiver::willing(), Receiver::willing(), Receiver::willing(), Receiver::willing());
    let config = [
        webhook("all", &all, ""),
        webhook("grants", &grants_only, "    events: [grant.*]\n"),
        webhook("orders", &orders, "    entitlements: [orders]\n    events: request.created\n"),
        webhook("pager", &pager, "    default: false\n    events: [request.*]\n"),
    ];
    let (site, daypass) = site("embedded", &config[..1].concat());
    grant(&daypass, "before");
    all.wait(1);
    // Ended before that is written down, it would come again.
    wait_for("the mark", || (daypass.metric("daypass_webhook_lag{webhook=\"all\"}") == 0).then_some(()));
    drop(daypass);
    site.configure(&config.concat());
    let daypass = site.begin(3);
    ask(&daypass, "orders", "");
    ask(&daypass, "quick", "");
    ask(&daypass, "named", "");
    cli(&daypass, &["break-glass", "named", "--reason", "everything is on fire"]);
    cli(&daypass, &["break-glass", "orders", "--reason", "everything is on fire"]);
    // before; created; created, auto_approved, grant.created; created; and two of each emergency.
    let seen: Vec<_> = all.wait(10).iter().map(Received::kind).collect();
    assert_eq!(seen.len(), 10, "{seen:?}");
    let of = |receiver: &Receiver, count| -> Vec<(String, String)> {
        let came = receiver.wait(count);
        came.iter()
            .map(|one| {
                (one.kind(), one.json()["event"]["entitlement"].as_str().unwrap_or_default().to_owned())
            })
            .collect()
    };
    let pair = |kind: &str, entitlement: &str| (kind.to_owned(), entitlement.to_owned());
    assert_eq!(
        of(&grants_only, 3),
        ["quick", "named", "orders"].map(|entitlement| pair("grant.created", entitlement))
    );
    assert_eq!(of(&orders, 1), [pair("request.created", "orders")]);
    // Named, within its types; and who skipped the approvers, whatever its types.
    assert_eq!(of(&pager, 2), [pair("request.created", "named"), pair("breakglass.activated", "named")]);
    let emergency = &pager.received()[1].json()["event"];
    assert_eq!(emergency["details"]["skipped_approvers"], serde_json::json!(["group:leads", "user:boss"]));
    std::thread::sleep(Duration::from_millis(300));
    for (receiver, count) in [(&all, 10), (&grants_only, 3), (&orders, 1), (&pager, 2)] {
        assert_eq!(receiver.received().len(), count);
    }
    let unknown = daypass.log().matches("there is no webhook of this name").count();
    assert_eq!(unknown, 1, "{}", daypass.log());
    assert!(daypass.log().contains("webhook=\"nobody\""), "{}", daypass.log());
}

#[test]
fn people_read_a_line() {
    let chat = Receiver::willing();
    let (_site, daypass) = site("embedded:memory", &webhook("chat", &chat, "    format: slack\n"));
    ask(&daypass, "orders", "<!channel> *now* & <https://evil|bank>\n> `x`");
    let came = chat.wait(1).remove(0);
    let json = came.json();
    let text = json["text"].as_str().unwrap();
    assert_eq!(json.as_object().unwrap().len(), 1);
    let id = text.split("daypass request approve ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(cli(&daypass, &["request", "show", id]).contains("orders"));
    assert!(text.starts_with("user:admin asks for orders, for 1h: \""), "{text}");
    assert!(text.contains("&lt;!channel&gt; ∗now∗ &amp; &lt;https://evil|bank&gt; &gt; ˋxˋ"), "{text}");
    assert!(!text.contains(['<', '>', '*', '`', '\n']), "{text}");
    assert!(!came.headers.contains_key("x-daypass-signature"), "there is no key");
    assert_eq!(came.headers["x-daypass-event"], "request.created");
}

#[test]
fn failures_are_tried_again_in_order_and_refusals_are_not() {
    // The second delivery fails in all ways, one after another.
    let receiver = Receiver::start(|number, _| match number {
        1 => Answer::Status(500),
        2 => Answer::With(429, "retry-after", "2".to_owned()),
        3 => Answer::Close,
        5 => Answer::Status(410),
        6 => Answer::Endless(404),
        7 => Answer::Endless(200),
        _ => Answer::Status(204),
    });
    let (_site, daypass) = site("embedded:memory", &webhook("w", &receiver, "    timeout: 2s\n"));
    for id in ["a", "b", "c", "d", "e", "f"] {
        grant(&daypass, id);
    }
    let came = receiver.wait(9);
    assert_eq!(grants(&came), ["a", "b", "b", "b", "b", "c", "d", "e", "f"]);
    let pause = |index: usize| came[index + 1].at.duration_since(came[index].at);
    assert!(pause(1) >= Duration::from_millis(490), "{:?}", pause(1));
    assert!(pause(2) >= Duration::from_millis(1900), "Retry-After: {:?}", pause(2));
    assert!(pause(3) >= Duration::from_millis(1900), "the third: {:?}", pause(3));
    wait_for("the counts", || (outcome(&daypass, "w", "delivered") == 4).then_some(()));
    assert_eq!((outcome(&daypass, "w", "refused"), outcome(&daypass, "w", "failed")), (2, 3));
    let log = daypass.log();
    let refused = log.lines().filter(|line| line.contains("the receiver refuses it")).count();
    assert!(refused == 2 && log.contains("410") && log.contains("number=7"), "{log}");
    assert_eq!(log.matches("tried again in").count(), 1, "once for an outage: {log}");
}

#[test]
fn redirects_are_not_followed() {
    let other = Receiver::willing();
    let target = other.url();
    let receiver = Receiver::start(move |number, _| match number {
        0 => Answer::With(307, "location", target.clone()),
        _ => Answer::Status(200),
    });
    let (_site, daypass) =
        site("embedded:memory", &webhook("w", &receiver, "    headers: {x-secret: abc}\n"));
    grant(&daypass, "a");
    assert_eq!(grants(&receiver.wait(2)), ["a", "a"]);
    assert!(other.received().is_empty());
    assert!(daypass.log().contains("redirects are not followed"));
}

#[test]
fn a_receiver_that_was_away_gets_everything_when_it_is_back() {
    let receiver = Receiver::willing();
    let (address, config) = (receiver.address.to_string(), webhook("w", &receiver, ""));
    let (_site, daypass) = site("embedded:memory", &config);
    grant(&daypass, "a");
    receiver.wait(1);
    drop(receiver);
    // Its thread lets go of the port.
    wait_for("the port", || std::net::TcpStream::connect(&address).is_err().then_some(()));
    grant(&daypass, "b");
    wait_for("a failure", || (outcome(&daypass, "w", "failed") > 0).then_some(()));
    assert!(daypass.metric("daypass_webhook_lag{webhook=\"w\"}") >= 1);
    grant(&daypass, "c");
    let receiver = Receiver::start_at(&address, |_, _| Answer::Status(200));
    assert_eq!(grants(&receiver.wait(2)), ["b", "c"]);
}

#[test]
fn what_is_too_old_is_passed_over_and_said() {
    let receiver = Receiver::start(|_, _| Answer::Status(503));
    let (_site, daypass) = site("embedded:memory", &webhook("w", &receiver, "    max_age: 2s\n"));
    grant(&daypass, "old");
    wait_for("it to be too old", || (outcome(&daypass, "w", "expired") == 1).then_some(()));
    let log = daypass.log();
    let line = log.lines().find(|line| line.contains("older than 2s")).unwrap();
    assert!(line.contains("number=5") && line.contains("grant.created"), "{line}");
    receiver.set(|_, _| Answer::Status(200));
    grant(&daypass, "new");
    assert_eq!(grants(&receiver.wait_taken(1)), ["new"]);
}

/// Ends a server in the middle of its deliveries, and starts it again.
fn a_restart_loses_nothing(store: &str) {
    let receiver = Receiver::willing();
    let (site, daypass) = site(store, &webhook("w", &receiver, "    timeout: 1s\n"));
    for number in 0..5 {
        grant(&daypass, &format!("g{number}"));
    }
    receiver.wait(5);
    // The sixth is in flight when the process dies; the rest nobody has seen.
    receiver.set(|_, _| Answer::Hang);
    for number in 5..10 {
        grant(&daypass, &format!("g{number}"));
    }
    receiver.wait(6);
    drop(daypass);
    receiver.set(|_, _| Answer::Status(200));
    let daypass = site.start();
    let taken = receiver.wait_taken(10);
    assert_eq!(taken.iter().map(Received::number).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    grant(&daypass, "last");
    let taken = receiver.wait_taken(11);
    assert_eq!(taken.last().unwrap().number(), 11);
    assert!(!daypass.log().contains("a new webhook"), "{}", daypass.log());
}

#[test]
fn a_restart_loses_nothing_embedded() {
    a_restart_loses_nothing("embedded");
}

#[test]
fn a_restart_loses_nothing_redis() {
    let Some(redis) = Redis::start(&[]) else { return };
    a_restart_loses_nothing(&redis.url());
}

#[test]
fn two_instances_deliver_each_event_once() {
    let Some(redis) = Redis::start(&[]) else { return };
    let receiver = Receiver::start(|_, _| Answer::Late(Duration::from_millis(5), 200));
    let config = webhook("w", &receiver, "    timeout: 1s\n    events: [grant.*]\n");
    let (one, two) = (Site::new(&redis.url(), &config), Site::new(&redis.url(), &config));
    let mut servers = [Some(one.begin(1)), Some(two.start())];
    std::thread::scope(|scope| {
        for (index, server) in servers.iter().flatten().enumerate() {
            scope.spawn(move || {
                for number in 0..15 {
                    grant(server, &format!("g{index}-{number}"));
                }
            });
        }
    });
    let numbers = |came: &[Received]| came.iter().map(Received::number).collect::<Vec<_>>();
    // Each instance has a policy of its own, which is an event that nobody asked for.
    let in_order = |came: &[Received]| numbers(came).is_sorted_by(|a, b| a < b);
    let came = receiver.wait_taken(30);
    assert!(came.len() == 30 && in_order(&came), "{:?}", numbers(&came));
    // One of them hangs with an event in its hands: the other goes on when its lease has ended.
    receiver.set(|_, _| Answer::Hang);
    grant(servers[0].as_ref().unwrap(), "stuck");
    receiver.wait(31);
    let delivered = servers.each_ref().map(|server| outcome(server.as_ref().unwrap(), "w", "delivered"));
    assert_eq!(delivered.iter().sum::<u64>(), 30);
    servers[0] = None;
    receiver.set(|_, _| Answer::Status(200));
    grant(servers[1].as_ref().unwrap(), "next");
    // At least once: one whose delivery was not written down yet may come again.
    let mut taken = wait_for("both", || {
        Some(receiver.taken())
            .filter(|taken| grants(taken).ends_with(&["stuck".to_owned(), "next".to_owned()]))
    });
    taken.dedup_by_key(|one| one.number());
    assert!(taken.len() == 32 && in_order(&taken), "{:?}", numbers(&taken));
}

#[test]
fn a_store_that_is_away_doubles_nothing() {
    let Some(mut redis) = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let receiver = Receiver::start(|_, _| Answer::Late(Duration::from_millis(1500), 200));
    let (_site, daypass) = site(&redis.url(), &webhook("w", &receiver, ""));
    grant(&daypass, "a");
    receiver.wait(1);
    // Taken, and nobody can write it down.
    redis.kill();
    receiver.wait_taken(1);
    receiver.set(|_, _| Answer::Status(200));
    std::thread::sleep(Duration::from_secs(1));
    redis.revive();
    wait_for("the server to be ready", || (daypass.ops("/readyz").0 == 200).then_some(()));
    wait_for("a change", || {
        daypass.grant(&["create", "--id", "b", "--subject", "user:alice", "--ttl", "1h"]).ok()
    });
    assert_eq!(grants(&receiver.wait_taken(2)), ["a", "b"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(receiver.received().len(), 2);
}

#[test]
fn a_flushed_journal_is_begun_anew() {
    let Some(redis) = Redis::start(&[]) else { return };
    let receiver = Receiver::willing();
    let (_site, daypass) = site(&redis.url(), &webhook("w", &receiver, ""));
    for id in ["a", "b", "c"] {
        grant(&daypass, id);
    }
    receiver.wait(3);
    wait_for("the mark", || (daypass.metric("daypass_webhook_lag{webhook=\"w\"}") == 0).then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    // The journal is gone and the mark is not; then events are gone and the journal is not.
    redis.run::<()>("DEL {jit}:head {jit}:events");
    // More than there were, so that the number alone tells nothing.
    for id in ["n1", "n2", "n3", "n4", "n5"] {
        grant(&daypass, id);
    }
    let taken = wait_for("the new journal", || {
        Some(receiver.taken()).filter(|taken| grants(taken).ends_with(&["n5".to_owned()]))
    });
    let ids = grants(&taken);
    for id in ["n1", "n2", "n3", "n4"] {
        assert!(ids.contains(&id.to_owned()), "{ids:?}");
    }
    assert!(daypass.log().contains("has lost events"), "{}", daypass.log());
    receiver.set(|_, _| Answer::Status(503));
    grant(&daypass, "lost");
    let before = outcome(&daypass, "w", "failed");
    wait_for("a failure", || (outcome(&daypass, "w", "failed") > before).then_some(()));
    redis.run::<()>("XTRIM {jit}:events MAXLEN 0");
    wait_for("the gap to be said", || daypass.log().contains("left the journal before").then_some(()));
    assert!(outcome(&daypass, "w", "lost") >= 1);
    receiver.set(|_, _| Answer::Status(200));
    grant(&daypass, "found");
    wait_for("the next event", || {
        grants(&receiver.taken()).last().is_some_and(|id| id == "found").then_some(())
    });
}

#[test]
fn a_receiver_that_hangs_holds_up_nobody() {
    let (slow, quick) = (Receiver::start(|_, _| Answer::Hang), Receiver::willing());
    let config = [webhook("slow", &slow, "    timeout: 60s\n"), webhook("quick", &quick, "")].concat();
    let (_site, daypass) = site("embedded:memory", &config);
    grant(&daypass, "first");
    slow.wait(1);
    for number in 0..10 {
        let began = Instant::now();
        grant(&daypass, &format!("g{number}"));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    assert_eq!(quick.wait(11).len(), 11);
    assert_eq!(slow.received().len(), 1);
    assert_eq!(daypass.ops("/readyz").0, 200);
    wait_for("the lag to end", || {
        (daypass.metric("daypass_webhook_lag{webhook=\"quick\"}") == 0).then_some(())
    });
    assert!(daypass.metric("daypass_webhook_lag{webhook=\"slow\"}") >= 1);
}

#[test]
fn tls_and_its_authority() {
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = write_file(dir.path(), "ca.pem", &authority.cert.pem());
    let key = rustls::pki_types::PrivateKeyDer::try_from(authority.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![authority.cert.der().clone()], key)
            .unwrap();
    let config = Arc::new(config);
    let receiver = Receiver::start_with(
        "127.0.0.1:0",
        |_, _| Answer::Status(200),
        move |stream| {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            Some(rustls::StreamOwned::new(session, stream))
        },
    );
    let url = format!("https://localhost:{}/", receiver.address.port());
    let trusting = format!("  - name: trusting\n    url: {url}\n    ca_file: {ca}\n");
    let wary = format!("  - name: wary\n    url: {url}\n");
    let (_site, daypass) = site("embedded:memory", &(trusting + &wary));
    grant(&daypass, "a");
    let came = receiver.wait(1).remove(0);
    assert_eq!(came.headers["x-daypass-delivery"], format!("trusting-{}", 1 + POLICY_EVENTS));
    wait_for("the failure", || (outcome(&daypass, "wary", "failed") > 0).then_some(()));
}

#[test]
fn secrets_are_read_again_and_must_be_private() {
    let receiver = Receiver::willing();
    let dir = tempfile::tempdir().unwrap();
    let key = secret(dir.path(), "one");
    let config =
        webhook("w", &receiver, &format!("    secret_file: {key}\n    header_files: {{x-key: {key}}}\n"));
    let (site, daypass) = site("embedded:memory", &config);
    grant(&daypass, "a");
    assert!(verify("one", &receiver.wait(1)[0], &receiver.received()[0].body));
    std::fs::write(&key, "two").unwrap();
    grant(&daypass, "b");
    let second = receiver.wait(2).remove(1);
    assert!(verify("two", &second, &second.body));
    assert_eq!(second.headers["x-key"], "two");
    // While it is not private it is not used, and nothing is delivered without a signature.
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    grant(&daypass, "c");
    wait_for("the failure", || (outcome(&daypass, "w", "failed") > 0).then_some(()));
    assert_eq!(receiver.received().len(), 2);
    assert!(daypass.log().contains("can be read by others"), "{}", daypass.log());
    drop(daypass);
    let args: Vec<&str> = site.args.iter().map(String::as_str).collect();
    let refused = Daypass::try_start(&site.dir, &args).err().unwrap();
    assert!(refused.contains("webhook w") && refused.contains("chmod 600"), "{refused}");
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = "name: w\n    url: https://x.example/s3cret";
    let validate = |webhooks: &str| {
        let config = write_file(dir.path(), "d.yaml", &format!("webhooks:\n{webhooks}"));
        let output = run(&["serve", "--validate", "--config", &config]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let with = |more: &str| format!("  - {good}\n    {more}\n");
    for fine in [
        with("events: [grant.*, lock.created]"),
        with("events: '*'"),
        with("default: false"),
        with("headers: {x-a: b}"),
        with("timeout: 60s\n    max_age: 1h\n    format: slack"),
        with("").replace("https://x.example", "http://127.0.0.1:1"),
    ] {
        assert!(validate(&fine).0, "{fine}: {}", validate(&fine).1);
    }
    for (wrong, message) in [
        (with("event: x"), "unknown key"),
        (with("events: [grant.made]"), "no type of events"),
        (with("events: []"), "empty list"),
        (with("format: teams"), "neither generic nor slack"),
        (with("timeout: 61s"), "more than 60s"),
        (with("timeout: 0s"), "not a duration"),
        (with("default: maybe"), "default"),
        (with("headers: {content-length: 7}"), "not yours to set"),
        (with("headers: {X-Daypass-Event: x}"), "not yours to set"),
        (with("headers: {'a b': x}"), "no name of a header"),
        (with("headers: {a: \"s3cret\\nx: y\"}"), "no text that can be a value"),
        (with("headers: [a]"), "mapping"),
        (with("headers: {a: '${NO_SUCH_VARIABLE}'}"), "the environment has no"),
        (with("headers: {a: x}\n    header_files: {A: /x}"), "in headers and in header_files"),
        (format!("{}{}", with(""), with("")), "there twice"),
        (with("").replace("https", "http"), "in clear"),
        (with("").replace("https://x.example", "http://127.0.0.1.evil"), "in clear"),
        (with("").replace("https://", "ftp://"), "not https://"),
        (with("").replace("https://", "https://u:s3cret@"), "not sent"),
        (with("").replace("https://", "://"), "not a URL"),
        (with("").replace("name: w", "name: W w"), "a name is"),
        ("  - name: w\n".to_owned(), "needs `url`"),
        ("  - url: https://x\n".to_owned(), "needs `name`"),
        ("  name: w\n".to_owned(), "must be a list"),
    ] {
        let (is_good, text) = validate(&wrong);
        assert!(!is_good && text.contains(message), "{wrong}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    let mut many = String::new();
    for number in 0..65 {
        let _ = write!(many, "  - name: w{number}\n    url: https://x.example/\n");
    }
    assert!(validate(&many).1.contains("more than 64"));
}
