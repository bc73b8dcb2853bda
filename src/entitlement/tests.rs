use serde_json::json;

use super::*;

const HOUR: u64 = 3600;

fn limits() -> Limits {
    Limits::default()
}

fn read(entitlements: Value) -> Result<Entitlements, Vec<String>> {
    let daypass = Map::from_iter([("entitlements".to_owned(), entitlements)]);
    let data = Value::Object(Map::from_iter([("daypass".to_owned(), daypass.into())]));
    let told = |mistakes: Vec<Mistake>| mistakes.iter().map(ToString::to_string).collect();
    Entitlements::from_data(&data, &limits()).map_err(told)
}

fn minimal() -> Value {
    json!({"permissions": [{"hosts": ["a.svc"]}], "approvers": ["group:leads"]})
}

fn changed(changes: Value) -> Value {
    let mut entitlement = minimal();
    let Value::Object(changes) = changes else { panic!("{changes}") };
    for (name, value) in changes {
        if value.is_null() {
            entitlement.as_object_mut().unwrap().remove(&name);
        } else {
            entitlement[name] = value;
        }
    }
    entitlement
}

fn one(changes: Value) -> Entitlement {
    read(json!({"e": changed(changes)})).unwrap().get("e").unwrap().clone()
}

fn mistakes(changes: Value) -> Vec<String> {
    read(json!({"e": changed(changes)})).map(|_| ()).unwrap_err()
}

#[test]
fn defaults_are_in_place() {
    let json = one(json!({})).to_json();
    let mut wanted = json!({
        "name": "e", "description": "",
        "permissions": [{"hosts": ["a.svc"]}], "roles": [], "attributes": {}, "conditions": {"source_cidrs": []},
        "eligible": [], "approvers": ["group:leads"], "approvals": 1,
        "default_ttl_s": HOUR, "max_ttl_s": 8 * HOUR, "max_total_ttl_s": 24 * HOUR, "max_extensions": 1,
        "approve_within_s": 4 * HOUR, "justification": {"required": true, "min_length": 10},
        "ticket": {"required": false}, "allow_self_approval": false, "ask_for_others": [],
        "break_glass": {"eligible": [], "max_ttl_s": HOUR}, "webhooks": [],
    });
    wanted["revision"] = json["revision"].clone();
    assert_eq!(json, wanted);
}

#[test]
fn every_field_is_read() {
    let entitlement = one(json!({
        "description": " two\nlines ", "roles": ["r"], "attributes": {"team": [1.5]},
        "conditions": {"source_cidrs": ["10.0.0.0/8"]}, "eligible": ["group:dev"], "approvals": 2,
        "default_ttl": "30m", "max_ttl": "2h", "max_total_ttl": "4h", "max_extensions": 0, "approve_within": "1d",
        "justification": {"required": false, "min_length": 3}, "ticket": {"required": true, "pattern": "A|B"},
        "max_uses": 3, "allow_self_approval": true, "ask_for_others": ["user:h"],
        "break_glass": {"eligible": ["group:oncall"], "max_ttl": "15m"}, "webhooks": ["chat"], "revision": "v7",
    }));
    let json = entitlement.to_json();
    for (field, wanted) in [
        ("description", json!("two lines")),
        ("attributes", json!({"team": [1.5]})),
        ("max_total_ttl_s", json!(4 * HOUR)),
        ("approve_within_s", json!(24 * HOUR)),
        ("ticket", json!({"required": true, "pattern": "A|B", "anchored": r"\A(?:A|B)\z"})),
        ("max_uses", json!(3)),
        ("break_glass", json!({"eligible": ["group:oncall"], "max_ttl_s": 900})),
        ("revision", json!("v7")),
    ] {
        assert_eq!(json[field], wanted, "{field}");
    }
}

#[test]
fn covers_what_its_grant_would() {
    let entitlement = one(json!({
        "permissions": [{"hosts": ["*.svc"], "methods": ["GET"]}, {"paths": ["/x/**"]}],
        "conditions": {"source_cidrs": ["10.0.0.0/8"]},
    }));
    let at = |host, method, path, source: &str| {
        entitlement.covers(&Target::http(host, method, path, None).with_source(source.parse().ok()))
    };
    assert!(at("a.svc", "GET", "/", "10.1.1.1"));
    assert!(at("b", "POST", "/x/y", "10.1.1.1"));
    assert!(!at("b", "POST", "/y", "10.1.1.1"));
    assert!(!at("a.svc", "GET", "/a%2fb", "10.1.1.1"));
    assert!(!at("a.svc", "GET", "/", "11.1.1.1"));
    assert!(!at("a.svc", "GET", "/", ""), "an address that nobody knows is in no range");
    let roles = one(json!({"permissions": null, "roles": ["r"]}));
    assert!(!roles.covers(&Target::http("a.svc", "GET", "/", None)));
}

#[test]
fn a_revision_changes_with_anything_and_a_gift_with_what_is_given() {
    let before = one(json!({}));
    for changes in [json!({"max_ttl": "2h"}), json!({"approvers": ["group:x"]}), json!({"description": "d"})]
    {
        let after = one(changes.clone());
        assert_ne!(before.revision, after.revision, "{changes}");
        assert_eq!(before.gives(), after.gives(), "{changes}");
    }
    for changes in [
        json!({"permissions": [{"hosts": ["b.svc"]}]}),
        json!({"roles": ["r"]}),
        json!({"attributes": {"a": 1}}),
        json!({"conditions": {"source_cidrs": ["10.0.0.1"]}}),
        json!({"max_uses": 1}),
    ] {
        let after = one(changes.clone());
        assert_ne!(before.revision, after.revision, "{changes}");
        assert_ne!(before.gives(), after.gives(), "{changes}");
    }
    assert_eq!(before.revision, one(json!({})).revision);
    assert_eq!(before.digest(), one(json!({})).digest());
    let fixed = |max_ttl: &str| one(json!({"revision": "v7", "max_ttl": max_ttl}));
    assert_eq!(fixed("2h").revision, fixed("3h").revision);
    assert_ne!(fixed("2h").digest(), fixed("3h").digest());
    assert_ne!(one(json!({"revision": "v7"})).digest(), one(json!({"revision": "v8"})).digest());
}

#[test]
fn defaults_give_way_to_smaller_limits() {
    let data = json!({"daypass": {"entitlements": {"e": minimal()}}});
    let limits = Limits { max_grant_ttl: Duration::from_secs(600) };
    let all = Entitlements::from_data(&data, &limits).unwrap();
    let json = all.get("e").unwrap().to_json();
    for field in ["default_ttl_s", "max_ttl_s", "max_total_ttl_s"] {
        assert_eq!(json[field], 600, "{field}");
    }
    assert_eq!(json["break_glass"]["max_ttl_s"], 600);
    assert_eq!(one(json!({"max_ttl": "10m"})).default_ttl, Duration::from_secs(600));
}

#[test]
fn each_mistake_is_told_with_its_place() {
    for (changes, place, part) in [
        (json!({"aprovers": []}), "aprovers", "unknown field"),
        (json!({"permissions": [{"host": ["a"], "hosts": ["a"]}]}), "permissions[0].host", "unknown field"),
        (json!({"permissions": [{"hosts": ["a"]}, {}]}), "permissions[1]", "names hosts"),
        (json!({"permissions": [{"hosts": []}]}), "permissions[0]", "empty list"),
        (json!({"permissions": []}), "permissions", "empty list"),
        (json!({"permissions": {"hosts": []}}), "permissions", "must be a list"),
        (json!({"permissions": [{"hosts": "a"}]}), "permissions[0].hosts", "must be a list"),
        (json!({"permissions": [{"hosts": ["a", 7]}]}), "permissions[0].hosts[1]", "must be text"),
        (json!({"permissions": [{"paths": ["db/**"]}]}), "permissions[0]", "begin with `/`"),
        (json!({"permissions": [{"paths": ["/a/../b"]}]}), "permissions[0]", "never match"),
        (json!({"permissions": [{"paths": ["/a//b"]}]}), "permissions[0]", "never match"),
        (json!({"permissions": [{"hosts": ["https://a"]}]}), "permissions[0]", "never match"),
        (json!({"permissions": [{"methods": ["GET POST"]}]}), "permissions[0]", "never match"),
        (json!({"permissions": [{"grpc_methods": ["a.B"]}]}), "permissions[0]", "never match"),
        (json!({"permissions": [{"grpc_methods": ["a.B/*"], "methods": ["GET"]}]}), "permissions[0]", "POST"),
        (json!({"conditions": {}}), "conditions.source_cidrs", "says nothing"),
        (
            json!({"conditions": {"source_cidrs": ["10.0.0.0/33"]}}),
            "conditions.source_cidrs[0]",
            "address range",
        ),
        (
            json!({"conditions": {"source_cidrs": ["10.0.0.1"], "times": []}}),
            "conditions.times",
            "unknown field",
        ),
        (json!({"eligible": ["alice"]}), "eligible[0]", "a principal begins with"),
        (json!({"approvers": ["group:"]}), "approvers[0]", "a name after its kind"),
        (json!({"ask_for_others": [" user:x"]}), "ask_for_others[0]", "principal"),
        (json!({"approvers": null}), "approvers", "1 must agree, and nobody may"),
        (json!({"approvers": []}), "approvers", "1 must agree, and nobody may"),
        (json!({"approvers": ["user:a"], "approvals": 2}), "approvals", "only 1 of the approvers ever can"),
        (json!({"approvers": ["user:a", "user:a"], "approvals": 2}), "approvals", "only 1"),
        (json!({"approvers": ["user:a"], "eligible": ["user:a"]}), "approvals", "only 0"),
        (json!({"approvals": 21}), "approvals", "0 to 20"),
        (json!({"approvals": -1}), "approvals", "whole number"),
        (json!({"approvals": 1.5}), "approvals", "whole number"),
        (json!({"approvals": "2"}), "approvals", "not text"),
        (json!({"max_ttl": "8 hours"}), "max_ttl", "not a duration"),
        (json!({"max_ttl": 3600}), "max_ttl", "must be text"),
        (json!({"max_ttl": "25h"}), "max_ttl", "more than 1d (max_grant_ttl)"),
        (json!({"max_total_ttl": "2d"}), "max_total_ttl", "more than 1d"),
        (json!({"max_total_ttl": "1h"}), "max_total_ttl", "1h is less than max_ttl, which is 8h"),
        (json!({"default_ttl": "9h"}), "default_ttl", "9h is more than max_ttl, which is 8h"),
        (json!({"approve_within": "31d"}), "approve_within", "more than 30d"),
        (json!({"ticket": {"pattern": "("}}), "ticket.pattern", "not a regular expression"),
        (json!({"ticket": {"pattern": "a)|(b"}}), "ticket.pattern", "not a regular expression"),
        (json!({"ticket": {"pattern": "a{1000}{1000}"}}), "ticket.pattern", "not a regular expression"),
        (json!({"ticket": {"need": true}}), "ticket.need", "unknown field"),
        (json!({"justification": {"required": "yes"}}), "justification.required", "true or false"),
        (json!({"justification": true}), "justification", "an object"),
        (json!({"max_uses": 0}), "max_uses", "whole number"),
        (json!({"break_glass": {}}), "break_glass.eligible", "names nobody"),
        (json!({"break_glass": {"eligible": ["x:y"]}}), "break_glass.eligible[0]", "principal"),
        (
            json!({"break_glass": {"eligible": ["user:x"], "max_ttl": "3d"}}),
            "break_glass.max_ttl",
            "more than 1d",
        ),
        (json!({"webhooks": ["Not A Name"]}), "webhooks[0]", "a name is"),
        (json!({"roles": [""]}), "roles[0]", "empty"),
        (json!({"description": "\u{1b}[2J"}), "description", "control characters"),
        (json!({"revision": ""}), "revision", "empty"),
        (json!({"attributes": []}), "attributes", "an object"),
        (json!({"attributes": {"a": "x".repeat(20_000)}}), "attributes", "bytes"),
        (json!({"permissions": null}), "", "gives nothing"),
    ] {
        let place = if place.is_empty() {
            "data.daypass.entitlements.e: ".to_owned()
        } else {
            format!("e.{place}: ")
        };
        let found = mistakes(changes.clone());
        assert!(
            found.len() == 1 && found[0].contains(&place) && found[0].contains(part),
            "{changes} should say {part:?} at {place:?}: {found:#?}"
        );
    }
}

#[test]
fn what_could_match_is_no_mistake() {
    for changes in [
        json!({"permissions": [{"grpc_methods": ["a.B/*"], "methods": ["P*"]}]}),
        json!({"permissions": [{"grpc_methods": ["**"]}]}),
        json!({"permissions": [{"hosts": ["[::1]:80", "A.svc.", "*"], "paths": ["**", "/", "/a.b/*"]}]}),
        json!({"approvers": ["user:a", "user:b"], "eligible": ["user:a", "user:b"]}),
        json!({"approvers": ["user:a"], "eligible": ["user:a", "user:b"]}),
        json!({"approvers": ["user:a"], "eligible": ["user:a"], "allow_self_approval": true}),
        json!({"approvers": ["group:x"], "approvals": 5}),
        json!({"approvers": null, "approvals": 0}),
    ] {
        assert!(read(json!({"e": changed(changes.clone())})).is_ok(), "{changes}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let found = read(json!({
        "a": changed(json!({"max_ttl": "x", "approvers": null, "nope": 1})),
        "Bad Name": minimal(),
        "c": 7,
    }));
    let found = found.map(|_| ()).unwrap_err();
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found[0].starts_with("data.daypass.entitlements[\"Bad Name\"]: a name is"), "{found:#?}");
    let many: Map<String, Value> = (0..500).map(|n| (format!("E{n}"), json!(1))).collect();
    assert_eq!(read(Value::Object(many)).map(|_| ()).unwrap_err().len(), 100);
    for name in ["", "-a", "A", "a b", "a/b", "ä", &"a".repeat(64)] {
        assert!(read(json!({name: minimal()})).is_err(), "{name}");
    }
    for name in ["a", "0", "a.b_c-d", &"a".repeat(63)] {
        assert!(read(json!({name: minimal()})).is_ok(), "{name}");
    }
}

#[test]
fn who_runs_it() {
    let all = |data: Value| Entitlements::from_data(&data, &limits());
    let names = |principals: &[Principal]| principals.iter().map(ToString::to_string).collect::<Vec<_>>();
    for data in [json!({}), json!({"other": 1}), json!({"daypass": {"config": {}}}), Value::Null] {
        let found = all(data).unwrap();
        assert_eq!(names(found.administrators()), ["group:daypass-admins"]);
        assert!(found.auditors().is_empty() && found.is_empty());
    }
    let found =
        all(json!({"daypass": {"administrators": ["user:root"], "auditors": ["group:audit"]}})).unwrap();
    assert_eq!(
        (names(found.administrators()), names(found.auditors())),
        (vec!["user:root".into()], vec!["group:audit".into()])
    );
    assert!(all(json!({"daypass": {"administrators": []}})).unwrap().administrators().is_empty());
    for data in [
        json!({"daypass": []}),
        json!({"daypass": {"administrators": "user:root"}}),
        json!({"daypass": {"auditors": ["x"]}}),
        json!({"daypass": {"entitlements": []}}),
        json!({"daypass": {"adminstrators": ["user:root"]}}),
        json!({"daypass": {"entitlement": {}, "config": {}}}),
    ] {
        assert_eq!(all(data.clone()).map(|_| ()).unwrap_err().len(), 1, "{data}");
    }
}
