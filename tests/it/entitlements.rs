//! Entitlements and the admission policy: what ships, what the documents show, and how they change while serving.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::support::daypass::{Daypass, run, write_file};
use crate::support::request::{denied_body, reason, request};
use crate::support::wait_for;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn shipped(name: &str) -> String {
    root().join("policies").join(name).display().to_string()
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/entitlements.md")).unwrap()
}

fn block(text: &str, language: &str) -> String {
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
    rest.split("```").next().unwrap().to_owned()
}

/// The tests reach every line of the policies that daypass brings.
#[test]
fn the_built_in_policies_pass_their_tests() {
    for (name, least) in [("authz", 14), ("admission", 48)] {
        let (file, test) = (shipped(&format!("{name}.rego")), shipped(&format!("{name}_test.rego")));
        let output = run(&["policy", "test", &file, &test, "--json", "--coverage"]);
        let results: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "{name}: {results:#}");
        assert!(results["results"].as_array().unwrap().len() >= least, "{name}");
        let files = results["coverage"].as_array().unwrap();
        let own = files.iter().find(|found| found["file"] == file.as_str()).unwrap();
        assert_eq!(own["not_covered"], serde_json::json!([]), "{name}");
        assert!(run(&["policy", "check", "--strict", &file]).status.success(), "{name}");
    }
}

#[test]
fn the_documents_example_works() {
    let dir = tempfile::tempdir().unwrap();
    let data = write_file(dir.path(), "entitlements.yaml", &block(&document(), "yaml"));
    let test = write_file(dir.path(), "entitlements_test.rego", &block(&document(), "rego"));
    let output = run(&["policy", "test", &data, &test]);
    let passed = String::from_utf8_lossy(&output.stdout).contains("PASS: 2/2");
    assert!(output.status.success() && passed, "{output:?}");
    for path in [&data, &shipped("entitlements.yaml")] {
        assert!(run(&["policy", "check", "--strict", path]).status.success(), "{path}");
        assert!(run(&["serve", "--validate", "--policy", path]).status.success(), "{path}");
    }
}

#[test]
fn the_document_names_every_field() {
    let document = document();
    for field in [
        "description",
        "permissions",
        "roles",
        "attributes",
        "conditions",
        "max_uses",
        "eligible",
        "approvers",
        "approvals",
        "allow_self_approval",
        "ask_for_others",
        "default_ttl",
        "max_ttl",
        "max_total_ttl",
        "max_extensions",
        "approve_within",
        "justification",
        "ticket",
        "break_glass",
        "webhooks",
        "revision",
    ] {
        let is_row = document.lines().any(|line| {
            line.starts_with("| ") && line.split('|').nth(1).unwrap().contains(&format!("`{field}`"))
        });
        assert!(is_row, "{field}");
    }
}

#[test]
fn mistakes_are_found_before_anything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let text = "daypass:\n  entitlements:\n    e:\n      roles: [r]\n      approvals: 0\n      max_ttl: 2d\n";
    let data = write_file(dir.path(), "e.yaml", text);
    let own =
        write_file(dir.path(), "own/admission.rego", "package daypass.admission\n\ndecision := unknown(1)\n");
    let check = run(&["policy", "check", &data, &own]);
    let told = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(1), "{told}");
    assert!(told.contains("e.yaml:6:7: data.daypass.entitlements.e.max_ttl: 2d is more than 1d"), "{told}");
    assert_eq!(told.matches("admission.rego:3:13: unknown function").count(), 1, "{told}");
    assert!(run(&["policy", "check", "--max-grant-ttl", "72h", &data]).status.success());
    let serve = run(&["serve", "--validate", "--policy", &data]);
    assert!(!serve.status.success());
    assert!(String::from_utf8_lossy(&serve.stderr).contains("e.yaml:6:7: "), "{serve:?}");
    let config = write_file(dir.path(), "d.yaml", "limits: {max_grant_ttl: 72h}\n");
    assert!(run(&["serve", "--validate", "--policy", &data, "--config", &config]).status.success());
}

fn entitlements(max_ttl: &str) -> String {
    format!(
        "daypass:\n  entitlements:\n    orders-read:\n      description: Read orders\n      permissions: [{{hosts: \
         [\"orders.*\"]}}]\n      eligible: [user:alice]\n      approvers: [group:leads]\n      max_ttl: {max_ttl}\n"
    )
}

fn policy_report(server: &Daypass) -> Value {
    serde_json::from_str::<Value>(&server.ops("/readyz").1).unwrap()["policy"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_name_them_and_a_broken_one_changes_nothing() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let file = write_file(dir.path(), "policy/e.yaml", &entitlements("2h"));
    let policy = dir.path().join("policy").display().to_string();
    let config =
        write_file(dir.path(), "d.yaml", "request_url: https://access.example/ask?for={entitlement}\n");
    let server = Daypass::start(&["--store", "embedded:memory", "--policy", &policy, "--config", &config]);
    let mut client = server.client().await;
    let mut asks = async |user: &str, host: &str| {
        let answer = client.check(request(user, "GET", host, "/db?token=secret")).await;
        assert_eq!(reason(&answer), "no_grant");
        serde_json::from_str::<Value>(&denied_body(&answer)).unwrap()
    };
    let wanted = serde_json::json!([{
        "entitlement": "orders-read", "description": "Read orders",
        "command": "daypass request create orders-read --reason ...",
        "url": "https://access.example/ask?for=orders-read",
    }]);
    assert_eq!(asks("alice", "orders.svc").await["ask"], wanted);
    for (user, host) in [("alice", "stock.svc"), ("mallory", "orders.svc")] {
        let body = asks(user, host).await;
        assert!(body["ask"].is_null() && body["hint"].is_string(), "{body}");
    }
    let revision = policy_report(&server)["revision"].clone();
    std::fs::write(&file, entitlements("2 hours")).unwrap();
    let error =
        wait_for("the change to be refused", || policy_report(&server)["error"].as_str().map(str::to_owned));
    assert!(
        error.contains("e.yaml:8:7: data.daypass.entitlements.orders-read.max_ttl: not a duration"),
        "{error}"
    );
    assert_eq!(policy_report(&server)["revision"], revision);
    assert_eq!(asks("alice", "orders.svc").await["ask"], wanted);
    let status = run(&["status", "--ops", &format!("http://{}", server.ops)]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("e.yaml:8:7"), "{status:?}");
    std::fs::write(&file, entitlements("3h").replace("orders-read", "orders-see")).unwrap();
    wait_for("the change to be in force", || policy_report(&server)["error"].is_null().then_some(()));
    assert_eq!(asks("alice", "orders.svc").await["ask"][0]["entitlement"], "orders-see");
    // A mistake in the rules for asking keeps out what changes beside them.
    let own = write_file(
        dir.path(),
        "policy/admission.rego",
        "package daypass.admission\n\ndecision := unknown(1)\n",
    );
    std::fs::write(&file, entitlements("3h").replace("Read orders", "changed")).unwrap();
    wait_for("the change to be refused", || {
        let error = policy_report(&server)["error"].as_str().map(str::to_owned)?;
        error.contains("admission.rego:3:13: unknown function").then_some(())
    });
    assert_eq!(asks("alice", "orders.svc").await["ask"][0]["description"], "Read orders");
    std::fs::write(own, "package daypass.admission\n\ndecision := false\n").unwrap();
    wait_for("the change to be in force", || policy_report(&server)["error"].is_null().then_some(()));
    assert_eq!(asks("alice", "orders.svc").await["ask"][0]["description"], "changed");
}
