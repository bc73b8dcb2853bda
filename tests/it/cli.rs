//! The command line against an API that does as it is told: what it prints, how it waits, and how it ends.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use daypass::api::v1;
use daypass::api::v1::RequestState;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Status;

use crate::support::daypass::{binary, write_file};
use crate::support::fake_api::{A_MOMENT, FakeApi, now_plus};
use crate::support::{tool, wait_for};

struct Cli {
    api: FakeApi,
    home: TempDir,
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: &std::process::Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Cli {
    fn start() -> Self {
        Self { api: FakeApi::start(), home: tempfile::tempdir().unwrap() }
    }

    fn url(&self) -> String {
        format!("http://{}", self.api.address)
    }

    fn command(&self, caller: &str, args: &[&str]) -> Command {
        let mut command = binary();
        command.env("XDG_CONFIG_HOME", self.home.path()).env("DAYPASS_API", self.url()).args(args);
        if !caller.is_empty() {
            command.env("DAYPASS_TOKEN", caller);
        }
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, caller: &str, args: &[&str]) -> Ran {
        Ran::of(&self.command(caller, args).output().unwrap())
    }

    /// As alice.
    fn alice(&self, args: &[&str]) -> Ran {
        self.run("alice", args)
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command("alice", args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The id of a request that is pending, once somebody watches it.
    fn watched(&self) -> String {
        wait_for("a watch", || (self.api.count("watch_request") > 0).then_some(()));
        self.api.with(|desk| desk.requests.keys().next().unwrap().clone())
    }
}

fn end(child: Child) -> Ran {
    Ran::of(&child.wait_with_output().unwrap())
}

#[test]
fn whoever_asks_waits_until_enough_have_agreed() {
    let cli = Cli::start();
    let child = cli.spawn(&[
        "request",
        "create",
        "two",
        "--for",
        "1h30m",
        "--reason",
        "orders are stuck",
        "--ticket",
        "OPS-1",
        "--start",
        "+2h",
    ]);
    let id = cli.watched();
    let first = cli.run("bob", &["request", "approve", &id, "--reason", "fine"]);
    assert_eq!((first.code, first.out.contains("1 of 2 approvals")), (0, true), "{first:?}");
    std::thread::sleep(A_MOMENT);
    assert_eq!(cli.run("carol", &["request", "approve", &id, "--for", "30m"]).code, 0);
    let ran = end(child);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains(&format!("request {id} was approved by user:bob, user:carol: fine")), "{ran:?}");
    assert!(ran.out.contains("ends in 30m"), "{ran:?}");
    // A line for each change, as nobody looks at a terminal.
    let waiting: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("waiting:")).collect();
    assert_eq!(waiting.len(), 2, "{ran:?}");
    assert!(waiting[0].contains("0 of 2 approvals; group:sre may approve; expires at"), "{ran:?}");
    assert!(!ran.err.contains('\u{1b}') && !ran.out.contains('\u{1b}'));
    cli.api.with(|desk| {
        let asked = &desk.asked[0];
        assert_eq!(asked.duration.unwrap().seconds, 5400);
        assert_eq!((asked.justification.as_str(), asked.ticket.as_str()), ("orders are stuck", "OPS-1"));
        let start = asked.not_before.unwrap().seconds - now_plus(7200).unwrap().seconds;
        assert!(start.abs() < 20, "{start}");
        assert!(!asked.request_id.is_empty(), "one whose answer is lost can be repeated");
    });
}

#[test]
fn each_end_of_a_request_has_its_exit_status() {
    for (state, code, said) in [
        (RequestState::Denied, 3, "was denied by user:bob: not today"),
        (RequestState::Expired, 4, "expired"),
        (RequestState::Withdrawn, 4, "was withdrawn"),
    ] {
        let cli = Cli::start();
        let child = cli.spawn(&["request", "create", "db", "--json"]);
        let id = cli.watched();
        if state == RequestState::Denied {
            cli.run("bob", &["request", "deny", &id, "--reason", "not today"]);
        } else {
            cli.api.with(|desk| desk.requests.get_mut(&id).unwrap().set_state(state));
        }
        let ran = end(child);
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(ran.json()["state"], state.as_str_name(), "one document, of the end");
        let again = cli.alice(&["request", "wait", &id]);
        assert_eq!(again.code, code);
        assert!(again.out.contains(said), "{again:?}");
    }
}

#[test]
fn who_waits_too_long_or_is_interrupted_leaves_the_request_pending() {
    let cli = Cli::start();
    let ran = cli.alice(&["request", "create", "db", "--timeout", "300ms"]);
    let id = cli.watched();
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains(&format!("daypass request wait {id}")), "{ran:?}");
    let child = cli.spawn(&["request", "wait", &id, "--json"]);
    wait_for("the second watch", || (cli.api.count("watch_request") > 1).then_some(()));
    std::thread::sleep(A_MOMENT);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = end(child);
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.err.contains("stays pending") && ran.json()["state"] == "PENDING", "{ran:?}");
    assert_eq!(cli.alice(&["request", "show", &id, "--json"]).json()["state"], "PENDING");
    assert_eq!(cli.alice(&["request", "withdraw", &id]).code, 0);
}

#[test]
fn a_watch_that_breaks_is_taken_up_again() {
    let cli = Cli::start();
    let child = cli.spawn(&["request", "create", "db"]);
    let id = cli.watched();
    cli.api.with(|desk| {
        desk.failures = vec![("watch_request", Status::unavailable("still starting")); 2];
    });
    cli.api.break_watches();
    wait_for("the next watch", || (cli.api.count("watch_request") >= 4).then_some(()));
    cli.run("bob", &["request", "approve", &id]);
    let ran = end(child);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.err.matches("watching again").count(), 1, "said once for an outage: {ran:?}");
    // What will not pass ends the waiting, and says that the request is still there.
    let child = cli.spawn(&["request", "create", "db"]);
    wait_for("the watch", || (cli.api.count("watch_request") >= 5).then_some(()));
    cli.api.with(|desk| desk.failures = vec![("watch_request", Status::permission_denied("not any more"))]);
    cli.api.break_watches();
    let ran = end(child);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("not any more") && ran.err.contains("before its decision"), "{ran:?}");
}

#[test]
fn asking_without_waiting() {
    let cli = Cli::start();
    let ran = cli.alice(&["request", "create", "db", "--no-wait", "--request-id", "mine", "--json"]);
    assert_eq!((ran.code, ran.json()["state"].as_str()), (0, Some("PENDING")), "{ran:?}");
    assert_eq!(cli.api.with(|desk| desk.asked[0].request_id.clone()), "mine");
    let dry = cli.alice(&["request", "create", "auto", "--dry-run"]);
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(dry.out.contains("(dry run): approved") && dry.out.contains("nobody has to agree"), "{dry:?}");
    assert!(cli.api.with(|desk| desk.grants.is_empty()));
    let auto = cli.alice(&["request", "create", "auto", "--for", "15m"]);
    assert_eq!(auto.code, 0);
    assert!(auto.out.contains("ends in 15m"), "{auto:?}");
    let unknown = cli.alice(&["request", "create", "nothing"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("no such entitlement"), "{unknown:?}");
    cli.api.with(|desk| desk.failures = vec![("create_request", Status::unavailable("the store is away"))]);
    let lost = cli.alice(&["request", "create", "db", "--request-id", "again"]);
    assert_eq!(lost.code, 6, "{lost:?}");
    assert!(lost.err.contains("--request-id again"), "{lost:?}");
    assert_eq!(cli.api.count("watch_request"), 0);
}

#[test]
fn requests_are_listed_by_what_one_has_to_do_with_them() {
    let cli = Cli::start();
    let ids: Vec<String> = ["user:alice", "user:bob", "user:alice"]
        .iter()
        .map(|who| cli.api.with(|desk| desk.pending(who, "db")))
        .collect();
    cli.run("carol", &["request", "approve", &ids[2]]);
    let list = |who: &str, args: &[&str]| -> Vec<String> {
        let ran = cli.run(who, &[&["request", "ls", "--json"], args].concat());
        ran.json().as_array().unwrap().iter().map(|found| found["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list("alice", &[]), ids);
    assert_eq!(list("alice", &["--mine"]), [ids[0].clone(), ids[2].clone()]);
    assert_eq!(list("alice", &["--mine", "--state", "pending"]), [ids[0].clone()]);
    assert_eq!(list("alice", &["--reviewable"]), [ids[1].clone()]);
    assert_eq!(list("carol", &["--reviewed"]), [ids[2].clone()]);
    assert_eq!(list("alice", &["--state", "approved"]), [ids[2].clone()]);
    let cut = cli.alice(&["request", "ls", "--limit", "2"]);
    assert!(cut.out.lines().count() == 3 && cut.err.contains("more than 2"), "{cut:?}");
    assert_eq!(cli.alice(&["request", "ls", "--mine", "--reviewable"]).code, 2);
    let empty = cli.run("zoe", &["request", "ls", "--mine"]);
    assert_eq!(empty.out, "no requests\n");
}

#[test]
fn ensure_uses_waits_or_asks() {
    let cli = Cli::start();
    // Neither too short, nor another's, nor from elsewhere, nor scheduled.
    cli.api.with(|desk| {
        desk.grant("short", "user:alice", "db", 60);
        desk.grant("bobs", "user:bob", "db", 7200);
        desk.grant("other", "user:alice", "web", 7200);
        desk.grant("later", "user:alice", "db", 7200);
        let later = desk.grants.get_mut("later").unwrap();
        later.set_state(v1::GrantState::Scheduled);
        later.not_before = now_plus(600);
    });
    let child = cli.spawn(&["ensure", "db", "--reason", "x", "--json"]);
    let id = cli.watched();
    // A second one waits for the first one's request.
    let second = cli.spawn(&["ensure", "db", "--json"]);
    wait_for("the second watch", || (cli.api.count("watch_request") > 1).then_some(()));
    cli.run("bob", &["request", "approve", &id]);
    let (first, second) = (end(child), end(second));
    assert_eq!((first.code, second.code), (0, 0), "{first:?} {second:?}");
    assert_eq!(cli.api.count("create_request"), 1);
    let grant = first.json()["id"].clone();
    assert_eq!(second.json()["id"], grant);
    // And now there is one.
    let third = cli.alice(&["ensure", "db", "--json"]);
    assert_eq!((third.code, &third.json()["id"]), (0, &grant));
    let text = cli.alice(&["ensure", "db"]);
    assert!(text.out.contains("orders.example /db/**, ends in"), "{text:?}");
    let short = cli.alice(&["ensure", "db", "--min-left", "3h", "--no-wait", "--json"]);
    assert_eq!((short.code, short.json()["state"].as_str()), (5, Some("PENDING")), "{short:?}");
    let denied = cli.spawn(&["ensure", "db", "--min-left", "3h"]);
    wait_for("the third watch", || (cli.api.count("watch_request") > 2).then_some(()));
    let id = short.json()["id"].as_str().unwrap().to_owned();
    cli.run("bob", &["request", "deny", &id]);
    assert_eq!(end(denied).code, 3);
    let auto = cli.alice(&["ensure", "auto"]);
    assert_eq!(auto.code, 0, "{auto:?}");
}

#[test]
fn ensure_is_done_when_there_is_access_and_not_before() {
    let cli = Cli::start();
    let begin = |grant: &str, state: v1::GrantState, seconds: i64| {
        cli.api.with(|desk| {
            let grant = desk.grants.get_mut(grant).unwrap();
            grant.set_state(state);
            grant.not_before = now_plus(seconds);
        });
    };
    let id = cli.api.with(|desk| desk.pending("user:alice", "db"));
    let child = cli.spawn(&["ensure", "db", "--start", "+1h"]);
    cli.watched();
    // Approved, and it begins later.
    cli.api.with(|desk| {
        desk.grant("g-later", "user:alice", "db", 7200);
        let request = desk.requests.get_mut(&id).unwrap();
        request.grant = "g-later".into();
        request.set_state(RequestState::Approved);
        let grant = desk.grants.get_mut("g-later").unwrap();
        grant.set_state(v1::GrantState::Scheduled);
        grant.not_before = now_plus(3600);
    });
    let ran = end(child);
    assert!(ran.code == 5 && ran.out.contains("no access yet: it begins in 1h"), "{ran:?}");
    // Asked again, it is the same, and nobody is asked.
    let again = cli.alice(&["ensure", "db", "--start", "+1h", "--json"]);
    assert_eq!((again.code, again.json()["id"].as_str()), (5, Some("g-later")), "{again:?}");
    assert_eq!(cli.api.count("create_request"), 0);
    // Whoever needs access now has to ask.
    let now = cli.alice(&["ensure", "db", "--no-wait", "--json"]);
    assert_eq!((now.code, now.json()["state"].as_str()), (5, Some("PENDING")), "{now:?}");
    begin("g-later", v1::GrantState::Active, -1);
    assert_eq!(cli.alice(&["ensure", "db"]).code, 0);
    let auto = cli.alice(&["ensure", "auto", "--json"]).json()["id"].as_str().unwrap().to_owned();
    begin(&auto, v1::GrantState::Revoked, -1);
    assert_eq!(cli.alice(&["ensure", "auto"]).code, 0, "a new one");
}

#[test]
fn grants_are_extended_ended_and_given_back() {
    let cli = Cli::start();
    cli.api.with(|desk| {
        for (id, subject, entitlement) in [
            ("a1", "user:alice", "db"),
            ("a2", "user:alice", ""),
            ("b1", "user:bob", "db"),
            ("b2", "user:bob", "web"),
            ("c1", "user:carol", "web"),
        ] {
            desk.grant(id, subject, entitlement, 600);
        }
    });
    let ids = || cli.api.with(|desk| desk.grants.keys().cloned().collect::<Vec<_>>().join(" "));
    let direct = cli.alice(&["grant", "extend", "a2", "--for", "1h"]);
    assert!(direct.code == 0 && direct.out.contains("extended a2"), "{direct:?}");
    let child = cli.spawn(&["grant", "extend", "a1", "--for", "1h", "--reason", "more"]);
    let id = cli.watched();
    cli.run("bob", &["request", "approve", &id]);
    let extended = end(child);
    assert!(extended.code == 0 && extended.out.contains("ends in 1h"), "{extended:?}");
    let listed = cli.alice(&["grant", "ls", "--entitlement", "web", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    // Without a terminal nobody can be asked back.
    for args in [&["--everything"][..], &["--entitlement", "web"]] {
        let refused = cli.alice(&[&["grant", "revoke"], args].concat());
        assert_eq!((refused.code, refused.err.contains("add --yes")), (2, true), "{refused:?}");
    }
    let dry = cli.alice(&["grant", "revoke", "--entitlement", "web", "--dry-run"]);
    assert_eq!(dry.out, "would revoke b2\nwould revoke c1\n");
    assert_eq!(ids(), "a1 a2 b1 b2 c1");
    assert_eq!(
        cli.alice(&["grant", "revoke", "--subject", "user:bob", "--reason", "left"]).out,
        "revoked b1\nrevoked b2\n"
    );
    assert_eq!(
        cli.alice(&["grant", "revoke", "--entitlement", "web", "--yes", "--json"]).json()["revoked"],
        json!(["c1"])
    );
    assert_eq!(cli.alice(&["grant", "drop"]).code, 2);
    assert_eq!(cli.alice(&["grant", "drop", "a1"]).out, "gave back a1\n");
    cli.api.with(|desk| desk.grant("b3", "user:bob", "", 600));
    assert_eq!(cli.alice(&["grant", "drop", "--all"]).out, "gave back a2\n");
    assert_eq!(ids(), "b3");
    assert_eq!(cli.alice(&["grant", "revoke", "--everything", "--yes"]).out, "revoked b3\n");
    let gone = cli.alice(&["grant", "revoke", "b3"]);
    assert!(gone.code == 1 && gone.err.contains("no such grant"), "{gone:?}");
    assert_eq!(cli.alice(&["grant", "revoke", "--subject", "user:x", "--everything"]).code, 2);
}

#[test]
fn locks() {
    let cli = Cli::start();
    let locked = cli.alice(&["lock", "user:mallory", "--message", "laptop stolen", "--ttl", "2d"]);
    assert!(locked.code == 0 && locked.out.contains("locked user:mallory by l-1, ends in 2d"), "{locked:?}");
    let ttl = ["--message", "m", "--ttl", "1h", "--json"];
    let lock = |args: &[&str]| cli.alice(&[&["lock"], args, &ttl].concat());
    assert_eq!(lock(&["--principal", "group:dev"]).json()["principal"], "group:dev");
    assert_eq!(lock(&["--entitlement", "db"]).json()["entitlement"], "db");
    assert_eq!(lock(&["--everything"]).json()["everything"], true);
    for wrong in [&[][..], &["user:a", "--everything"], &["user:a", "--principal", "user:b"]] {
        assert_eq!(lock(wrong).code, 2, "{wrong:?}");
    }
    assert_eq!(cli.alice(&["lock", "user:a", "--ttl", "1h"]).code, 2);
    assert_eq!(cli.alice(&["lock", "user:a", "ls"]).code, 2, "it would look as if it had locked");
    let list = cli.alice(&["lock", "ls"]);
    assert!(
        list.code == 0 && list.out.contains("laptop stolen") && list.out.lines().count() == 5,
        "{list:?}"
    );
    assert_eq!(cli.alice(&["lock", "--json", "ls"]).json().as_array().unwrap().len(), 4);
    assert!(cli.alice(&["unlock", "l-1"]).out.contains("unlocked user:mallory"));
    assert_eq!(cli.alice(&["unlock", "l-1"]).code, 1);
}

#[test]
fn what_there_is_who_one_is_and_emergencies() {
    let cli = Cli::start();
    cli.api.with(|desk| {
        desk.entitlements.push(v1::Entitlement {
            name: "db".into(),
            description: "read orders".into(),
            max_ttl: Some(prost_types::Duration { seconds: 8 * 3600, nanos: 0 }),
            approvals_required: 2,
            can_request: true,
            can_break_glass: true,
            ..Default::default()
        });
    });
    let list = cli.alice(&["entitlements"]);
    assert!(list.out.contains("request, break-glass") && list.out.contains("8h"), "{list:?}");
    assert_eq!(cli.alice(&["entitlements", "--json"]).json()[0]["max_ttl"], 28800);
    assert!(cli.alice(&["entitlements", "db"]).out.contains("read orders"));
    assert_eq!(cli.alice(&["entitlements", "none"]).code, 1);
    let me = cli.alice(&["whoami"]);
    assert!(me.out.starts_with("user:alice\n") && me.out.contains("group:dev"), "{me:?}");
    assert_eq!(cli.alice(&["break-glass", "db"]).code, 2, "a reason is required");
    let glass = cli.alice(&["break-glass", "db", "--reason", "fire", "--for", "10m", "--json"]);
    assert_eq!((glass.code, &glass.json()["break_glass"]), (0, &json!(true)));
}

#[test]
fn explain_is_a_page_and_an_exit_status() {
    let cli = Cli::start();
    cli.api.with(|desk| {
        desk.explanation = v1::ExplainAccessResponse {
            reason: "no_grant".into(),
            message: "no grant covers it".into(),
            standings: vec![v1::GrantStanding {
                grant: "g-7".into(),
                why_not: "another host".into(),
                expires_at: now_plus(600),
                ..Default::default()
            }],
            offers: vec![v1::Offer {
                entitlement: "db".into(),
                eligible: true,
                approvals_required: 2,
                command: "daypass request create db".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
    });
    let denied = cli.alice(&["explain", "user:bob", "https://orders.example/db/x?y", "--method", "post"]);
    assert_eq!(denied.code, 3, "{denied:?}");
    for part in [
        "denied: POST orders.example/db/x",
        "no grant covers it (no_grant)",
        "g-7: another host; ends in 10m",
        "2 persons must agree",
        "    daypass request create db\n",
    ] {
        assert!(denied.out.contains(part), "{part}: {denied:?}");
    }
    let asked = cli.api.with(|desk| desk.explained[0].clone());
    assert_eq!((asked.principal.as_str(), asked.host.as_str()), ("user:bob", "orders.example"));
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/db/x"));
    cli.api.with(|desk| {
        desk.explanation = v1::ExplainAccessResponse {
            allowed: true,
            grant: "g-8".into(),
            expires_at: now_plus(60),
            ..Default::default()
        };
    });
    let allowed = cli.alice(&["explain", "orders.example"]);
    assert!(allowed.code == 0 && allowed.out.contains("g-8"), "{allowed:?}");
    assert_eq!(cli.api.with(|desk| desk.explained[1].principal.clone()), "");
    assert_eq!(cli.alice(&["explain", "orders.example", "--json"]).json()["allowed"], true);
    assert_eq!(cli.alice(&["explain"]).code, 2);
    assert_eq!(cli.alice(&["explain", "/db"]).code, 2);
}

#[test]
fn tables_fit_a_narrow_terminal_and_are_whole_elsewhere() {
    let cli = Cli::start();
    cli.api.with(|desk| {
        desk.grant("g-1", "user:alice", "db", 2520);
        desk.grants.get_mut("g-1").unwrap().permissions[0].paths = vec![format!("/{}", "long/".repeat(40))];
    });
    let whole = cli.alice(&["grant", "ls"]).out;
    assert!(whole.contains(&"long/".repeat(40)) && !whole.contains('…'), "{whole}");
    for columns in [30, 50, 80] {
        let output =
            cli.command("alice", &["grant", "ls"]).env("COLUMNS", columns.to_string()).output().unwrap();
        let cut = String::from_utf8(output.stdout).unwrap();
        assert!(cut.lines().all(|line| line.chars().count() <= columns), "{cut}");
        assert!(cut.lines().count() == 2 && cut.contains("g-1") && cut.contains("in 42m"), "{cut}");
    }
}

#[test]
fn what_a_server_says_does_not_move_the_cursor() {
    let cli = Cli::start();
    let evil = "\u{1b}[2J\u{9b}31m\u{202e}x\r\nfake line\u{7}";
    cli.api.with(|desk| {
        let id = desk.pending("user:alice", "db");
        desk.requests.get_mut(&id).unwrap().justification = evil.into();
        desk.requests.get_mut(&id).unwrap().approvers = vec![evil.into()];
        desk.grant("g-1", evil, "db", 600);
        desk.event("grant.created", evil, evil);
        desk.explanation =
            v1::ExplainAccessResponse { message: evil.into(), lock: evil.into(), ..Default::default() };
        desk.entitlements.push(v1::Entitlement {
            name: evil.into(),
            description: evil.into(),
            ..Default::default()
        });
    });
    let commands: [&[&str]; 11] = [
        &["request", "ls"],
        &["request", "show", "r-1"],
        &["request", "wait", "r-1", "--timeout", "200ms"],
        &["grant", "ls"],
        &["grant", "show", "g-1"],
        &["grant", "ls", "--json"],
        &["events"],
        &["audit", "export"],
        &["explain", "h"],
        &["entitlements"],
        &["request", "ls", "--json"],
    ];
    for args in commands {
        let ran = cli.alice(args);
        let all = format!("{}{}", ran.out, ran.err);
        assert!(!all.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{args:?}: {all:?}");
        assert!(!all.lines().any(|line| line.starts_with("fake")), "{args:?}: {all:?}");
    }
    assert_eq!(cli.alice(&["grant", "show", "g-1"]).json()["subject"], evil, "JSON loses nothing");
    // Whatever calls itself by such a name.
    cli.api.with(|desk| desk.requests.get_mut("r-1").unwrap().id = evil.into());
    let named = cli.alice(&["request", "wait", "r-1", "--timeout", "200ms"]);
    let is_bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!named.err.chars().any(is_bad) && !named.err.contains("\nfake"), "{named:?}");
    cli.api.with(|desk| desk.failures.push(("get_caller", Status::internal(evil))));
    let error = cli.alice(&["whoami"]);
    assert!(
        error.code == 1 && error.err.contains("\\u{1b}[2J") && error.err.lines().count() == 1,
        "{error:?}"
    );
}

fn happen(cli: &Cli, count: usize) {
    cli.api.with(|desk| {
        for number in 0..count {
            let kind = if number % 2 == 0 { "grant.created" } else { "request.created" };
            desk.event(kind, &format!("user:u{}", number % 3), "because");
        }
    });
}

#[test]
fn events_for_people_and_programs() {
    let cli = Cli::start();
    assert_eq!(cli.alice(&["events"]).out, "no events\n");
    happen(&cli, 250);
    let numbers = |args: &[&str]| -> Vec<u64> {
        let found = cli.alice(&[&["events", "--json"], args].concat()).json();
        found.as_array().unwrap().iter().map(|event| event["number"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&[]), (201..=250).collect::<Vec<_>>(), "the last");
    assert_eq!(numbers(&["--last", "2"]), [249, 250]);
    assert_eq!(numbers(&["--after", "10", "--last", "3"]), [11, 12, 13]);
    assert_eq!(numbers(&["--type", "grant.*", "--last", "2"]), [247, 249]);
    assert_eq!(numbers(&["--type", "request.created", "--subject", "user:u1", "--last", "1"]), [248]);
    let table = cli.alice(&["events", "--last", "1"]).out;
    assert!(table.contains("3m ago") && table.contains("request.created"), "{table}");
}

#[test]
fn followed_events_come_as_they_happen_and_once_each() {
    let cli = Cli::start();
    happen(&cli, 5);
    let out = cli.home.path().join("out");
    let file = std::fs::File::create(&out).unwrap();
    let mut child = cli
        .command("alice", &["events", "--follow", "--json", "--last", "2"])
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let numbers = || -> Vec<u64> {
        let text = std::fs::read_to_string(&out).unwrap();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        whole.map(|event| event["number"].as_u64().unwrap()).collect()
    };
    wait_for("the watch", || (cli.api.count("watch_events") > 0).then_some(()));
    happen(&cli, 1);
    wait_for("the sixth", || (numbers().len() == 3).then_some(()));
    cli.api.break_watches();
    happen(&cli, 2);
    wait_for("the eighth", || (numbers().len() >= 5).then_some(()));
    assert_eq!(numbers(), [4, 5, 6, 7, 8]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_record_is_verified_by_the_api_and_by_its_export() {
    let cli = Cli::start();
    let none = cli.alice(&["audit", "verify"]);
    assert!(none.code == 1 && none.out.contains("ask an auditor"), "wiped, or not to be seen: {none:?}");
    let new = cli.alice(&["audit", "verify", "--allow-empty"]);
    assert!(new.code == 0 && new.out.starts_with("no events"), "{new:?}");
    happen(&cli, 250);
    let good = cli.alice(&["audit", "verify"]);
    assert!(good.code == 0 && good.out.contains("250 events, 1 to 250"), "{good:?}");
    let export = cli.alice(&["audit", "export"]).out;
    let lines: Vec<&str> = export.lines().collect();
    let verify = |lines: &[&str], more: &[&str]| {
        let path = write_file(cli.home.path(), "export.jsonl", &lines.join("\n"));
        // Without an API anywhere.
        let output = binary().args(["audit", "verify", &path, "--json"]).args(more).output().unwrap();
        let ran = Ran::of(&output);
        (ran.code, ran.json()["break"]["kind"].as_str().map(str::to_owned), ran.json())
    };
    let kind = |kind: &str| Some(kind.to_owned());
    let (code, broken, report) = verify(&lines, &[]);
    assert_eq!((code, broken, &report["good"]), (0, None, &json!(250)));
    let head = report["head"].as_str().unwrap().to_owned();
    assert_eq!(verify(&lines, &["--anchor", &head]).0, 0);
    let (code, _, report) = verify(&lines[..249], &["--anchor", &head]);
    assert_eq!((code, &report["break"]["kind"]), (1, &json!("anchor_missing")), "the end was cut off");
    let (code, broken, report) = verify(&lines[100..], &[]);
    assert_eq!((code, broken, &report["first"]), (1, kind("trimmed"), &json!(101)));
    let (code, broken, report) = verify(&lines[100..], &["--allow-trimmed"]);
    assert_eq!((code, broken, &report["trimmed"]), (0, None, &json!(true)));
    let anchor = |number: usize| {
        let event: Value = serde_json::from_str(lines[number - 1]).unwrap();
        format!("{number}:{}", event["hash"].as_str().unwrap())
    };
    assert_eq!(verify(&lines[100..], &["--anchor", &anchor(100)]).0, 0);
    assert_eq!(verify(&lines[100..], &["--anchor", &anchor(250)]).1, kind("trimmed"));
    // The true hash beside a document that was never written.
    let forged = lines[100].replace("because", "no reason");
    assert_eq!(verify(&[&forged], &["--anchor", &anchor(101)]).1, kind("anchor_unproven"));
    let lenient = ["--anchor", &anchor(101), "--allow-trimmed"];
    assert_eq!(verify(&[&forged], &lenient).1, kind("anchor_unproven"));
    assert_eq!(verify(&[&forged], &["--anchor", &anchor(100)]).1, kind("document_or_hash"));
    let mut changed = lines.clone();
    changed.remove(9);
    let (code, broken, report) = verify(&changed, &[]);
    assert_eq!(
        (code, broken, &report["break"]["at"], &report["good"]),
        (1, kind("gap"), &json!(10), &json!(9))
    );
    changed = lines.clone();
    changed.swap(20, 21);
    assert_eq!(verify(&changed, &[]).1, kind("gap"));
    changed = lines.clone();
    changed.insert(20, lines[19]);
    assert_eq!(verify(&changed, &[]).1, kind("order"));
    let edited = lines[30].replace("because", "no reason");
    changed = lines.clone();
    changed[30] = &edited;
    assert_eq!(verify(&changed, &[]).1, kind("document"));
    changed[30] = "{\"number\": 31}";
    assert_eq!(verify(&changed, &[]).1, kind("line"));
    let contradiction = format!("250:{}", "0".repeat(64));
    assert_eq!(cli.alice(&["audit", "verify", "--anchor", &contradiction, "--anchor", &head]).code, 2);
    let path = write_file(cli.home.path(), "empty.jsonl", "\n\n");
    assert_eq!(cli.alice(&["audit", "verify", &path]).code, 1, "cut to nothing");
    assert_eq!(cli.alice(&["audit", "verify", "/nonexistent"]).code, 1);
    assert_eq!(cli.alice(&["audit", "verify", "--anchor", "x"]).code, 2);
    cli.api.with(|desk| desk.events[99].document.push(' '));
    let bad = cli.alice(&["audit", "verify"]);
    assert!(
        bad.code == 1 && bad.out.contains("the document of event 100") && bad.out.contains("1 to 99"),
        "{bad:?}"
    );
}

#[test]
fn a_record_of_which_one_sees_a_part_is_not_good() {
    let cli = Cli::start();
    happen(&cli, 250);
    let verify = |change: &dyn Fn(&mut Vec<v1::Event>)| {
        let events = cli.api.with(|desk| desk.events.clone());
        cli.api.with(|desk| {
            desk.head = Some(250);
            change(&mut desk.events);
        });
        let ran = cli.alice(&["audit", "verify"]);
        let kind = cli.alice(&["audit", "verify", "--json"]).json()["break"]["kind"].clone();
        cli.api.with(|desk| desk.events = events);
        assert!(ran.code == 1 && ran.out.contains("you may not see all of it: ask an auditor"), "{ran:?}");
        kind
    };
    assert_eq!(verify(&|events| drop(events.remove(99))), "gap");
    assert_eq!(verify(&|events| drop(events.remove(0))), "trimmed");
    assert_eq!(verify(&|events| drop(events.pop())), "end_missing");
    assert_eq!(verify(&|events| events.truncate(100)), "end_missing");
    assert_eq!(verify(&Vec::clear), "end_missing");
    assert_eq!(cli.alice(&["audit", "verify"]).code, 0);
}

/// A file that nothing more fits into.
#[test]
fn a_record_that_was_not_written_whole_is_a_failure() {
    let cli = Cli::start();
    happen(&cli, 300);
    cli.api.with(|desk| desk.grant("g-1", "user:alice", "db", 600));
    let policy = write_file(cli.home.path(), "p.rego", "package p\nx := 1\n");
    let data_dir = cli.home.path().join("data").display().to_string();
    let commands: [&[&str]; 9] = [
        &["audit", "export"],
        &["audit", "tail", "--no-follow"],
        &["audit", "verify"],
        &["grant", "ls"],
        &["events", "--follow"],
        &["token", "create", "--principal", "user:x", "--data-dir", &data_dir],
        &["token", "ls", "--data-dir", &data_dir],
        &["policy", "check", &policy],
        &["completions", "bash"],
    ];
    for args in commands {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = cli.command("alice", args).stdout(full).output().unwrap();
        let ran = Ran::of(&output);
        assert!(ran.code == 1 && ran.err.contains("standard output cannot be written"), "{args:?}: {ran:?}");
        // Nobody to tell it to is no reason to panic.
        let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mute = cli.command("alice", args).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(mute.code(), Some(1), "{args:?}");
    }
}

#[test]
fn a_new_token_is_alone_on_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = binary();
        let args = [&["token"], args, &["--data-dir", dir.path().to_str().unwrap()]].concat();
        Ran::of(&command.args(args).output().unwrap())
    };
    for _ in 0..2 {
        let made = run(&["create", "--principal", "user:x"]);
        let token = made.out.strip_suffix('\n').unwrap();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(made.code == 0 && token.len() > 40 && token.chars().all(is_plain), "{made:?}");
        assert!(!made.err.contains(token) && made.err.contains("not shown again"), "{made:?}");
    }
    assert!(run(&["ls"]).out.contains("user:x"));
}

#[test]
fn exports() {
    let cli = Cli::start();
    happen(&cli, 3);
    let events =
        cli.alice(&["audit", "export", "--format", "cloudevents", "--after", "1", "--source", "urn:jit"]).out;
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["type"], "io.daypass.request.created");
    assert_eq!(
        (&events[0]["id"], &events[0]["specversion"], &events[0]["source"]),
        (&json!("2"), &json!("1.0"), &json!("urn:jit"))
    );
    assert_eq!(events[0]["data"]["reason"], "because");
    let tail = cli.alice(&["audit", "tail", "-n", "2", "--no-follow"]).out;
    assert_eq!(tail.lines().count(), 2);
    // A reader that has seen enough is no failure.
    happen(&cli, 2000);
    let mut child = cli.spawn(&["audit", "export"]);
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_login_is_kept_privately_and_used() {
    let cli = Cli::start();
    let file = cli.home.path().join("daypass/client.json");
    let login = |token: &str, args: &[&str]| {
        let mut command = cli.command("", &["login", "--api", &cli.url()]);
        let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may have ended before it read anything.
        let _ = child.stdin.take().unwrap().write_all(token.as_bytes());
        end(child)
    };
    let whoami = |extra: &[(&str, &str)], args: &[&str]| {
        let mut command = cli.command("", &[&["whoami", "--json"], args].concat());
        command.env_remove("DAYPASS_API").envs(extra.iter().copied());
        let ran = Ran::of(&command.output().unwrap());
        if ran.code == 0 {
            ran.json()["subject"].as_str().unwrap().to_owned()
        } else {
            format!("{} {}", ran.code, ran.err)
        }
    };
    assert_eq!(login("", &[]).code, 2, "says how");
    let refused = login("bad\n", &["--token-stdin"]);
    assert!(refused.code == 1 && refused.err.contains("not logged in") && !file.exists(), "{refused:?}");
    let good = login("alice\n", &["--token-stdin"]);
    assert!(good.code == 0 && good.out.contains("as user:alice"), "{good:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(whoami(&[], &[]), "user:alice");
    let token_file = |name: &str| {
        let path = write_file(cli.home.path(), name, name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (from_env, from_flag) = (token_file("fileenv"), token_file("flag"));
    let env = [("DAYPASS_TOKEN_FILE", from_env.as_str()), ("DAYPASS_TOKEN", "direct")];
    assert_eq!(whoami(&env[..1], &[]), "user:fileenv");
    assert_eq!(whoami(&env, &[]), "user:direct");
    assert_eq!(whoami(&env, &["--token-file", &from_flag]), "user:flag");
    // Another API is not shown what is kept for this one.
    let other = FakeApi::start();
    let elsewhere =
        whoami(&[("DAYPASS_DATA_DIR", "/nonexistent")], &["--api", &format!("http://{}", other.address)]);
    assert!(elsewhere.contains("the login is for"), "{elsewhere}");
    assert_eq!(other.count(""), 0);
    // A file that others can read is no secret any more.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(whoami(&[], &[]).contains("can be read by others"));
    // One of somebody else may say what is to be run.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    if std::os::unix::fs::chown(&file, Some(65534), None).is_ok() {
        let ran = cli.home.path().join("ran");
        let text =
            format!(r#"{{"api": "{}", "token_command": "touch {}; echo x"}}"#, cli.url(), ran.display());
        std::fs::write(&file, text).unwrap();
        assert!(whoami(&[], &[]).contains("belongs to somebody else"));
        assert!(!ran.exists());
        std::fs::remove_file(&file).unwrap();
    }
    let relogin = login("", &["--token-command", "echo carol"]);
    assert_eq!(relogin.code, 0, "{relogin:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(whoami(&[], &[]), "user:carol");
    assert_eq!(cli.run("", &["logout"]).out, "logged out\n");
    assert!(!file.exists());
    assert!(
        whoami(&[("DAYPASS_DATA_DIR", "/nonexistent")], &["--api", &cli.url()])
            .starts_with("1 daypass: no token")
    );
    assert_eq!(login("dave\n", &["--token-stdin", "--token-command", "x"]).code, 2);
}

#[test]
fn a_token_command_runs_again_when_its_token_is_refused() {
    let cli = Cli::start();
    let claims = data_encoding::BASE64URL_NOPAD.encode(b"{\"exp\":99999999999}");
    // Prints another token each time.
    let script = format!(
        "n=$(cat '{0}/n' 2>/dev/null || echo 0); echo $((n+1)) > '{0}/n'; echo \"t$n.{claims}.s\"",
        cli.home.path().display()
    );
    let run = |args: &[&str]| {
        let mut command = cli.command("", args);
        Ran::of(&command.env_remove("DAYPASS_API").output().unwrap())
    };
    let url = cli.url();
    let login = run(&["login", "--api", &url, "--token-command", &script]);
    assert_eq!(login.code, 0, "{login:?}");
    let subject = || run(&["whoami", "--json"]).json()["subject"].as_str().unwrap().to_owned();
    let first = subject();
    assert_eq!(subject(), first, "kept until it expires");
    cli.api.with(|desk| desk.failures.push(("get_caller", Status::unauthenticated("revoked"))));
    assert_ne!(subject(), first, "and fetched again if it is refused");
    cli.api.with(|desk| desk.failures = vec![("get_caller", Status::unauthenticated("revoked")); 5]);
    assert_eq!(run(&["whoami"]).code, 1, "not for ever");
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let cli = Cli::start();
    let nowhere = Ran::of(
        &cli.command("alice", &["grant", "ls"]).env("DAYPASS_API", "http://127.0.0.1:1").output().unwrap(),
    );
    assert_eq!(nowhere.code, 6, "{nowhere:?}");
    assert!(nowhere.err.contains("no API at http://127.0.0.1:1; is `daypass serve` running"), "{nowhere:?}");
    for (args, code, message) in [
        (&["grant", "ls", "--api", "http://jit.example:1"][..], 2, "in clear"),
        (&["grant", "ls", "--api", "https://jit example"], 2, "is not a URL"),
        (&["grant", "ls", "--cert-file", "/x"], 2, "go together"),
        (
            &["grant", "ls", "--api", "https://127.0.0.1:1", "--ca-file", "/nonexistent"],
            1,
            "--ca-file: /nonexistent",
        ),
        (&["request", "show", "nope"], 1, "no such request (Some requested entity was not found)"),
        (&["request", "create", "db", "--for", "soon"], 2, "is not a duration"),
        (&["request", "create", "db", "--start", "tomorrow"], 2, "RFC 3339"),
        (&["nonsense"], 2, "unrecognized"),
    ] {
        let ran = cli.alice(args);
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert!(ran.err.contains(message), "{args:?}: {ran:?}");
    }
    let stranger = cli.run("bad", &["whoami"]);
    assert!(stranger.code == 1 && stranger.err.contains("who are you?"), "{stranger:?}");
}

/// Runs on a terminal of its own, on which `input` is typed. What the terminal shows.
fn on_terminal(cli: &Cli, args: &[&str], input: &str) -> Option<String> {
    let script = tool("script")?;
    let line = format!("{} {}; echo \"status $?\"", env!("CARGO_BIN_EXE_daypass"), args.join(" "));
    let mut command = Command::new(script);
    command.args(["-qec", &line, "/dev/null"]).env("DAYPASS_API", cli.url()).env("DAYPASS_TOKEN", "alice");
    command.env("XDG_CONFIG_HOME", cli.home.path()).env_remove("COLUMNS");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_terminal_has_a_line_that_lives_and_is_asked_back() {
    let cli = Cli::start();
    cli.api.with(|desk| {
        desk.pending("user:alice", "two");
        desk.grant("b1", "user:bob", "db", 600);
    });
    let Some(shown) = on_terminal(&cli, &["request", "wait", "r-1", "--timeout", "2500ms"], "") else {
        return;
    };
    assert!(shown.matches("\r\u{1b}[Kwaiting: request r-1, 0 of 2 approvals").count() >= 2, "{shown:?}");
    assert!(shown.contains("; expires in 3h 59m") && shown.contains("status 5"), "{shown:?}");
    let no = on_terminal(&cli, &["grant", "revoke", "--everything"], "n\n").unwrap();
    assert!(no.contains("revoke the 1 grant of everybody? [y/N]") && no.contains("status 1"), "{no:?}");
    assert_eq!(cli.api.with(|desk| desk.grants.len()), 1);
    let yes = on_terminal(&cli, &["grant", "revoke", "--subject", "user:bob"], "y\n").unwrap();
    assert!(yes.contains("revoked b1") && yes.contains("status 0"), "{yes:?}");
}

#[test]
fn completions_and_help() {
    for shell in ["bash", "zsh", "fish"] {
        let output = binary().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("break-glass"), "{shell}");
    }
    let help = binary().arg("--help").output().unwrap();
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit statuses:"));
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "docs/cli.md"].iter().collect();
    let document = std::fs::read_to_string(path).unwrap();
    // Every command that is shown is one.
    let commands = document.lines().filter_map(|line| line.strip_prefix("    $ daypass "));
    let mut count = 0;
    for command in commands {
        count += 1;
        let words: Vec<&str> =
            command.split_whitespace().take_while(|word| !word.starts_with(['-', '|', '#'])).collect();
        let known = (1..=words.len().min(2)).any(|count| {
            let output = binary().args(&words[..count]).arg("--help").output().unwrap();
            output.status.success()
        });
        assert!(known, "{command}");
    }
    assert!(count > 20, "{count}");
}
