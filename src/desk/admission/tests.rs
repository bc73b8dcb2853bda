use serde_json::json;

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

fn compiled(rule: &str) -> Admission {
    let text = format!("package daypass.admission\n{rule}\n");
    Admission::compile(&Sources::from_text("own.rego", &text), Limits::default(), LIMIT).unwrap()
}

fn decided(rule: &str, action: &str) -> Result<Admitted, AdmissionError> {
    compiled(rule).decide(json!({"action": action}))
}

#[test]
fn a_yes_has_its_terms() {
    let rule = r#"decision := {"allowed": true, "approvals_required": 2, "approvals": {"user:b", "user:c"}, "ttl_s": 60,
        "approve_within_s": 120, "note": "two\nlines"}"#;
    let terms = Terms {
        approvals_required: 2,
        approvals: ["user:b", "user:c"].map(str::to_owned).into(),
        ttl: Some(Duration::from_secs(60)),
        approve_within: Some(Duration::from_secs(120)),
        note: Some("two lines".to_owned()),
    };
    assert_eq!(decided(rule, "request.approve"), Ok(Admitted::Yes(terms)));
    assert_eq!(decided("decision := true", "grant.view"), Ok(Admitted::Yes(Terms::default())));
}

#[test]
fn a_no_has_reasons_that_can_be_shown() {
    let rule = r#"decision := {"allowed": false, "reasons": ["a\u001b[2J\u202e\u0000b", "  ", "c"]}"#;
    let reasons = vec!["a [2J  b".to_owned(), "c".to_owned()];
    assert_eq!(decided(rule, "x"), Ok(Admitted::No { reasons }));
    let reasons = vec![NO_REASON.to_owned()];
    for rule in [
        "decision := false",
        r#"decision := {"allowed": false}"#,
        r#"decision := {"allowed": false, "reasons": []}"#,
    ] {
        assert_eq!(decided(rule, "x"), Ok(Admitted::No { reasons: reasons.clone() }), "{rule}");
    }
    let rule = r#"decision := {"allowed": false, "reasons": [concat("", [x | some n in numbers.range(1, 2000); x := "y"]) | some m in numbers.range(1, 50)]}"#;
    let Ok(Admitted::No { reasons }) = decided(rule, "x") else { panic!() };
    assert_eq!((reasons.len(), reasons[0].len()), (MAX_REASONS, MAX_TEXT));
}

/// Whatever is no clear yes is none.
#[test]
fn what_is_no_decision_is_an_error() {
    for rule in [
        "other := true",
        "decision := 1",
        "decision := null",
        "decision := []",
        r#"decision := "true""#,
        "decision := {}",
        r#"decision := {"allowed": 1}"#,
        r#"decision := {"allowed": "true", "approvals_required": 0}"#,
        r#"decision := {"allowed": true}"#,
        "decision := true",
        r#"decision := {"allowed": true, "approval_required": 2}"#,
        r#"decision := {"allowed": true, "approvals_required": 0, "aprovals": []}"#,
        r#"decision := {"allowed": true, "approvals_required": -1}"#,
        r#"decision := {"allowed": true, "approvals_required": 1.5}"#,
        r#"decision := {"allowed": true, "approvals_required": 4294967296}"#,
        r#"decision := {"allowed": true, "approvals_required": "1"}"#,
        r#"decision := {"allowed": true, "approvals_required": 1, "approvals": "user:b"}"#,
        r#"decision := {"allowed": true, "approvals_required": 1, "approvals": [1]}"#,
        r#"decision := {"allowed": true, "approvals_required": 1, "ttl_s": 0}"#,
        r#"decision := {"allowed": true, "approvals_required": 1, "ttl_s": -5}"#,
        r#"decision := {"allowed": true, "approvals_required": 1, "ttl_s": 86401}"#,
        r#"decision := {"allowed": true, "approvals_required": 1, "ttl_s": "1h"}"#,
        r#"decision := {"allowed": true, "approvals_required": 1, "approve_within_s": 1e300}"#,
        r#"decision := {"allowed": true, "approvals_required": 1, "note": 1}"#,
        r#"decision := {"allowed": false, "reasons": "no"}"#,
        r#"decision := {"allowed": false, "reasons": [{}]}"#,
        "decision := true if input.action\ndecision := false if input.action",
    ] {
        for action in NEEDS_APPROVALS {
            assert!(decided(rule, action).is_err(), "{rule} of {action}");
        }
    }
    let slow =
        "decision := count([1 | some a in numbers.range(1, 9999); some b in numbers.range(1, 9999)]) > 0";
    let sources = Sources::from_text("own.rego", &format!("package daypass.admission\n{slow}\n"));
    let slow = Admission::compile(&sources, Limits::default(), Duration::from_millis(20)).unwrap();
    let error = slow.decide(json!({"action": "grant.view"})).unwrap_err();
    assert_eq!(error, AdmissionError::Evaluation(EvalError::TimedOut));
    assert_eq!(slow.decide(json!({"action": "grant.view"})).unwrap_err(), error, "and again");
}

#[test]
fn an_evaluation_that_failed_leaves_nothing_behind() {
    let admission = compiled("decision := input.say\ndecision := false if input.clash");
    let say = |say: Value, clash: bool| {
        let mut question = json!({"action": "grant.view", "say": say});
        if clash {
            question["clash"] = true.into();
        }
        admission.decide(question)
    };
    for _ in 0..3 {
        assert!(say(json!(true), true).is_err());
        assert_eq!(say(json!(true), false), Ok(Admitted::Yes(Terms::default())));
        assert!(matches!(say(json!(false), false), Ok(Admitted::No { .. })));
    }
}

#[test]
fn threads_ask_at_once_and_keep_no_policy() {
    let admission = Arc::new(compiled("decision := input.n % 2 == 0"));
    let gone = Arc::downgrade(&admission);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let admission = &admission;
            scope.spawn(move || {
                for n in 0..50 {
                    let number = thread * 50 + n;
                    let yes = admission.decide(json!({"action": "grant.view", "n": number}));
                    assert_eq!(matches!(yes, Ok(Admitted::Yes(_))), number % 2 == 0);
                }
            });
        }
    });
    let live = LiveAdmission::new(compiled("decision := true"));
    let before = live.replace(compiled("decision := false"));
    assert!(matches!(before.decide(json!({"action": "grant.view"})), Ok(Admitted::Yes(_))));
    assert!(matches!(live.current().decide(json!({"action": "grant.view"})), Ok(Admitted::No { .. })));
    drop(admission);
    assert!(gone.upgrade().is_none());
}

/// As many names as an identity can have, and as many reviews as there can be.
#[test]
fn many_names_and_reviews_are_judged_in_time() {
    let principals = |name: &str| -> Vec<String> {
        let groups = (1..256).map(|n| format!("group:a-team-with-a-longish-name-{n}"));
        std::iter::once(format!("user:{name}")).chain(groups).collect()
    };
    let caller = |name: &str| json!({"subject": format!("user:{name}"), "principals": principals(name)});
    let review = |n: usize| json!({"reviewer": format!("user:r{n}"), "principals": principals(&format!("r{n}")), "decision": "approved"});
    let reviews: Vec<Value> = (0..20).map(review).collect();
    let request = json!({"kind": "access", "requester": "user:alice", "requester_principals": principals("alice"),
        "subject": "user:alice", "justification": "a customer is stuck", "ticket": "", "duration_s": 60});
    let last = "group:a-team-with-a-longish-name-255";
    let data = json!({"e": {"roles": ["r"], "eligible": [last], "approvers": [last], "approvals": 20}});
    let (_dir, sources) = files(&[("daypass/entitlements/data.json", &data.to_string())]);
    // What takes longer is refused, and the desk gives 250 ms.
    let admission = Admission::compile(&sources, Limits::default(), Duration::from_millis(100)).unwrap();
    let entitlement = admission.entitlements().get("e").unwrap().to_json();
    let ask = |action: &str, caller: Value| {
        let said = admission.decide(json!({
            "action": action, "now_ns": 1, "caller": caller, "entitlement": entitlement, "request": request,
            "reviews": reviews, "event": {"actor": "user:x", "subject": "user:y"},
            "administrators": ["group:x"], "auditors": [],
            "limits": {"max_start_ahead_s": 1, "max_grant_ttl_s": 86400},
        }));
        match said.unwrap() {
            Admitted::Yes(terms) => terms.approvals.len(),
            Admitted::No { reasons } => panic!("{action}: {reasons:?}"),
        }
    };
    assert_eq!(ask("request.approve", caller("r19")), 20);
    assert_eq!(ask("grant.start", Value::Null), 20);
    for action in ["request.deny", "request.view", "event.view"] {
        ask(action, caller("r99"));
    }
    ask("request.create", caller("alice"));
}

fn files(files: &[(&str, &str)]) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let sources = Sources::read(&[dir.path().to_owned()]).unwrap();
    (dir, sources)
}

const SAMPLE: &str = include_str!("../../../policies/entitlements.yaml");

#[test]
fn the_sample_decides_with_the_default_policy() {
    let (_dir, sources) = files(&[("e.yaml", SAMPLE)]);
    let admission = Admission::compile(&sources, Limits::default(), LIMIT).unwrap();
    let ask = |name: &str, group: &str, ticket: &str| {
        let entitlement = admission.entitlements().get(name).unwrap();
        admission.decide(json!({
            "action": "request.create", "now_ns": 1,
            "caller": {"subject": "user:a", "principals": ["user:a", group]},
            "entitlement": entitlement.to_json(),
            "request": {"requester": "user:a", "requester_principals": ["user:a", group], "subject": "user:a",
                "justification": "there is a reason for this", "ticket": ticket,
                "duration_s": entitlement.default_ttl.as_secs()},
            "administrators": [], "auditors": [], "limits": {"max_start_ahead_s": 1, "max_grant_ttl_s": 86400},
        }))
    };
    let needed = |admitted: Result<Admitted, AdmissionError>| match admitted.unwrap() {
        Admitted::Yes(terms) => terms.approvals_required,
        Admitted::No { reasons } => panic!("{reasons:?}"),
    };
    assert_eq!(needed(ask("orders-db-read", "group:engineering", "")), 1);
    assert_eq!(needed(ask("payments-admin", "group:payments", "PAY-7")), 2);
    assert_eq!(needed(ask("logs-read", "group:engineering", "")), 0);
    for (name, group, ticket) in
        [("orders-db-read", "group:x", ""), ("payments-admin", "group:payments", "PAY-7x")]
    {
        assert!(
            matches!(ask(name, group, ticket), Ok(Admitted::No { reasons }) if reasons.len() == 1),
            "{name}"
        );
    }
}

#[test]
fn mistakes_are_told_with_file_and_line() {
    let entitlements = "e:\n  roles: [r]\n  approvers: [group:x]\n  max_ttl: 9d\nf:\n  approvals: 0\n  roles: [r]\n  nope: 1\n";
    let (dir, sources) = files(&[
        ("daypass/entitlements/data.yaml", entitlements),
        ("own.json", "{\"daypass\": {\n  \"auditors\": [\"x\"]}}"),
        ("own.rego", "package daypass.admission\n\ndecision := nothing_known(1)\n"),
    ]);
    let error = Admission::compile(&sources, Limits::default(), LIMIT).map(|_| ()).unwrap_err();
    let text = error.to_string().replace(&dir.path().display().to_string(), "");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (line, begins) in lines.iter().zip([
        "/own.json:2:16: data.daypass.auditors[0]: a principal begins",
        "/daypass/entitlements/data.yaml:4:3: data.daypass.entitlements.e.max_ttl: 9d is more than 1d",
        "/daypass/entitlements/data.yaml:8:3: data.daypass.entitlements.f.nope: unknown field",
        "/own.rego:3:13: unknown function",
    ]) {
        assert!(line.starts_with(begins), "{line} should begin with {begins}");
    }
}

#[test]
fn a_policy_of_the_operator_replaces_the_default() {
    let own = "package daypass.admission\ndecision := {\"allowed\": false, \"reasons\": [\"never\"]}\n";
    let (_dir, sources) = files(&[("own.rego", own), ("e.yaml", SAMPLE)]);
    let admission = Admission::compile(&sources, Limits::default(), LIMIT).unwrap();
    assert_eq!(
        admission.decide(json!({"action": "x"})),
        Ok(Admitted::No { reasons: vec!["never".to_owned()] })
    );
    // A package below, or beside, is not it.
    let (_dir, sources) =
        files(&[("own.rego", "package daypass.admission_test\nx := 1\n"), ("e.yaml", SAMPLE)]);
    let admission = Admission::compile(&sources, Limits::default(), LIMIT).unwrap();
    let said = admission.decide(json!({"action": "x"})).unwrap();
    assert_eq!(said, Admitted::No { reasons: vec!["the admission policy knows no action x".to_owned()] });
}

#[test]
fn what_is_below_daypass_is_ours_or_a_packages() {
    let compile = |found: &[(&str, &str)]| {
        let (_dir, sources) = files(found);
        Admission::compile(&sources, Limits::default(), LIMIT).map(|_| ()).map_err(|error| error.to_string())
    };
    let error = compile(&[("e.yaml", "daypass:\n  adminstrators: [user:root]\n")]).unwrap_err();
    assert!(error.contains("e.yaml:2:3: data.daypass.adminstrators: unknown field"), "{error}");
    assert!(error.contains("administrators"), "{error}");
    let data = ("e.yaml", "daypass:\n  helpers: {a: 1}\n");
    assert!(compile(&[data]).is_err());
    assert_eq!(compile(&[data, ("h.rego", "package daypass.helpers.inner\n\nx := 1\n")]), Ok(()));
    // A package of such a name keeps nothing from being read.
    let own = ("o.rego", "package daypass.auditors.own\n\nx := 1\n");
    assert!(compile(&[("e.yaml", "daypass: {auditors: [x]}\n"), own]).is_err());
}
