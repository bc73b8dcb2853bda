use super::*;

const SCHEMA: &str =
    "type Query { me: User all(first: Int = 3, kind: Kind): [Named!]! } interface Named { name: String! }
    type User implements Named { name: String! friends: [User!] age: Int } enum Kind { A B }";

fn problem(query: &str) -> String {
    match parse(&Value::from(query), &Value::from(SCHEMA)) {
        Ok(_) => String::new(),
        Err(Fault::Type(message) | Fault::Failed(message) | Fault::Conflict(message)) => message,
    }
}

#[test]
fn a_query_is_held_against_the_schema() {
    for good in [
        "{ me { name ...F } } fragment F on User { friends { age } }",
        "query Q($n: Int!) { all(first: $n, kind: B) { name ... on User { age __typename } } }",
        "{ __schema { types { name } } __type(name: \"User\") { kind } }",
    ] {
        assert_eq!(problem(good), "", "{good}");
    }
    for (bad, wanted) in [
        ("{ me { nmae } }", "Cannot query field \"nmae\" on type \"User\". Did you mean \"name\"?"),
        (
            "{ all { age } }",
            "Cannot query field \"age\" on type \"Named\". Did you mean to use an inline fragment on",
        ),
        ("{ me }", "must have a selection of subfields. Did you mean \"me { ... }\"?"),
        ("{ all(first: \"x\") { name } }", "Int cannot represent non-integer value: \"x\" in"),
        (
            "{ all(kind: C) { name } }",
            "Value \"C\" does not exist in \"Kind\" enum. Did you mean the enum value",
        ),
        ("query ($a: Int) { me { age } }", "Variable \"$a\" is never used in GraphQL string at location 1:8"),
        (
            "{ me { a: name a: age } }",
            "Fields \"a\" conflict because \"name\" and \"age\" are different fields.",
        ),
        ("{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }", "within itself via \"B\" in"),
        ("mutation { x }", "Schema does not support operation type \"mutation\""),
        ("{ me { name @skip } }", "argument \"if\" of type \"Boolean!\" is required"),
    ] {
        assert!(problem(bad).contains(wanted), "{bad}: {}", problem(bad));
    }
}

#[test]
fn documents_survive_as_objects() {
    let query =
        "query Q($n: [Int!] = [1]) { me { ...F ... @skip(if: true) { age } } } fragment F on User { name }";
    let found = query_of(&Value::from(query)).unwrap();
    let again = QueryDocument::from_value(&found, 0).unwrap();
    assert_eq!(again.to_value(), found);
    let found = schema_of(&Value::from(SCHEMA)).unwrap();
    assert_eq!(schema_is_valid(&found), Ok(Value::Bool(true)));
    for other in ["[]", "{\"Operations\": 1}", "{\"Operations\": [{\"Operation\": \"x\"}]}", "7"] {
        let other = Value::from_json_str(other).unwrap();
        assert_eq!(is_valid(&other, &found), Ok(Value::Bool(false)));
    }
}

#[test]
#[allow(clippy::format_collect, reason = "once")]
fn depth_and_steps_are_bounded() {
    let depth = 100_000;
    let nested = "{a".repeat(depth) + &"}".repeat(depth);
    assert!(query_of(&Value::from(nested)).is_err());
    let lists = format!("{{ a(x: {}) }}", "[".repeat(depth));
    assert!(query_of(&Value::from(lists)).is_err());
    let types = format!("type A {{ a: {} }}", "[".repeat(depth));
    assert!(schema_of(&Value::from(types)).is_err());
    // Exponential for who compares all pairs.
    let deep = (0..25).fold("name".to_owned(), |inner, level| {
        if level < 12 {
            format!("friends {{ {inner} }} friends {{ {inner} }}")
        } else {
            format!("friends {{ {inner} }}")
        }
    });
    assert!(problem(&format!("{{ me {{ {deep} }} }}")).contains("steps"));
    let chain: String = (0..20_000).map(|n| format!("fragment F{n} on User {{ ...F{} }} ", n + 1)).collect();
    assert!(problem(&format!("{{ me {{ ...F0 }} }} {chain}")).contains("deeper"));
    let fan: String = (0..2_000).map(|n| format!("fragment G{n} on User {{ ...G0 name }} ")).collect();
    let spreads: String = (0..2_000).map(|n| format!("...G{n} ")).collect();
    assert!(!problem(&format!("{{ me {{ {spreads} }} }} {fan}")).is_empty());
}

#[test]
fn schemas_are_kept_and_so_is_what_is_wrong_with_them() {
    for schema in [SCHEMA, "type Query { a: Missing }", "type"] {
        let schema = Value::from(schema);
        assert!(Rc::ptr_eq(&valid_schema(&schema), &valid_schema(&schema)));
        let (first, second) = (parse(&Value::from("{ me { name } }"), &schema), schema_is_valid(&schema));
        assert_eq!(first.is_ok(), second == Ok(Value::Bool(true)));
        assert_eq!(first, parse(&Value::from("{ me { name } }"), &schema));
    }
}
