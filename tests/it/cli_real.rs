//! The command line against a server with the sample entitlements: many people, each with a token of their own.

use std::process::{Child, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::daypass::{Daypass, binary, write_file};
use crate::support::people::{run_as, token_of, write_tokens};
use crate::support::wait_for;

const PEOPLE: [(&str, &[&str]); 8] = [
    ("alice", &["engineering"]),
    ("bob", &["orders-team"]),
    ("pat", &["payments"]),
    ("lea", &["payments-leads"]),
    ("sam", &["security"]),
    ("olly", &["payments", "payments-oncall"]),
    ("audrey", &["audit"]),
    ("ada", &["daypass-admins"]),
];
const WHY: &str = "customer 4711 misses an order";

struct House {
    daypass: Daypass,
    _dir: Arc<TempDir>,
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    #[track_caller]
    fn good(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn text(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {self:?}")).to_owned()
    }
}

impl House {
    fn open() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        write_tokens(&dir.path().join("data/tokens.yaml"), &PEOPLE);
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/entitlements.yaml");
        Self { daypass: Daypass::start_in(&dir, &["--policy", sample]), _dir: dir }
    }

    fn run(&self, who: &str, args: &[&str]) -> Ran {
        run_as(who, &self.daypass.api, args).into()
    }

    /// The same, while others do something.
    fn start(&self, who: &str, args: &[&str]) -> Child {
        let mut command = binary();
        command
            .args(args)
            .env("DAYPASS_TOKEN", token_of(who))
            .env("DAYPASS_API", format!("http://{}", self.daypass.api))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Ids of a list of requests.
    fn list(&self, who: &str, args: &[&str]) -> Vec<String> {
        let ran = self.run(who, &[&["request", "ls", "--json"], args].concat()).good();
        let found = ran.json();
        found.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    /// The one request that somebody may decide on, once there is one.
    fn to_decide(&self, who: &str) -> String {
        wait_for("a request to decide on", || self.list(who, &["--reviewable"]).pop())
    }

    fn ask(&self, more: &[&str]) -> Ran {
        self.run("alice", &[&["request", "create", "orders-db-read", "--reason", WHY], more].concat())
    }
}

fn end(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

#[test]
fn who_asks_waits_and_gets_access_and_gives_it_back() {
    let house = House::open();
    let dry = house.ask(&["--dry-run"]).good();
    assert!(dry.out.contains("(dry run): pending"), "{dry:?}");
    assert!(house.list("bob", &["--reviewable"]).is_empty());
    let id = house.ask(&["--no-wait", "--for", "1h", "--json"]).good().text("id");
    assert_eq!(house.list("alice", &["--mine"]), std::slice::from_ref(&id));
    assert_eq!(house.list("bob", &["--reviewable"]), std::slice::from_ref(&id));
    assert!(house.list("alice", &["--reviewable"]).is_empty());
    assert!(house.list("pat", &[]).is_empty(), "not for everybody to see");
    let waiting = house.start("alice", &["request", "wait", &id]);
    let own = house.run("alice", &["request", "approve", &id]);
    assert!(own.code == 1 && own.err.contains("nobody approves their own request"), "{own:?}");
    let approved =
        house.run("bob", &["request", "approve", &id, "--for", "10m", "--reason", "go ahead"]).good();
    assert!(approved.out.contains("was approved by user:bob: go ahead"), "{approved:?}");
    let ran = end(waiting).good();
    assert!(ran.out.contains("was approved by user:bob") && ran.out.contains("ends in 10m"), "{ran:?}");
    assert_eq!(house.list("bob", &["--reviewed"]), std::slice::from_ref(&id));
    assert!(house.list("bob", &["--reviewable"]).is_empty());
    assert_eq!(house.list("alice", &["--mine", "--state", "approved"]), std::slice::from_ref(&id));
    assert_eq!(house.run("alice", &["request", "wait", &id]).code, 0, "decided already");
    assert_eq!(house.run("bob", &["request", "deny", &id]).code, 1, "decided already");
    let shown = house.run("alice", &["request", "show", &id]).good();
    assert!(shown.out.contains(WHY) && shown.out.contains("10m (asked for 1h)"), "{shown:?}");
    let grant = house.run("alice", &["request", "show", &id, "--json"]).text("grant");

    let allowed = house.run("alice", &["explain", "https://orders.example/db/rows?q=1"]).good();
    assert!(allowed.out.starts_with("allowed: GET orders.example/db/rows"), "{allowed:?}");
    assert!(allowed.out.contains(&grant), "{allowed:?}");
    let other = house.run("alice", &["explain", "orders.example/db/rows", "--method", "delete"]);
    assert!(other.code == 3 && other.out.contains("(not_covered)"), "{other:?}");

    let extending =
        house.start("alice", &["grant", "extend", &grant, "--for", "20m", "--reason", "still at it"]);
    let extension = house.to_decide("bob");
    house.run("bob", &["request", "approve", &extension]).good();
    let extended = end(extending).good();
    assert!(extended.out.contains(&grant) && extended.out.contains("ends in 30m"), "{extended:?}");
    let listed = house.run("alice", &["grant", "ls", "--json"]).good().json();
    assert_eq!((listed[0]["id"].as_str(), listed[0]["extensions"].as_u64()), (Some(grant.as_str()), Some(1)));
    let too_often =
        house.run("alice", &["grant", "extend", &grant, "--for", "20m", "--reason", WHY, "--no-wait"]);
    assert_eq!(too_often.code, 1, "{too_often:?}");

    let dropped = house.run("alice", &["grant", "drop", "--all"]).good();
    assert_eq!(dropped.out, format!("gave back {grant}\n"));
    assert!(house.run("alice", &["grant", "drop", "--all"]).good().out.contains("nothing of user:alice"));
    assert_ne!(house.run("alice", &["grant", "drop", &grant]).code, -1);
    let denied = house.run("alice", &["explain", "orders.example/db/rows"]);
    assert!(denied.code == 3, "{denied:?}");
    for part in
        ["denied: GET orders.example/db/rows", "1 person must agree", "daypass request create orders-db-read"]
    {
        assert!(denied.out.contains(part), "{part}: {denied:?}");
    }
    let ended = house.run("alice", &["grant", "ls", "--all"]).good();
    assert!(ended.out.contains("relinquished"), "{ended:?}");
}

#[test]
fn each_end_has_its_exit_status() {
    let house = House::open();
    let waiting = house.start("alice", &["request", "create", "orders-db-read", "--reason", WHY, "--json"]);
    let id = house.to_decide("bob");
    house.run("bob", &["request", "deny", &id, "--reason", "use the replica"]).good();
    let denied = end(waiting);
    assert_eq!((denied.code, denied.text("state").as_str()), (3, "DENIED"), "{denied:?}");
    let again = house.run("alice", &["request", "wait", &id]);
    assert!(again.code == 3 && again.out.contains("was denied by user:bob: use the replica"), "{again:?}");

    let waiting = house.start("alice", &["request", "create", "orders-db-read", "--reason", WHY]);
    let id = house.to_decide("bob");
    let withdrawn = house.run("alice", &["request", "withdraw", &id]).good();
    assert!(withdrawn.out.contains("was withdrawn"), "{withdrawn:?}");
    assert_eq!(end(waiting).code, 4);

    let late = house.ask(&["--timeout", "300ms"]);
    let id = house.to_decide("bob");
    assert!(late.code == 5 && late.err.contains(&format!("daypass request wait {id}")), "{late:?}");
    assert_eq!(house.run("alice", &["request", "wait", &id, "--timeout", "200ms"]).code, 5);

    // A mistake says which field, and what is not allowed why.
    let short = house.run("alice", &["request", "create", "orders-db-read", "--reason", "x", "--no-wait"]);
    assert_eq!(short.code, 1, "{short:?}");
    let stranger = house.run("bob", &["request", "create", "payments-admin", "--reason", WHY, "--no-wait"]);
    assert_eq!(stranger.code, 1, "{stranger:?}");
    let long = house.ask(&["--for", "9h", "--no-wait"]);
    assert!(long.code == 1 && long.err.contains("8h"), "{long:?}");
    let nobody = binary()
        .args(["whoami"])
        .env("DAYPASS_TOKEN", "x")
        .env("DAYPASS_API", format!("http://{}", house.daypass.api))
        .output();
    assert_eq!(Ran::from(nobody.unwrap()).code, 1);
    // The same ask twice is one request.
    let named = |id: &str| house.ask(&["--no-wait", "--json", "--request-id", id]).good().text("id");
    assert_eq!(named("a-1"), named("a-1"));
    assert_ne!(named("a-1"), named("a-2"));
}

#[test]
fn two_have_to_agree() {
    let house = House::open();
    let ask = [
        "request",
        "create",
        "payments-admin",
        "--reason",
        "a refund is stuck since noon",
        "--ticket",
        "PAY-12",
    ];
    assert_eq!(house.run("pat", &[&ask[..5], &["--no-wait"]].concat()).code, 1, "a ticket is required");
    let waiting = house.start("pat", &ask);
    let id = house.to_decide("lea");
    let first = house.run("lea", &["request", "approve", &id]).good();
    assert!(first.out.contains("1 of 2 approvals"), "{first:?}");
    assert!(house.list("lea", &["--reviewable"]).is_empty(), "has decided");
    house.run("sam", &["request", "approve", &id]).good();
    let ran = end(waiting).good();
    assert!(ran.out.contains("was approved by user:lea, user:sam"), "{ran:?}");
    assert_eq!(ran.err.lines().filter(|line| line.starts_with("waiting:")).count(), 2, "{ran:?}");
    let from = |address: &str| {
        house.run("pat", &["explain", "payments.example/admin/x", "--method", "POST", "--from", address]).code
    };
    assert_eq!((from("10.1.2.3"), from("192.0.2.1")), (0, 3));
}

#[test]
fn ensure_uses_waits_or_asks_and_is_done_only_with_access() {
    let house = House::open();
    let ensure = ["ensure", "orders-db-read", "--reason", WHY, "--json"];
    // Asks.
    let first = house.start("alice", &ensure);
    let id = house.to_decide("bob");
    // Waits for what was asked.
    let second = house.start("alice", &ensure);
    std::thread::sleep(std::time::Duration::from_millis(300));
    house.run("bob", &["request", "approve", &id]).good();
    let grant = end(first).good().text("id");
    assert_eq!(end(second).good().text("id"), grant);
    assert_eq!(house.list("alice", &["--mine"]).len(), 1);
    // Uses.
    let third = house.run("alice", &ensure).good();
    assert_eq!(third.text("id"), grant);
    let longer = house.run("alice", &[&ensure[..], &["--min-left", "3h", "--no-wait"]].concat());
    assert_eq!((longer.code, longer.text("state").as_str()), (5, "PENDING"), "{longer:?}");
    let id = house.to_decide("bob");
    let denied = house.start("alice", &[&ensure[..], &["--min-left", "3h"]].concat());
    std::thread::sleep(std::time::Duration::from_millis(300));
    house.run("bob", &["request", "deny", &id]).good();
    assert_eq!(end(denied).code, 3);
    // Nobody has to agree.
    let logs = house.run("alice", &["ensure", "logs-read", "--reason", WHY]).good();
    assert!(logs.out.contains("ends in 2h"), "{logs:?}");
    // What begins later is not access.
    house.run("alice", &["grant", "drop", "--all"]).good();
    let later = ["ensure", "logs-read", "--reason", WHY, "--start", "+1h"];
    for _ in 0..2 {
        let ran = house.run("alice", &later);
        assert!(ran.code == 5 && ran.out.contains("it begins in 1h"), "{ran:?}");
    }
    let scheduled = house.run("alice", &["grant", "ls"]).good();
    assert!(scheduled.out.matches("scheduled").count() == 1, "{scheduled:?}");
    assert!(house.run("alice", &["grant", "drop", "--all"]).good().out.contains("gave back"));
}

#[test]
fn emergencies_and_locks() {
    let house = House::open();
    assert_eq!(house.run("pat", &["break-glass", "payments-admin", "--reason", "everything burns"]).code, 1);
    let glass = ["break-glass", "payments-admin", "--reason", "everything burns", "--ticket", "PAY-1"];
    let taken = house.run("olly", &glass).good();
    assert!(taken.out.contains("ends in 30m") && taken.out.contains("(break-glass)"), "{taken:?}");
    let explain = |who: &str| house.run(who, &["explain", "payments.example/admin/x", "--from", "10.0.0.1"]);
    explain("olly").good();

    assert_eq!(house.run("olly", &["lock", "user:pat", "--message", "m", "--ttl", "1h"]).code, 1);
    let lock = house
        .run("ada", &["lock", "user:olly", "--message", "laptop stolen", "--ttl", "2h", "--json"])
        .good();
    let id = lock.text("id");
    assert_eq!(lock.text("principal"), "user:olly");
    let listed = house.run("ada", &["lock", "ls"]).good();
    assert!(listed.out.contains("laptop stolen") && listed.out.contains(&id), "{listed:?}");
    let locked = explain("olly");
    assert!(
        locked.code == 3 && locked.out.contains("(locked)") && locked.out.contains("laptop stolen"),
        "{locked:?}"
    );
    assert!(house.run("ada", &["unlock", &id]).good().out.contains("unlocked user:olly"));
    assert_eq!(house.run("ada", &["unlock", &id]).code, 1);
    explain("olly").good();
    let all =
        house.run("ada", &["lock", "--everything", "--message", "incident", "--ttl", "1h", "--json"]).good();
    assert_eq!(explain("olly").code, 3);
    house.run("ada", &["unlock", &all.text("id")]).good();
    let one = house
        .run("ada", &["lock", "--entitlement", "payments-admin", "--message", "x", "--ttl", "1h"])
        .good();
    assert!(one.out.contains("locked entitlement payments-admin"), "{one:?}");
    assert_eq!(explain("olly").code, 3);
    // An administrator ends what there is.
    let revoked = house.run("ada", &["grant", "revoke", "--everything", "--yes", "--json"]).good();
    assert_eq!(revoked.json()["revoked"].as_array().unwrap().len(), 1);
    assert!(house.run("ada", &["lock", "ls", "--json"]).good().json().as_array().unwrap().len() == 1);
}

#[test]
fn what_there_is_and_who_one_is() {
    let house = House::open();
    let me = house.run("alice", &["whoami"]).good();
    assert!(me.out.starts_with("user:alice\n") && me.out.contains("group:engineering"), "{me:?}");
    assert_eq!(house.run("alice", &["whoami", "--json"]).good().text("source"), "token");
    let names = |who: &str| -> Vec<String> {
        let found = house.run(who, &["entitlements", "--json"]).good().json();
        found.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("alice"), ["logs-read", "orders-db-read"]);
    assert_eq!(names("bob"), ["orders-db-read"]);
    let olly = house.run("olly", &["entitlements"]).good();
    assert!(olly.out.contains("request, break-glass"), "{olly:?}");
    let one = house.run("alice", &["entitlements", "orders-db-read"]).good();
    assert!(one.out.contains("Read the orders database") && one.out.contains("group:orders-team"), "{one:?}");
    assert_eq!(house.run("alice", &["entitlements", "payments-admin"]).code, 1, "not hers to see");
}

#[test]
fn the_record_is_followed_exported_and_verified() {
    let house = House::open();
    let audit = |who: &str, args: &[&str]| house.run(who, &[&["audit"], args].concat());
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut following = binary()
        .args(["events", "--follow", "--json"])
        .env("DAYPASS_TOKEN", token_of("audrey"))
        .env("DAYPASS_API", format!("http://{}", house.daypass.api))
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let types = || -> Vec<String> {
        let text = std::fs::read_to_string(&out).unwrap();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        whole.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    // The first that it sees, once it follows.
    let mut count = 0;
    wait_for("the first event", || {
        count += 1;
        house.run("alice", &["request", "create", "logs-read", "--reason", WHY, "--for", "1m"]).good();
        (!types().is_empty()).then_some(())
    });
    let id = house.ask(&["--no-wait", "--json"]).good().text("id");
    house.run("bob", &["request", "approve", &id]).good();
    wait_for("the approval", || types().iter().any(|kind| kind == "request.approved").then_some(()));
    following.kill().unwrap();
    following.wait().unwrap();

    let about = house.run("audrey", &["events", "--request", &id, "--json"]).good().json();
    let kinds: Vec<&str> =
        about.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert!(kinds.starts_with(&["request.created"]) && kinds.contains(&"request.approved"), "{kinds:?}");
    let few = house.run("audrey", &["events", "--last", "2", "--json"]).good().json();
    assert_eq!(few.as_array().unwrap().len(), 2);
    assert!(house.run("alice", &["events"]).good().out.contains("request.created"), "her own");

    let live = audit("audrey", &["verify", "--json"]).good();
    let head = live.text("head");
    let export = audit("audrey", &["export"]).good();
    let lines: Vec<&str> = export.out.lines().collect();
    assert_eq!(live.json()["good"].as_u64(), Some(lines.len() as u64));
    let verify = |lines: &[&str], more: &[&str]| {
        let path = write_file(dir.path(), "record.jsonl", &lines.join("\n"));
        Ran::from(binary().args(["audit", "verify", &path]).args(more).output().unwrap())
    };
    let good = verify(&lines, &["--anchor", &head]).good();
    assert!(good.out.contains("it is what it was"), "{good:?}");
    audit("audrey", &["verify", "--anchor", &head]).good();
    assert_eq!(verify(&lines[1..], &[]).code, 1);
    assert_eq!(verify(&lines[..lines.len() - 1], &["--anchor", &head]).code, 1);
    let changed = lines[1].replace("logs-read", "logs-writ");
    assert_ne!(changed, lines[1]);
    assert_eq!(verify(&[&[lines[0], &changed], &lines[2..]].concat(), &[]).code, 1);
    let cloud = audit("audrey", &["export", "--format", "cloudevents"]).good();
    assert_eq!(cloud.out.lines().count(), lines.len());
    assert_eq!(audit("audrey", &["tail", "-n", "3", "--no-follow"]).good().out.lines().count(), 3);
    // Whoever sees a part of it cannot say that it is whole.
    for who in ["alice", "bob", "pat"] {
        let part = audit(who, &["verify"]);
        assert!(part.code == 1 && part.out.contains("ask an auditor"), "{who}: {part:?}");
    }
    // Alice has seen all there was, and then there is something that is not hers.
    let house = House::open();
    house.run("alice", &["request", "create", "logs-read", "--reason", WHY]).good();
    house.run("ada", &["lock", "user:mallory", "--message", "m", "--ttl", "1h"]).good();
    let part = house.run("alice", &["audit", "verify"]);
    assert!(part.code == 1 && part.out.contains("ask an auditor"), "{part:?}");
    house.run("audrey", &["audit", "verify"]).good();
}

#[test]
fn an_administrator_gives_and_the_data_directory_has_their_token_for_its_server() {
    let daypass = Daypass::start(&[]);
    let dir = daypass.data_dir();
    let run = |args: &[&str], api: Option<&str>| -> Ran {
        let mut command = binary();
        command.args(args).arg("--data-dir").arg(&dir);
        if let Some(api) = api {
            command.env("DAYPASS_API", api);
        }
        command.output().unwrap().into()
    };
    // Wherever it listens.
    assert_eq!(run(&["whoami", "--json"], None).good().text("subject"), "user:admin");
    let localhost = format!("http://localhost:{}", daypass.api.rsplit(':').next().unwrap());
    run(&["whoami"], Some(&localhost)).good();
    // Somebody else, who listens and waits for tokens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let other = run(&["whoami"], Some(&format!("http://{}", listener.local_addr().unwrap())));
    assert!(other.code == 2 && other.err.contains("its token is not shown to"), "{other:?}");
    assert!(listener.accept().is_err());
    let given =
        run(&["grant", "create", "--subject", "user:x", "--path", "/db/**", "--ttl", "15m", "--json"], None);
    let id = given.good().text("id");
    assert!(run(&["grant", "extend", &id, "--for", "15m"], None).good().out.contains("ends in 30m"));
    assert!(run(&["grant", "revoke", &id], None).good().out.contains(&id));
    let address = daypass.api.clone();
    daypass.process.signal("-KILL");
    wait_for("its end", || std::net::TcpStream::connect(&address).is_err().then_some(()));
    // And somebody else takes its port.
    let thief = wait_for("the port", || std::net::TcpListener::bind(&address).ok());
    thief.set_nonblocking(true).unwrap();
    for api in [None, Some(format!("http://{address}"))] {
        let gone = run(&["whoami"], api.as_deref());
        assert!(gone.code == 6 && gone.err.contains("no server runs on the data directory"), "{gone:?}");
    }
    assert!(thief.accept().is_err());
}
