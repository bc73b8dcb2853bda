//! The data files of a bundle put together. None of them may overwrite what another says.

use serde_json::{Map, Value as Json};

use super::BundleError;

/// JSON as OPA reads it. Depth is bounded by the reader: 128.
pub fn json(path: &str, bytes: &[u8]) -> Result<Json, BundleError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|error| BundleError::Content(format!("{path}: not JSON: {error}")))
}

/// Puts `value` at the place that its file's directory says.
pub fn insert(
    into: &mut Map<String, Json>,
    directory: &[&str],
    value: Json,
    file: &str,
) -> Result<(), BundleError> {
    let rooted = directory
        .iter()
        .rev()
        .fold(value, |inner, name| Json::Object(Map::from_iter([((*name).to_owned(), inner)])));
    let Json::Object(members) = rooted else {
        return Err(BundleError::Content(format!("{file}: data at the root must be an object")));
    };
    merge(into, members, &mut vec!["data".to_owned()])
        .map_err(|place| BundleError::Content(format!("{file}: {place} is set by another file already")))
}

/// What of two bundles fits together: their roots differ, so only objects above the roots can meet.
///
/// # Errors
/// The place that both set.
pub fn merge(
    into: &mut Map<String, Json>,
    from: Map<String, Json>,
    place: &mut Vec<String>,
) -> Result<(), String> {
    for (name, value) in from {
        place.push(name.clone());
        match (into.get_mut(&name), value) {
            (None, value) => {
                into.insert(name, value);
            }
            (Some(Json::Object(existing)), Json::Object(members)) => merge(existing, members, place)?,
            (Some(_), _) => return Err(place.join(".")),
        }
        place.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_meet_in_one_tree_and_do_not_overwrite_each_other() {
        let mut data = Map::new();
        insert(&mut data, &[], json!({"a": {"x": 1}}), "data.json").unwrap();
        insert(&mut data, &["a", "b"], json!([1]), "a/b/data.json").unwrap();
        insert(&mut data, &["c"], json!("text"), "c/data.yaml").unwrap();
        assert_eq!(Json::Object(data.clone()), json!({"a": {"x": 1, "b": [1]}, "c": "text"}));
        let mut refusal = |directory: &[&str], value: Json| {
            insert(&mut data, directory, value, "f").unwrap_err().to_string()
        };
        assert_eq!(refusal(&["a"], json!({"x": 1})), "f: data.a.x is set by another file already");
        assert_eq!(refusal(&["c"], json!({})), "f: data.c is set by another file already");
        assert_eq!(refusal(&[], json!([])), "f: data at the root must be an object");
    }

    #[test]
    fn depth_is_bounded() {
        assert!(json("f", "[".repeat(100_000).as_bytes()).is_err());
    }
}
