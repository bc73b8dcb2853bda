//! `json.match_schema` and `json.verify_schema`: JSON Schema of drafts 4, 6 and 7 with gojsonschema's words, which no
//! crate has.
//!
//! No reference is ever fetched, from the network or from a file. Schemas and documents can be strangers': steps and
//! depth are bounded, and so is what a thread keeps of schemas.

mod check;
mod format;
mod number;
mod validate;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use regorus::Value;

use self::check::Schemas;
use self::validate::Failure;
use super::super::json;
use super::values::Latest;
use super::{Builtin, Fault, Outcome, binary, unary};

pub const BUILTINS: [Builtin; 2] =
    [binary("json.match_schema", match_schema), unary("json.verify_schema", verify_schema)];

/// What is wrong with a schema is kept too: finding it takes as long.
type Checked = Result<Schemas, String>;

thread_local! {
    static KEPT: RefCell<Latest<Checked>> = const { RefCell::new(Latest::new()) };
}

fn schemas(operand: &Value) -> Rc<Checked> {
    let checked = |operand: &Value| {
        let checked = document(operand).and_then(|schema| Schemas::of(&schema));
        let patterns = checked.as_ref().map_or(0, |schemas| schemas.pattern_bytes);
        (checked, patterns)
    };
    KEPT.with_borrow_mut(|kept| kept.of(operand, checked))
}

/// JSON in a text, or a value that is JSON.
fn document(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(text) => json::parse(text).map_err(|_| "invalid JSON string".to_owned()),
        Value::Object(_) | Value::Array(_) => Ok(value.clone()),
        _ => Err("wrong type, expected string or object".to_owned()),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn verify_schema(schema: &Value) -> Outcome {
    let (is_valid, why) = match schemas(schema).as_ref() {
        Ok(_) => (true, Value::Null),
        Err(message) => (false, Value::from(format!("jsonschema: {message}"))),
    };
    Ok(Value::from(vec![Value::Bool(is_valid), why]))
}

fn match_schema(value: &Value, schema: &Value) -> Outcome {
    let value = document(value).map_err(Fault::failed)?;
    let schemas = schemas(schema);
    let schemas = schemas.as_ref().as_ref().map_err(Fault::failed)?;
    let failures = validate::validate(schemas, &value).map_err(Fault::failed)?;
    let shown = |failure: Failure| {
        let error = format!("{}: {}", failure.field, failure.description);
        Value::from(BTreeMap::from([
            (Value::from("error"), Value::from(error)),
            (Value::from("type"), Value::from(failure.kind)),
            (Value::from("field"), Value::from(failure.field)),
            (Value::from("desc"), Value::from(failure.description)),
        ]))
    };
    let is_valid = failures.is_empty();
    let failures: Vec<Value> = failures.into_iter().map(shown).collect();
    Ok(Value::from(vec![Value::Bool(is_valid), Value::from(failures)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(schema: &str, document: &str) -> Vec<String> {
        let schema = Value::from_json_str(schema).unwrap();
        let document = Value::from_json_str(document).unwrap();
        let schemas = match Schemas::of(&schema) {
            Ok(schemas) => schemas,
            Err(message) => return vec![message],
        };
        match validate::validate(&schemas, &document) {
            Ok(failures) => failures
                .into_iter()
                .map(|failure| format!("{} {}: {}", failure.kind, failure.field, failure.description))
                .collect(),
            Err(message) => vec![message],
        }
    }

    #[test]
    fn keywords_have_their_meaning_and_words() {
        for (schema, document, wanted) in [
            (
                r#"{"type": ["string", "null"]}"#,
                "1.0",
                "invalid_type (root): Invalid type. Expected: string,null, given: integer",
            ),
            (r#"{"required": ["a"]}"#, "{}", "required (root): a is required"),
            (
                r#"{"properties": {"a": {"items": {"minimum": 2.5}}}}"#,
                r#"{"a": [3, 2]}"#,
                "number_gte a.1: Must be greater than or equal to 2.5",
            ),
            (r#"{"enum": ["a", 1]}"#, "2", "enum (root): (root) must be one of the following: \"a\", 1"),
            (r#"{"const": {"a": 1}}"#, "1", "const (root): (root) does not match: {\"a\":1}"),
            (
                r#"{"additionalProperties": false, "patternProperties": {"^x": true}}"#,
                r#"{"x1": 1, "y": 2}"#,
                "additional_property_not_allowed (root): Additional property y is not allowed",
            ),
            (r#"{"multipleOf": 0.1}"#, "0.25", "multiple_of (root): Must be a multiple of 0.1"),
            (r#"{"uniqueItems": true}"#, "[1, 2, 1.0]", "unique (root): array items[0,2] must be unique"),
            (
                r#"{"maxLength": 1}"#,
                "\"éé\"",
                "string_lte (root): String length must be less than or equal to 1",
            ),
            (r#"{"pattern": "^a+$"}"#, "\"ab\"", "pattern (root): Does not match pattern '^a+$'"),
            (r#"{"format": "ipv4"}"#, "\"1.2.3\"", "format (root): Does not match format 'ipv4'"),
            (
                r#"{"not": {"type": "string"}}"#,
                "\"x\"",
                "number_not (root): Must not validate the schema (not)",
            ),
            (
                r#"{"dependencies": {"a": ["b"]}}"#,
                r#"{"a": 1}"#,
                "missing_dependency (root): Has a dependency on b",
            ),
            (r#"{"contains": {"const": 1}}"#, "[]", "contains (root): At least one of the items must match"),
            (
                r#"{"propertyNames": {"maxLength": 1}}"#,
                r#"{"ab": 1}"#,
                "invalid_property_name (root): Property name of \"ab\" does not match",
            ),
            (
                r#"{"if": {"const": 1}, "then": false}"#,
                "1",
                "condition_then (root): Must validate \"then\" as \"if\" was valid",
            ),
            (
                r#"{"anyOf": [{"type": "string"}]}"#,
                "1",
                "number_any_of (root): Must validate at least one schema (anyOf)",
            ),
            (
                r##"{"definitions": {"a/b": {"type": "null"}}, "properties": {"x": {"$ref": "#/definitions/a~1b"}}}"##,
                r#"{"x": 1}"#,
                "invalid_type x: Invalid type. Expected: null, given: integer",
            ),
            (
                r##"{"definitions": {"n": {"$id": "#node", "type": "null"}}, "$ref": "#node"}"##,
                "1",
                "invalid_type (root)",
            ),
        ] {
            let found = errors(schema, document);
            assert!(
                found.first().is_some_and(|found| found.starts_with(wanted)),
                "{schema} {document}: {found:?}"
            );
        }
        for (schema, document) in [
            (r#"{"multipleOf": 0.1}"#, "0.3"),
            (r#"{"oneOf": [{"type": "string"}, {"minimum": 5}]}"#, "7"),
            (
                r#"{"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": false}"#,
                "1",
            ),
            (
                r##"{"properties": {"next": {"$ref": "#"}}, "additionalProperties": false}"##,
                r#"{"next": {"next": {}}}"#,
            ),
            ("true", "1"),
        ] {
            assert_eq!(errors(schema, document), Vec::<String>::new(), "{schema}");
        }
    }

    #[test]
    fn schemas_are_checked() {
        for (schema, wanted) in [
            (r#"{"type": "unknown"}"#, "has a primitive type that is NOT VALID -- given: /unknown/"),
            (r#"{"type": ["null", "null"]}"#, "null type is duplicated"),
            (r#"{"minLength": -1}"#, "minLength must be greater than or equal to 0"),
            (r#"{"multipleOf": 0}"#, "multipleOf must be strictly greater than 0"),
            (r#"{"pattern": "("}"#, "pattern must be a valid regex"),
            (r#"{"required": ["a", "a"]}"#, "required items must be unique"),
            (r#"{"properties": {"a": 1}}"#, "Expected: valid schema, given: Invalid JSON"),
            (r#"{"$ref": "http://example.com/x"}"#, "remote reference"),
            (r#"{"$ref": "file:///etc/passwd"}"#, "remote reference"),
            (r##"{"$ref": "#/nowhere"}"##, "Object has no key 'nowhere'"),
            ("3", "schema is invalid"),
        ] {
            let found = errors(schema, "1");
            assert!(found.first().is_some_and(|found| found.contains(wanted)), "{schema}: {found:?}");
        }
    }

    #[test]
    fn hostile_schemas_end() {
        assert_eq!(errors(r##"{"$ref": "#"}"##, "1").len(), 1);
        let mutual = r##"{"definitions": {"a": {"anyOf": [{"$ref": "#/definitions/b"}, {"$ref": "#/definitions/b"}]},
            "b": {"allOf": [{"$ref": "#/definitions/a"}, {"$ref": "#/definitions/a"}]}}, "$ref": "#/definitions/a"}"##;
        assert_eq!(errors(mutual, "1").len(), 1);
        let doubling = (0..40).fold("{}".to_owned(), |inner, level| {
            format!(
                r##"{{"definitions": {{"d": {inner}}}, "allOf": [{{"$ref": "#{0}"}}, {{"$ref": "#{0}"}}]}}"##,
                "/definitions/d".repeat(40 - level)
            )
        });
        assert_eq!(errors(&doubling, "1").len(), 1);
    }

    #[test]
    fn schemas_are_kept_and_so_is_what_is_wrong_with_them() {
        for schema in [r#"{"type":"number"}"#, r#"{"type":1}"#, "{"] {
            let schema = Value::from(schema);
            assert!(Rc::ptr_eq(&schemas(&schema), &schemas(&schema)));
        }
        for least in 0..20 {
            let schema = Value::from_json_str(&format!(r#"{{"minItems":{least}}}"#)).unwrap();
            let checked = match_schema(&Value::from(vec![Value::Null; least]), &schema).unwrap();
            assert_eq!(checked[0], Value::Bool(true));
        }
    }
}
