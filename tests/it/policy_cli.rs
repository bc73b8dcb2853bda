//! `daypass policy`, as people and scripts call it.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::daypass::{run, write_file};

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn policy(args: &[&str]) -> (Option<i32>, String, String) {
    text(&run(&[&["policy"], args].concat()))
}

fn eval(args: &[&str]) -> (Option<i32>, Value) {
    let (code, out, err) = policy(&[&["eval"], args].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}")))
}

const POLICY: &str = r#"package envoy.authz

import data.lib as l

default allow := false

is_read if input.attributes.request.http.method == "GET"

allow := {"allowed": true, "grants": [grant.id]} if {
	is_read
	some grant in input.jit.grants
	l.may(grant.roles)
	print("role", grant.roles)
}
"#;

const TESTS: &str = r#"package envoy.authz

request(method) := {
	"attributes": {"request": {"http": {"method": method}}},
	"jit": {"grants": [{"id": "g", "roles": ["db"]}]},
}

test_reads_pass if allow.grants == ["g"] with input as request("GET")

test_writes_do_not if allow == false with input as request("POST")

todo_test_later if false
"#;

fn write_policy(dir: &Path) -> String {
    write_file(dir, "p/authz.rego", POLICY);
    write_file(dir, "p/lib.rego", "package lib\n\nmay(roles) if \"db\" in roles\n");
    write_file(dir, "p/authz_test.rego", TESTS);
    dir.join("p").display().to_string()
}

#[test]
fn check_names_every_mistake_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_policy(dir.path());
    assert_eq!(policy(&["check", &path]), (Some(0), "good\n".to_owned(), String::new()));
    write_file(
        dir.path(),
        "p/bad.rego",
        "package b\n\nx if $\"{nowhere(1)}\" == \"\"\n\ny := count(1, 2, 3)\n\nz(a) := z(a)\n",
    );
    let (code, _, errors) = policy(&["check", &path]);
    assert_eq!(code, Some(1));
    for place in [
        "bad.rego:3:9: unknown function `nowhere`",
        "bad.rego:5:6: `count` takes 1 argument(s), not 3",
        "bad.rego:7:1: rule data.b.z is recursive",
    ] {
        assert!(errors.contains(place), "{errors}");
    }
    write_file(dir.path(), "p/bad.rego", "package b\n\nx if input.jit.grant.id == \"1\"\n");
    let (code, out, warnings) = policy(&["check", &path]);
    assert!(
        code == Some(0) && out == "good\n" && warnings.contains("bad.rego:3:6: daypass never sets"),
        "{warnings}"
    );
    assert_eq!(policy(&["check", "--strict", &path]).0, Some(1));
    for (bad, place) in [
        ("package b\nx if y == 1\n", "bad.rego:2:6"),
        ("package b\nx { true }\n", "bad.rego:2:"),
        ("package b\nx := http.send({})\n", "bad.rego:2:6: `http.send` is not available"),
        ("package b\nf([x, x + 1]) := x\n", "bad.rego:2:7: an argument of a function's head"),
        ("package b\nx := \"a", "bad.rego:2:"),
    ] {
        write_file(dir.path(), "p/bad.rego", bad);
        let (code, _, errors) = policy(&["check", &path]);
        assert!(code == Some(1) && errors.contains(place), "{bad}: {errors}");
    }
    assert!(policy(&["check", "/nowhere"]).2.contains("/nowhere"), "a path that is not there");
}

#[test]
fn test_has_the_conventions_of_opa_test() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_policy(dir.path());
    let (code, out, _) = policy(&["test", &path]);
    assert!(code == Some(0) && out.contains("PASS: 2/3") && out.contains("SKIPPED: 1/3"), "{out}");
    assert!(out.contains("print: ") && out.contains("role"), "{out}");
    let (code, out, _) = policy(&["test", &path, "--run", "writes"]);
    assert!(code == Some(0) && out.contains("PASS: 1/1"), "{out}");
    assert_eq!(policy(&["test", &path, "--run", "("]).0, Some(2), "a wrong expression is a usage error");
    write_file(
        dir.path(),
        "p/more_test.rego",
        "package more_test\n\ntest_no if 1 == 2\n\ntest_conflict := 1\n\ntest_conflict := 2\n\ntest_cases[name] := ok if some name, ok in \
         {\"a\": true, \"b\": false}\n",
    );
    let (code, out, _) = policy(&["test", &path, "--json", "--coverage"]);
    assert_eq!(code, Some(2));
    let report: Value = serde_json::from_str(&out).unwrap();
    let result = |name: &str| {
        let results = report["results"].as_array().unwrap();
        results
            .iter()
            .find(|result| result["name"] == name)
            .unwrap_or_else(|| panic!("{name}: {report:#}"))
            .clone()
    };
    assert_eq!(result("test_no")["fail"], true);
    assert_eq!(result("test_no")["location"]["row"], 3);
    assert!(result("test_conflict")["error"].as_str().unwrap().contains("complete rules must not"));
    assert_eq!(result("test_cases")["cases"], json!(["\"b\""]));
    assert_eq!(result("todo_test_later")["skip"], true);
    assert_eq!(result("test_reads_pass")["package"], "data.envoy.authz");
    let files = report["coverage"].as_array().unwrap();
    let own = files.iter().find(|file| file["file"].as_str().unwrap().ends_with("/authz.rego")).unwrap();
    assert_eq!(own["not_covered"], json!([]));
    write_file(dir.path(), "p/more_test.rego", "package");
    assert_eq!(policy(&["test", &path]).0, Some(1), "what does not compile is no failed test");
}

#[test]
fn eval_answers_as_opa_eval_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_policy(dir.path());
    let input = write_file(
        dir.path(),
        "input.yaml",
        "attributes: {request: {http: {method: GET}}}\njit: {grants: []}\n",
    );
    assert_eq!(
        eval(&["-d", &path, "-i", &input, "data.envoy.authz.allow"]),
        (
            Some(0),
            json!({"result": [{"expressions": [{
                "value": false, "text": "data.envoy.authz.allow", "location": {"row": 1, "col": 1}
            }]}]})
        )
    );
    assert_eq!(eval(&["data.nothing"]), (Some(0), json!({})));
    assert_eq!(eval(&["--fail", "data.nothing"]).0, Some(1));
    let (_, found) =
        eval(&["x := 1 + input.n; y := $\"<{x}>\"", "-i", &write_file(dir.path(), "n.json", "{\"n\": 2}")]);
    assert_eq!(found["result"][0]["bindings"], json!({"x": 3, "y": "<3>"}));
    assert_eq!(found["result"][0]["expressions"][0]["text"], "x := 1 + input.n");
    assert_eq!(
        found["result"][0]["expressions"][1],
        json!({"value": true, "text": "y := $\"<{x}>\"", "location": {"row": 1, "col": 19}})
    );
    let (_, many) = eval(&["[1, 2][x]"]);
    assert_eq!(many["result"].as_array().unwrap().len(), 2);
    assert_eq!(eval(&["1 / 0"]), (Some(0), json!({})));
    for (args, code, message) in [
        (&["--strict-builtin-errors", "1 / 0"][..], "eval_builtin_error", "divide by zero"),
        (&["x :="], "rego_parse_error", ""),
        (&["nowhere(1)"], "rego_type_error", "nowhere"),
        (
            &["-d", "DIR", "data.c.x"],
            "eval_conflict_error",
            "complete rules must not produce multiple outputs",
        ),
    ] {
        write_file(dir.path(), "c/c.rego", "package c\nx := 1\nx := 2\n");
        let conflict = dir.path().join("c").display().to_string();
        let args: Vec<&str> = args.iter().map(|arg| if *arg == "DIR" { &conflict } else { *arg }).collect();
        let (status, found) = eval(&args);
        let error = &found["errors"][0];
        assert_eq!((status, &error["code"]), (Some(2), &json!(code)), "{found}");
        assert!(error["message"].as_str().unwrap().contains(message), "{found}");
    }
    assert_eq!(policy(&["eval", "-f", "raw", "concat(\"-\", [\"a\", \"b\"])"]).1, "a-b\n");
    assert_eq!(policy(&["eval", "-f", "pretty", "data.nothing"]).1, "undefined\n");
    let old = write_file(dir.path(), "old.rego", "package old\n\nx { input.a == 1 }\n\nx { true }\n");
    assert_eq!(
        eval(&["--v0-compatible", "-d", &old, "data.old.x"]).1["result"][0]["expressions"][0]["value"],
        true
    );
}

#[test]
fn explain_is_one_page_that_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let check = write_file(
        dir.path(),
        "check.json",
        r#"{"attributes": {"request": {"http": {"method": "GET", "path": "/db/x", "host": "orders.svc"}},
        "metadataContext": {"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload": {"sub": "alice@corp"}}}}}}"#,
    );
    let grants = write_file(
        dir.path(),
        "grants.json",
        r#"[{"v": 1, "id": "g-1", "subject": "user:alice@corp", "permissions": [{"hosts": ["*.svc"], "methods": ["POST"]}]},
        {"v": 1, "id": "g-2", "subject": "user:bob@corp"},
        {"v": 1, "id": "g-3", "subject": "user:alice@corp", "expires_at": "2020-01-01T00:00:00Z"}]"#,
    );
    let (code, page, _) = policy(&["explain", "--check", &check, "--grants", &grants]);
    assert_eq!(code, Some(1));
    for line in [
        "user:alice@corp",
        "does not cover this: it is for another method",
        "g-2  user:bob@corp  not the caller's",
        "g-3  user:alice@corp  has ended",
        "deny, reason not_covered",
        "the client sees 403",
        "data.envoy.authz.who = \"user:alice@corp\"",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    let good = write_file(
        dir.path(),
        "good.json",
        r#"[{"v": 1, "id": "g-4", "subject": "user:alice@corp", "permissions": [{"paths": ["/db/**"]}]}]"#,
    );
    let (code, page, _) = policy(&["explain", "--check", &check, "--grants", &good]);
    assert!(code == Some(0) && page.contains("covers this") && page.contains("rests on g-4"), "{page}");
    for (check, grants, message) in [
        ("{\"attributes\": {\"request\": {\"htp\": {}}}}", "[]", "request.htp"),
        ("{}", "{}", "not a list of grants"),
        ("{}", "[{\"v\": 2, \"id\": \"g\", \"subject\": \"user:a\"}]", "g is no grant: "),
    ] {
        let check = write_file(dir.path(), "bad-check.json", check);
        let grants = write_file(dir.path(), "bad-grants.json", grants);
        let (code, _, error) = policy(&["explain", "--check", &check, "--grants", &grants]);
        assert!(code == Some(1) && error.contains(message), "{error}");
    }
}

#[test]
fn bench_measures_a_decision() {
    let (code, out, _) = policy(&["bench", "--duration", "50ms"]);
    assert!(code == Some(0) && out.contains("decisions: p50"), "{out}");
}
