//! Policies through the door that a check uses: compile, decide, and what is refused.

use std::time::{Duration, Instant};

use super::*;
use crate::decision::DenyReason;

const LIMIT: Duration = Duration::from_millis(50);

fn compile(text: &str, path: &str) -> Result<Policy, LoadError> {
    Policy::compile(&Sources::from_text("p.rego", text), &DecisionPath::new(path), LIMIT)
}

fn decide(text: &str, input: &str) -> Result<Ruling, EvalError> {
    compile(text, "a/allow").unwrap().decide(Document::from_json(input).unwrap())
}

fn allows(text: &str, input: &str) -> bool {
    match decide(text, input).unwrap().outcome {
        Outcome::Allow(_) => true,
        Outcome::Deny { reason, .. } => {
            assert_eq!(reason, DenyReason::PolicyDenied);
            false
        }
    }
}

#[test]
fn the_decision_path_may_be_a_rule_a_member_a_package_or_nothing() {
    let text =
        "package a.b\nallow := true\nresult := {\"inner\": {\"allowed\": true}}\nlist := [false, true]";
    for (path, allowed) in [
        ("/a/b/allow", Some(true)),
        ("a/b/result/inner", Some(true)),
        ("a/b/list/1", Some(true)),
        ("a/b/list/0", Some(false)),
        ("a/b/list/7", None),
        ("no/such/thing", None),
        ("", None),
    ] {
        let ruling = compile(text, path).unwrap().decide(Document::NULL);
        assert_eq!(ruling.ok().map(|ruling| matches!(ruling.outcome, Outcome::Allow(_))), allowed, "{path}");
    }
    let package = compile("package a.b\nallowed := true", "a/b").unwrap();
    assert!(matches!(package.decide(Document::NULL).unwrap().outcome, Outcome::Allow(Some(_))));
    let dotted = compile("package test[\"com.foo\"]\nallow := true", "test/com.foo/allow").unwrap();
    assert!(matches!(dotted.decide(Document::NULL).unwrap().outcome, Outcome::Allow(None)));
}

#[test]
fn type_errors_are_undefined_and_the_next_rule_decides() {
    for body in [
        "input.s + 1 == 2",
        "input.s - 1 == 2",
        "input.n - {1} == 2",
        "1 / input.zero == 1",
        "input.n % input.half == 1",
        "input.s & {1} == {1}",
        "count(input.n) == 1",
        "startswith(input.n, \"a\")",
        "abs(input.s) == 1",
        "some x in input.s; x == 1",
        "some x in input.n; x == 1",
        "every x in input.n { x == 1 }",
        "input.s[0] == \"x\"",
        "sum(input.s) == 1",
        "regex.match(\"[\", input.s)",
        "to_number(input.s) == 1",
        "json.unmarshal(input.s) == 1",
        "{x | x := input.s[_]} == 1",
        "input.a.b.c + 1 == 2",
    ] {
        let text = format!("package a\ndefault allow := false\nallow if {{ {body} }}\nallow if input.go");
        let input = |go| format!(r#"{{"s": "x", "n": 7, "zero": 0, "half": 0.5, "go": {go}}}"#);
        assert!(decide(&text, &input(false)).is_ok(), "{body}");
        assert!(!allows(&text, &input(false)), "{body}");
        assert!(allows(&text, &input(true)), "{body}");
    }
}

#[test]
fn operators_keep_their_meaning() {
    for body in [
        "input.n + 1 == 8",
        "input.n - 1 == 6",
        "input.n * 2 - 4 == 10",
        "input.n / 2 == 3.5",
        "input.n % 4 == 3",
        "{1, 2} - {input.one} == {2}",
        "{1, 2} & {input.one} == {1}",
        "{2} | {input.one} == {1, 2}",
        "(input.n + 1) * (input.one + 1) == 16",
        "x := [y | y := input.n + 1][0]; x == 8",
        "input.n + 1 == 8 with input.n as 7",
    ] {
        let text = format!("package a\ndefault allow := false\nallow if {{ {body} }}");
        assert!(allows(&text, r#"{"n": 7, "one": 1}"#), "{body}");
    }
}

#[test]
fn text_of_a_stranger_cannot_make_a_built_in_run_for_long() {
    for body in [
        "json.unmarshal(input.s) == 1",
        "to_number(input.s) == 1",
        "json.is_valid(input.s)",
        "json.unmarshal(sprintf(`{\"$serde_json::private::Number\":\"%s\"}`, [input.s])) == 1",
    ] {
        let started = Instant::now();
        let text = format!("package a\ndefault allow := false\nallow if {{ {body} }}");
        assert!(!allows(&text, r#"{"s": "1e999999999"}"#), "{body}");
        assert!(started.elapsed() < Duration::from_secs(5), "{body} {:?}", started.elapsed());
    }
    assert!(allows(
        "package a\nallow if { json.unmarshal(input.s, x); x.k == 2; to_number(\"7\") == 7 }",
        r#"{"s": "{\"k\":2}"}"#
    ));
}

#[test]
fn perl_classes_and_case_flags_work_in_regular_expressions() {
    assert!(allows(
        r#"package a
        allow if regex.match(`^(?i)X\d+\b$`, "x12")"#,
        "{}"
    ));
}

#[test]
fn a_policy_that_loops_is_stopped() {
    let text = "package a\nallow if count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b < 0]) == 1";
    let policy = compile(text, "a/allow").unwrap();
    let started = Instant::now();
    assert_eq!(policy.decide(Document::NULL), Err(EvalError::TimedOut));
    // Without the limit this takes many seconds.
    assert!(started.elapsed() < LIMIT * 20, "{:?}", started.elapsed());
}

#[test]
fn errors_do_not_quote_values() {
    let text = "package a\nallow := input.s\nallow := \"other\" if input.s\n";
    let error = decide(text, r#"{"s": "SECRET"}"#).unwrap_err().to_string();
    assert!(error.contains("p.rego:") && !error.contains("SECRET"), "{error}");
}

#[test]
fn operators_without_spaces_do_not_switch_rewriting_off() {
    let text = "package a\ndefault allow := false\nallow if { n := 2; m := n*2+1; m == 5; input.s + 1 == 2 }\nallow if input.go";
    assert!(allows(text, r#"{"s": "x", "go": true}"#));
    let long = format!("package a\nallow if {} == 60", vec!["input.n"; 60].join(" + "));
    let result =
        compile(&long, "a/allow").map(|policy| policy.decide(Document::from_json(r#"{"n": 1}"#).unwrap()));
    assert!(result.is_ok_and(|ruling| ruling.is_ok()), "a long row of operators");
}

#[test]
fn an_evaluation_after_a_failed_one_starts_clean() {
    let text = "package a\nallow if { walk(input, [p, v]); p == [\"x\"]; v == 1 }\n\
        allow := false if input.conflict\nconflict := true if input.conflict\nallow if input.conflict";
    let policy = compile(text, "a/allow").unwrap();
    let input = |json: &str| Document::from_json(json).unwrap();
    assert!(matches!(policy.decide(input(r#"{"x": 1, "conflict": true}"#)), Err(EvalError::Failed(_))));
    assert_eq!(policy.decide(input(r#"{"x": 2}"#)), Err(EvalError::Undefined));
    assert!(policy.decide(input(r#"{"x": 1}"#)).is_ok());
}

#[test]
fn what_opa_would_refuse_is_refused_with_its_place() {
    for (text, place) in [
        ("package a\nallow { input.x }", "p.rego:2:"),
        ("package a\nallow if nope(1)", "p.rego:2:10: unknown function"),
        ("package a\nallow if http.send({})", "p.rego:2:10: `http.send` is not available"),
        ("package a\nallow if io.jwt.nothing(\"\")", "p.rego:2:10: unknown function"),
        ("package a\nallow if x == 1", "p.rego:2:"),
        ("package a\nf(x) := f(x)\nallow if f(1)", "p.rego:2:1: rule data.a.f is recursive"),
        ("not rego", "p.rego:1:"),
    ] {
        let error = compile(text, "a/allow").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with(place), "{text}\n{error}");
    }
}

#[test]
fn the_default_policy_passes_its_own_tests() {
    let mut sources = Sources::built_in();
    let tests = include_str!("../../policies/authz_test.rego");
    sources.modules.push(RegoFile::new("authz_test.rego", tests));
    let policy = Policy::compile(&sources, &DecisionPath::new("envoy/authz/allow"), LIMIT).unwrap();
    let rules = policy.rules_with_prefix("test_");
    assert!(rules.len() >= 8, "{rules:?}");
    for rule in rules {
        let value = policy.eval_rule(&rule, Document::NULL);
        assert_eq!(value, Ok(Document::bool(true)), "{rule}");
    }
}

#[test]
fn the_default_policy_reads_little_of_a_request() {
    let policy = compile_built_in();
    let reads = |path: &[&str]| policy.reads().touches(path);
    assert!(reads(&["attributes", "request", "http", "path"]) && reads(&["jit", "covering"]));
    for unread in ["headers", "headerMap", "body", "rawBody"] {
        assert!(!reads(&["attributes", "request", "http", unread]), "{unread}");
    }
    assert!(!reads(&["attributes", "metadataContext"]) && !reads(&["parsed_body"]));
}

fn compile_built_in() -> Policy {
    Policy::compile(&Sources::built_in(), &DecisionPath::new("envoy/authz/allow"), LIMIT).unwrap()
}

fn compile_files(files: &[(&str, &str)], path: &str) -> Result<Policy, LoadError> {
    let mut sources = Sources::default();
    for (name, text) in files {
        sources.modules.push(RegoFile::new(*name, *text));
    }
    Policy::compile(&sources, &DecisionPath::new(path), LIMIT)
}

/// Whatever the order of its files, a package read as a whole has all its rules.
#[test]
fn the_order_of_files_decides_nothing() {
    let split = [
        ("a.rego", "package envoy.authz\ndynamic_metadata := {}"),
        ("b.rego", "package envoy.authz\ndefault allowed := false\nallowed if not blocked"),
        ("c.rego", "package envoy.authz\nblocked if input.x == 1"),
    ];
    let aggregated = [
        ("a.rego", "package rules\nz := 1"),
        ("b.rego", "package rules.aa\ndeny contains \"bad\" if data.rules.bb.helper"),
        ("c.rego", "package rules.bb\nhelper if input.x == 1\nhelper if data.rules.z == 2"),
        (
            "main.rego",
            "package envoy.authz\ndefault allowed := false\nallowed if count(deny) == 0\n\
             deny contains m if { m := data.rules[_].deny[_] }",
        ),
    ];
    let keywords = [
        ("a.rego", "package rules\nif.x := 1\nelse.y := if.x"),
        (
            "b.rego",
            "package envoy.authz\ndefault allowed := true\nallowed := false if data.rules[\"else\"].y == 1",
        ),
        ("c.rego", "package other\nz := data.rules"),
        ("d.rego", "package envoy.authz\nwhole := data.rules"),
    ];
    for files in [&split[..], &aggregated[..], &keywords[..]] {
        for turn in 0..files.len() {
            for reversed in [false, true] {
                let mut turned = files.to_vec();
                turned.rotate_left(turn);
                if reversed {
                    turned.reverse();
                }
                let policy = compile_files(&turned, "envoy/authz").unwrap();
                let ruling = policy.decide(Document::from_json(r#"{"x": 1}"#).unwrap()).unwrap();
                assert!(matches!(ruling.outcome, Outcome::Deny { .. }), "{turned:?}");
            }
        }
    }
}

#[test]
fn a_position_is_that_of_what_somebody_wrote() {
    for (text, place) in [
        ("package a\n\nallow if {\n\t\t\"e\" == input.x + zz\n}", "p.rego:4:20"),
        ("package a\n\nallow if {\n  \"ééééééééééé\" == zz\n}", "p.rego:4:20"),
        ("package a\n\nallow if {\n\t\tfoo(1)\n}", "p.rego:4:3: unknown function"),
        ("package a\r\n\r\nallow if $\"{input.x} {nope(1)}\"\r\n", "p.rego:3:23: unknown function"),
    ] {
        let error = compile(text, "a/allow").err().unwrap().to_string();
        assert!(error.starts_with(place), "{text}\n{error}");
    }
    let files =
        [("one.rego", "package a\n\nallow if true\n"), ("two.rego", "# two\npackage a\n\n\tallow := 1\n")];
    let policy = compile_files(&files, "a/allow").unwrap();
    let error = policy.decide(Document::NULL).unwrap_err().to_string();
    assert!(error.contains("two.rego:4:") || error.contains("one.rego:3:"), "{error}");
}
/// Each was allowed, or refused, by the engine left to itself.
#[test]
fn what_the_engine_means_otherwise_means_what_opa_means() {
    let evil = r#"{"body": {"x": ["evil"]}, "m": "x", "q": 1}"#;
    for (body, holds) in [
        ("some v; [_, v] := walk(input.body); v == \"evil\"", true),
        ("x := walk(input.body); x[1] == \"evil\"", true),
        ("[_, v] = walk(input.body); v == \"evil\"", true),
        ("[path, v] := walk(input.body); v == \"evil\"; count(path) == 2", true),
        ("walk(input.body, [_, v]); v == \"evil\"", true),
        ("1 == 1; [p, v] := walk(input) with input as {\"a\": 1}; v == 1; p == [\"a\"]", true),
        ("(\"banned\" in input.tags) == false", false),
        ("not \"banned\" in input.tags", true),
        ("x := input.nothing in [1]; x == false", false),
        ("(\"k\", 1 in input.nothing) == false", false),
        ("((1 + 0)) in ([1] )", true),
        ("1, 2 in [1, 2]", true),
        ("{1, 2} == {x | some x in [1, 2]; not x in [3]}", true),
        ("print(\"roles\", input.roles[_], (input.m), [1][_]); input.m == \"x\"", true),
        ("print(); print(input.nothing.at.all,); input.m == \"x\"", true),
        ("q == 2 with q as 2", true),
        ("f(1) == 5 with f as five", true),
        ("count([1]) == 5 with count as five", true),
        ("io.jwt.decode(\"x\") == 5 with io.jwt.decode as five", true),
        ("lib.x == 3 with lib.x as 3", true),
        ("calls(1) == 5 with data.a.f as five", true),
        ("calls(1) == 5 with f as data.a.five", true),
        ("data.a.f(1) == 2 with f as 2", true),
        ("print(input.nothing + 1); print(1 + 1, 2); print(f(1)+1, 1 in [1], {1}|{2})", true),
        ("[p, _] := walk({1}|{2}); p == []", true),
    ] {
        let text = format!(
            "package a\nimport data.other.lib\ndefault allow := false\nq := 1\nf(x) := x\nfive(_) := 5\ncalls(x) := f(x)\n\
             allow if {{ {body} }}"
        );
        assert_eq!(allows(&text, evil), holds, "{body}");
    }
}

#[test]
fn definitions_that_cannot_stand_together_are_refused() {
    for (text, place) in [
        ("package a\ndefault p := 1\ndefault p := 2\nallow := p", "p.rego:3:9: multiple default rules"),
        ("package a\np := 1\np(x) := x\nallow := p", "p.rego:3:1: conflicting rules"),
        ("package a\np := 1\np.q := 2\nallow := p", "p.rego:2:1: rule data.a.p conflicts with data.a.p.q"),
        ("package a\np(x) := 1\ndefault p(_, _) := 1\nallow := 1", "p.rego:3:9: conflicting rules"),
        ("package a\np := 1\np contains 2\nallow := p", "p.rego:3:1: conflicting rules"),
        ("package a\nallow := f(1, 2, 3)\nf(x) := x", "p.rego:2:10: `f` takes 1"),
        ("package a\nallow := count([1], 2)", "p.rego:2:10: `count` takes 1"),
        ("package a\nimport data.foo as json\nallow := json.marshal(1)", "p.rego:3:10: unknown function"),
        ("package a\nallow if count(walk(input)) > 0", "p.rego:2:16: the result of `walk`"),
        ("package a\nallow if not [_, 1] = walk(input)", "p.rego:2:23: the result of `walk`"),
        ("package a\nallow if [_, 1] = walk(input)", "p.rego:2:"),
        (
            "package a\nq[x].r contains 1 if some x in [\"b\"]\nq.b.r contains 2\nallow := q",
            "p.rego:2:1: a set below",
        ),
        ("package as.b\nallow := true", "p.rego:1:"),
        ("package a\nallow := 1e1000000000", "p.rego:2:10: a number"),
    ] {
        let error = compile(text, "a/allow").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with(place), "{text}\n{error}");
    }
    let error = compile_files(&[("a.rego", "package a\nb := 1"), ("b.rego", "package a.b\nc := 1")], "a/b");
    assert!(error.err().unwrap().to_string().contains("package data.a.b conflicts with rule data.a.b"));
    let with_data = |data: &str| {
        let mut sources =
            Sources::from_text("p.rego", "package envoy.authz\ndefault allow := false\nx.y := 1");
        sources.data = Data::from_json(data).unwrap();
        Policy::compile(&sources, &DecisionPath::new("envoy/authz/allow"), LIMIT).err()
    };
    assert!(with_data(r#"{"envoy": {"authz": {"users": {}}}}"#).is_none());
    for taken in [
        r#"{"envoy": {"authz": {"allow": true}}}"#,
        r#"{"envoy": {"authz": {"x": {"y": {}}}}}"#,
        r#"{"envoy": {"authz": {"x": 1}}}"#,
        r#"{"envoy": true}"#,
    ] {
        let error = with_data(taken).unwrap().to_string();
        assert!(error.contains("conflicting rule for data path"), "{taken}: {error}");
    }
}

/// A chain that fits on the stack is evaluated, a longer one is refused: neither may end the process.
#[test]
fn chains_of_rules_end_before_the_stack_does() {
    let chain = |length: usize, link: &dyn Fn(usize) -> String| {
        let rules: String = (0..length).map(link).collect();
        format!("package a\n{rules}p{length} := 1\nallow := true if p0")
    };
    let plain = |index: usize| format!("p{index} := p{}\n", index + 1);
    let nested = |index: usize| {
        format!(
            "p{index} if {{ count([1 | every y in [1] {{ count([2 | p{}]) > y - 1 }}]) > 0 }}\n",
            index + 1
        )
    };
    let thread = std::thread::Builder::new().stack_size(16 << 20);
    let test = move || {
        assert!(compile(&chain(4500, &plain), "a/allow").is_err());
        assert!(compile(&chain(1500, &nested), "a/allow").is_err());
        let arithmetic =
            |index: usize| format!("p{index} := {}p{}{}\n", "1+(".repeat(24), index + 1, ")".repeat(24));
        assert!(compile(&chain(330, &arithmetic), "a/allow").is_err());
        let called = |index: usize| format!("p{index} := g(p{})\n", index + 1);
        let functions = "g(x) := x\n";
        for text in [
            chain(550, &plain),
            chain(100, &nested),
            chain(160, &arithmetic),
            chain(400, &called) + "\n" + functions,
        ] {
            let ruling = compile(&text, "a/allow").unwrap().decide(Document::NULL);
            assert!(matches!(ruling.unwrap().outcome, Outcome::Allow(_)));
        }
        let began = Instant::now();
        let many = (0..6000).map(|index| format!("f{index}(x) := x + data.b.c{index}\n"));
        let many = many.fold("package a\n".to_owned(), |text, rule| text + &rule);
        assert!(compile(&many, "a/allow").is_ok());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    };
    thread.spawn(test).unwrap().join().unwrap();
}

#[test]
fn a_key_in_a_head_is_no_constant_to_take_out() {
    let text = "package a\ndefault allow := false\nallow if count(deny) == 0\n\
        deny[{\"msg\":\"no\",\"meta\":{\"a\":{\"b\":{\"c\":{\"d\":[1]}}}}}] if input.bad\ndeny.x if input.zz";
    assert!(!allows(text, r#"{"bad": true}"#));
    assert!(allows(text, "{}"));
}

/// Keywords are imported by file, and files of one package become one module.
#[test]
fn files_of_the_first_version_keep_their_keywords() {
    let compile = |files: &[(&str, &str)]| {
        let mut sources = Sources::default();
        for (name, text) in files {
            sources.modules.push(RegoFile { version: RegoVersion::V0, ..RegoFile::new(*name, *text) });
        }
        Policy::compile(&sources, &DecisionPath::new("p/allow"), LIMIT)
    };
    let one = ("a.rego", "package p\ndefault allow = false");
    let two = ("b.rego", "package p\nimport future.keywords.if\nallow if { input.a == 99 }");
    assert!(compile(&[one, two]).err().unwrap().to_string().contains("import other keywords"));
    let one = ("a.rego", "package p\nimport future.keywords.if\ndefault allow = false");
    let policy = compile(&[one, two]).unwrap();
    let decide = |text: &str| policy.decide(Document::from_json(text).unwrap()).unwrap().outcome;
    assert!(
        matches!(decide("{}"), Outcome::Deny { .. }) && matches!(decide(r#"{"a": 99}"#), Outcome::Allow(_))
    );
    let modern = ("a.rego", "package p\nimport rego.v1 # modern\ndefault allow := false");
    let both = ("b.rego", "package p\nimport rego.v1\nallow if input.a == 99");
    assert!(compile(&[modern, both]).is_ok());
    let plain =
        [("a.rego", "package p\ndefault allow = false"), ("b.rego", "package p\nallow { input.a == 99 }")];
    assert!(compile(&plain).is_ok());
}
