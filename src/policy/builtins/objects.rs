//! Objects: reading, picking and merging members.

#![allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]

use std::collections::BTreeSet;

use regorus::Value;
use regorus::value::{Object, Set};

use super::values::{array, element, none_of, object};
use super::{Builtin, Fault, Outcome, binary, ternary, unary};

pub const BUILTINS: [Builtin; 7] = [
    ternary("object.get", get),
    unary("object.keys", keys),
    binary("object.remove", |value, keys| picked(value, keys, false)),
    binary("object.filter", |value, keys| picked(value, keys, true)),
    binary("object.subset", subset),
    binary("object.union", union),
    unary("object.union_n", union_many),
];

fn get(value: &Value, key: &Value, default: &Value) -> Outcome {
    let members = object(1, value)?;
    let found = match key {
        Value::Array(path) => path.iter().try_fold(value, |inner, key| step(inner, key)),
        key => members.get(key),
    };
    Ok(found.unwrap_or(default).clone())
}

fn step<'a>(value: &'a Value, key: &Value) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.get(key),
        Value::Array(items) => items.get(usize::try_from(key.as_i64().ok()?).ok()?),
        Value::Set(items) => items.get(key),
        _ => None,
    }
}

fn keys(value: &Value) -> Outcome {
    Ok(object(1, value)?.keys().cloned().collect::<Set>().into_value())
}

fn picked(value: &Value, keys: &Value, kept: bool) -> Outcome {
    let members = object(1, value)?;
    let keys: BTreeSet<&Value> = match keys {
        Value::Array(keys) => keys.iter().collect(),
        Value::Set(keys) => keys.iter().collect(),
        Value::Object(members) => members.keys().collect(),
        other => return Err(none_of(2, &["object", "set", "array"], other)),
    };
    let picked = members.iter().filter(|(key, _)| keys.contains(key) == kept);
    Ok(picked.map(|(key, value)| (key.clone(), value.clone())).collect::<Object>().into_value())
}

fn subset(whole: &Value, part: &Value) -> Outcome {
    Ok(Value::Bool(match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => has_members(whole, part),
        (Value::Set(whole), Value::Set(part)) => part.is_subset(whole),
        (Value::Array(whole), Value::Array(part)) => has_run(whole.as_slice(), part.as_slice()),
        // An empty set is in an empty array, says the definition; OPA says no.
        (Value::Array(whole), Value::Set(part)) => {
            !whole.is_empty() && {
                let items: BTreeSet<&Value> = whole.iter().collect();
                part.iter().all(|item| items.contains(item))
            }
        }
        _ => {
            return Err(Fault::Type(
                "both arguments object.subset must be of the same type or array and set".to_owned(),
            ));
        }
    }))
}

fn has_members(whole: &Object, part: &Object) -> bool {
    part.iter().all(|(key, part)| match (whole.get(key), part) {
        (Some(Value::Object(whole)), Value::Object(part)) => has_members(whole, part),
        (Some(Value::Set(whole)), Value::Set(part)) => part.is_subset(whole),
        (Some(Value::Array(whole)), Value::Array(part)) => has_run(whole.as_slice(), part.as_slice()),
        (whole, part) => whole == Some(part),
    })
}

/// Knuth, Morris and Pratt: two arrays of one request could ask for the product of their lengths.
fn has_run(whole: &[Value], part: &[Value]) -> bool {
    if part.is_empty() {
        return true;
    }
    // For each item, how many before it and with it are again what the part begins with.
    let (mut borders, mut same) = (vec![0], 0);
    for item in part.iter().skip(1) {
        same = extended(part, &borders, same, item);
        borders.push(same);
    }
    same = 0;
    whole.iter().any(|item| {
        same = extended(part, &borders, same, item);
        same == part.len()
    })
}

/// How many items of the part end with this one, where `same` ended before it.
fn extended(part: &[Value], borders: &[usize], mut same: usize, item: &Value) -> usize {
    loop {
        if part.get(same) == Some(item) {
            return same + 1;
        }
        let Some(last) = same.checked_sub(1) else { return 0 };
        same = borders.get(last).copied().unwrap_or(0);
    }
}

fn union(a: &Value, b: &Value) -> Outcome {
    let (mut merged, b) = (object(1, a)?.clone(), object(2, b)?);
    merge(&mut merged, b);
    Ok(merged.into_value())
}

fn union_many(value: &Value) -> Outcome {
    let mut merged = Object::new();
    for item in array(1, value)? {
        let Value::Object(members) = item else { return Err(element(1, value, "object", item)) };
        merge(&mut merged, members);
    }
    Ok(merged.into_value())
}

/// The other object's members win; objects under one key are merged.
fn merge(merged: &mut Object, other: &Object) {
    for (key, value) in other.iter() {
        match (merged.get_mut(key), value) {
            (Some(Value::Object(_)), Value::Object(members)) => {
                if let Some(inner) = merged.get_mut(key).and_then(|inner| inner.as_object_mut().ok()) {
                    merge(inner, members);
                }
            }
            (Some(slot), value) => *slot = value.clone(),
            (None, value) => {
                merged.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(json: &str) -> Value {
        Value::from_json_str(json).unwrap()
    }

    #[test]
    fn later_members_win() {
        let merged = union_many(&v(r#"[{"a":{"b":2}},{"a":4},{"a":{"c":3}},{"a":{"d":1}}]"#));
        assert_eq!(merged, Ok(v(r#"{"a":{"c":3,"d":1}}"#)));
        assert!(union_many(&v("[1]")).is_err());
    }

    #[test]
    fn paths_go_through_arrays() {
        let value = v(r#"{"a":[{"b":1}]}"#);
        assert_eq!(get(&value, &v(r#"["a",0,"b"]"#), &Value::Null), Ok(v("1")));
        assert_eq!(get(&value, &v(r#"["a",-1,"b"]"#), &Value::Null), Ok(Value::Null));
        assert_eq!(get(&value, &v("[]"), &Value::Null), Ok(value.clone()));
    }

    #[test]
    fn parts() {
        let is = |whole: &str, part: &str| subset(&v(whole), &v(part)).unwrap() == Value::Bool(true);
        assert!(is("[1,1,2,3]", "[1,2]"));
        assert!(!is("[1,2,3]", "[1,3]"));
        assert!(is(r#"{"a":{"b":[1,2]},"c":1}"#, r#"{"a":{"b":[2]}}"#));
        assert!(!is(r#"{"a":1}"#, r#"{"b":1}"#));
        assert!(subset(&v("1"), &v("1")).is_err());
    }

    #[test]
    fn runs_in_long_arrays_are_found_in_linear_time() {
        let run = |zeros: usize, last: u64| {
            let mut items = vec![Value::from(0_u64); zeros];
            items.push(Value::from(last));
            Value::from(items)
        };
        assert_eq!(subset(&run(12_000, 2), &run(6000, 2)), Ok(Value::Bool(true)));
        let started = std::time::Instant::now();
        assert_eq!(subset(&run(100_000, 1), &run(50_000, 2)), Ok(Value::Bool(false)));
        assert!(started.elapsed() < std::time::Duration::from_secs(1));
        for (whole, part, expected) in [
            ("[1,2,1,2,1,3]", "[1,2,1,3]", true),
            ("[1,1,1,2]", "[1,1,2]", true),
            ("[1,2,1,2]", "[1,2,3]", false),
            ("[1]", "[1,1]", false),
            ("[]", "[]", true),
            ("[[0],[0],[1]]", "[[0],[1]]", true),
        ] {
            assert_eq!(subset(&v(whole), &v(part)), Ok(Value::Bool(expected)), "{whole} {part}");
        }
    }
}
