//! A policy that changes while checks are decided by it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::bundle_server::{BundleServer, Reply, conditional, pack, response};
use crate::support::daypass::{Daypass, run, write_file};
use crate::support::request::{alice, is_allow, reason, upstream_header};
use crate::support::wait_for;

/// Two files and a document that all say which version they are of; the answer names all three.
fn write_version(dir: &Path, version: u64) {
    let name = format!("v{version}");
    write_file(
        dir,
        &format!("{name}/authz.rego"),
        &format!(
            "package envoy.authz\n\nimport data.lib\n\nallow := {{\"allowed\": true, \"grants\": [], \"headers\": \
             {{\"x-rule\": \"{version}\", \"x-lib\": lib.version, \"x-data\": data.version}}}}\n"
        ),
    );
    write_file(dir, &format!("{name}/lib.rego"), &format!("package lib\n\nversion := \"{version}\"\n"));
    write_file(dir, &format!("{name}/data.json"), &format!("{{\"version\": \"{version}\"}}"));
    point_to(dir, &name);
}

/// All at once, as a mounted ConfigMap changes.
fn point_to(dir: &Path, name: &str) {
    let next = dir.join("next");
    symlink(name, &next).unwrap();
    std::fs::rename(next, dir.join("current")).unwrap();
}

fn policy_report(server: &Daypass) -> Value {
    let (status, body) = server.ops("/readyz");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["policy"].clone()
}

/// The three parts of one answer, which must be of one version.
async fn version(client: &mut crate::support::daypass::Client) -> u64 {
    let answer = client.check(alice()).await;
    assert!(is_allow(&answer), "{answer:?}");
    let part = |name: &str| upstream_header(&answer, name).unwrap().parse::<u64>().unwrap();
    let (rule, lib, data) = (part("x-rule"), part("x-lib"), part("x-data"));
    assert!(rule == lib && lib == data, "a mixed answer: {rule} {lib} {data}");
    rule
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_drop_no_check_and_mix_no_answer() {
    const SWAPS: u64 = 200;
    const BROKEN_EVERY: u64 = 10;
    const CHECKS_A_SECOND: u64 = 500;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    write_version(dir.path(), 1);
    let current = dir.path().join("current").display().to_string();
    let server = Arc::new(Daypass::start_in(&dir, &["--policy", &current]));
    let (stop, in_force) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1)));
    let load = tokio::spawn({
        let (server, stop, in_force) = (Arc::clone(&server), Arc::clone(&stop), Arc::clone(&in_force));
        async move {
            // Connections on both workers.
            let mut clients = [server.client().await, server.client().await];
            let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / CHECKS_A_SECOND));
            let mut times = Vec::new();
            while !stop.load(Ordering::Acquire) {
                ticks.tick().await;
                let at_least = in_force.load(Ordering::Acquire);
                let index = times.len() % clients.len();
                let began = Instant::now();
                let found = version(&mut clients[index]).await;
                times.push(began.elapsed());
                assert!(found >= at_least, "{found} was answered after {at_least} was in force");
            }
            times
        }
    });
    let revision_of = |server: &Daypass| policy_report(server)["revision"].clone();
    for swap in 1..=SWAPS {
        if swap % BROKEN_EVERY == 0 {
            let failures = server.metric("daypass_policy_loads_total{result=\"failed\"}");
            write_file(dir.path(), "broken/authz.rego", "package envoy.authz\n\nallow if nowhere(1)\n");
            point_to(dir.path(), "broken");
            server.process.signal("-HUP");
            wait_for("the broken policy to be refused", || {
                (server.metric("daypass_policy_loads_total{result=\"failed\"}") > failures).then_some(())
            });
        }
        // Apart, so that checks of every kind lie between two swaps.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let before = revision_of(&server);
        write_version(dir.path(), swap + 1);
        server.process.signal("-HUP");
        wait_for("the new policy to be in force", || (revision_of(&server) != before).then_some(()));
        in_force.store(swap + 1, Ordering::Release);
    }
    stop.store(true, Ordering::Release);
    let mut times = load.await.unwrap();
    times.sort();
    let at = |part: usize| times[times.len() * part / 1000 - 1];
    println!(
        "{} checks during {SWAPS} swaps and {} broken policies: p50 {:?} p99 {:?} p99.9 {:?} max {:?}",
        times.len(),
        SWAPS / BROKEN_EVERY,
        at(500),
        at(990),
        at(999),
        times[times.len() - 1]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_change_leaves_the_old_policy_and_says_where_it_breaks() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    write_version(dir.path(), 1);
    let file = dir.path().join("v1/authz.rego");
    let current = dir.path().join("v1").display().to_string();
    let config =
        write_file(dir.path(), "daypass.yaml", &format!("policy: [{current}]\npolicy_tests: true\n"));
    let server = Daypass::start_in(&dir, &["--config", &config]);
    let mut client = server.client().await;
    assert_eq!(policy_report(&server)["failures"], 0);
    let good = std::fs::read_to_string(&file).unwrap();
    // No signal here: the files are looked at.
    for (change, place) in [
        (format!("{good}\nother if nowhere(1)\n"), "authz.rego:7:10: unknown function `nowhere`"),
        (
            format!("{good}\ntest_it if data.version == \"2\"\n"),
            "authz.rego:7:1: test data.envoy.authz.test_it failed",
        ),
        ("package".to_owned(), "authz.rego:1:"),
    ] {
        std::fs::write(&file, change).unwrap();
        let error = wait_for("the change to be refused", || {
            let error = policy_report(&server)["error"].as_str().map(str::to_owned);
            error.filter(|error| error.contains(place))
        });
        let line = error.lines().next().unwrap().to_owned();
        wait_for("the log to say so", || server.log().contains(&line).then_some(()));
        assert_eq!(version(&mut client).await, 1);
    }
    assert_eq!(server.metric("daypass_policy_loads_total{result=\"failed\"}"), 3);
    std::fs::write(&file, format!("{good}\ntest_it if data.version == \"1\"\n")).unwrap();
    wait_for("the good change to be in force", || policy_report(&server)["error"].is_null().then_some(()));
    assert_eq!(version(&mut client).await, 1);
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(dir.path().join("v1/lib.rego")).unwrap();
    wait_for("a vanished policy to be refused", || {
        policy_report(&server)["error"]
            .as_str()
            .is_some_and(|error| error.contains("no .rego file"))
            .then_some(())
    });
    assert_eq!(version(&mut client).await, 1);
}

/// Policy that says which revision it is.
fn bundle(revision: u64, rest: &str) -> Vec<u8> {
    pack(&[
        (
            ".manifest",
            &format!("{{\"revision\": \"r{revision}\", \"roots\": [\"envoy\", \"version\", \"lib\"]}}"),
        ),
        ("data.json", &format!("{{\"version\": \"{revision}\"}}")),
        ("lib.rego", &format!("package lib\n\nversion := \"{revision}\"\n")),
        (
            "authz.rego",
            &format!(
                "package envoy.authz\n\nallow := {{\"allowed\": true, \"grants\": [], \"headers\": {{\"x-rule\": \
                 \"{revision}\", \"x-lib\": data.lib.version, \"x-data\": data.version}}}}\n{rest}"
            ),
        ),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_comes_from_a_bundle_server_that_may_be_away() {
    let away = |_: &str| Reply::Bytes(response("503 Service Unavailable", &[], b""));
    let bundles = BundleServer::start(away);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = format!(
        "services: {{s: {{url: \"{}\"}}}}\nbundles:\n  authz:\n    service: s\n    persist: true\n    polling: \
         {{min_delay_seconds: 1, max_delay_seconds: 1}}\n",
        bundles.url()
    );
    let config = write_file(dir.path(), "daypass.yaml", &config);
    let start = || Daypass::start_in(&dir, &["--config", &config]);
    let server = start();
    let report = |server: &Daypass| serde_json::from_str::<Value>(&server.ops("/readyz").1).unwrap();
    let first = wait_for("the bundle's first failure", || {
        let report = report(&server);
        (report["policy"]["bundles"][0]["failures"].as_u64() > Some(0)).then_some(report)
    });
    assert_eq!(
        (&first["ready"], &first["reasons"][0]["component"]),
        (&Value::Bool(false), &"policy".into()),
        "{first}"
    );
    assert_eq!(reason(&server.client().await.check(alice()).await), "policy_error");

    bundles.set(conditional("\"one\"", &bundle(1, "")));
    wait_for("the first bundle", || (report(&server)["ready"] == true).then_some(()));
    assert_eq!(report(&server)["policy"]["revision"], "authz=r1");
    assert_eq!(version(&mut server.client().await).await, 1);

    bundles.set(conditional("\"two\"", &bundle(2, "other if nowhere(1)\n")));
    let refused = wait_for("the broken bundle to be refused", || {
        let report = report(&server);
        report["policy"]["bundles"][0]["error"].is_object().then_some(report)
    });
    let error = refused["policy"]["bundles"][0]["error"]["message"].as_str().unwrap();
    assert!(error.contains("authz/authz.rego:4:10: unknown function `nowhere`"), "{error}");
    assert_eq!(refused["ready"], true);
    assert_eq!(version(&mut server.client().await).await, 1);
    assert_eq!(server.metric("daypass_bundle_failing{bundle=\"authz\"}"), 1);
    let failures = || report(&server)["policy"]["bundles"][0]["failures"].as_u64().unwrap();
    let before = failures();
    wait_for("it to be refused again", || (failures() > before + 2).then_some(()));
    assert_eq!(
        server.log().matches("a changed policy cannot be used").count(),
        1,
        "one line for one refusal"
    );

    bundles.set(conditional("\"three\"", &bundle(3, "")));
    wait_for("the third bundle", || (report(&server)["policy"]["revision"] == "authz=r3").then_some(()));
    assert_eq!(version(&mut server.client().await).await, 3);
    // It is saved after it is in use, and before the server is asked again.
    let requests = || report(&server)["policy"]["bundles"][0]["requests"].as_u64();
    let before = requests();
    wait_for("the third bundle on disk", || (requests() > before).then_some(()));

    // A restart while the server is away begins with what is on disk.
    drop(server);
    bundles.set(away);
    let server = start();
    wait_for("the persisted bundle", || (report(&server)["ready"] == true).then_some(()));
    assert_eq!(version(&mut server.client().await).await, 3);
    let status = run(&["status", "--ops", &format!("http://{}", server.ops)]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success() && text.contains("ready") && text.contains("authz=r3"), "{text}");
}

#[test]
fn status_says_what_is_wrong_and_its_exit_status_too() {
    let server = Daypass::start(&[]);
    let status = |address: &str| {
        let output = run(&["status", "--ops", address]);
        let text =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text)
    };
    let (code, text) = status(&format!("http://{}", server.ops));
    assert!(code == Some(0) && text.contains("policy") && text.contains("built-in"), "{text}");
    let (code, text) = status("http://127.0.0.1:1");
    assert!(code == Some(1) && text.contains("127.0.0.1:1"), "{text}");
}

/// A file that is broken keeps no bundle out: it may be the one that revokes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_keeps_no_bundle_out() {
    let roles = |role: &str| {
        pack(&[
            (".manifest", "{\"roots\": [\"roles\"]}"),
            ("roles/data.json", &format!("{{\"alice\": \"{role}\"}}")),
        ])
    };
    let bundles = BundleServer::start(conditional("\"one\"", &roles("admin")));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let good =
        "package envoy.authz\n\nallow := {\"allowed\": data.roles.alice == \"admin\", \"grants\": []}\n";
    let policy = write_file(dir.path(), "p/authz.rego", good);
    let config = format!(
        "policy: [{}]\nservices: {{s: {{url: \"{}\"}}}}\nbundles: {{roles: {{service: s, polling: {{min_delay_seconds: 1, \
         max_delay_seconds: 1}}}}}}\n",
        dir.path().join("p").display(),
        bundles.url()
    );
    let config = write_file(dir.path(), "daypass.yaml", &config);
    let server = Daypass::start_in(&dir, &["--config", &config]);
    wait_for("the first bundle", || (server.ops("/readyz").0 == 200).then_some(()));
    let mut client = server.client().await;
    assert!(is_allow(&client.check(alice()).await));
    std::fs::write(&policy, "package").unwrap();
    wait_for("the broken file to be refused", || policy_report(&server)["error"].is_string().then_some(()));
    bundles.set(conditional("\"two\"", &roles("nobody")));
    wait_for("the second bundle", || {
        (policy_report(&server)["bundles"][0]["activations"].as_u64() == Some(2)).then_some(())
    });
    assert!(!is_allow(&client.check(alice()).await));
}
