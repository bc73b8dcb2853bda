//! Writing JSON as Go writes it, and `opa.runtime`. Sets become arrays, keys become text.

use regorus::Value;

use super::values::{MAX_TEXT_BYTES, object, sorted_members, too_large};
use super::{Builtin, Fault, Outcome, binary, kind_of, nullary, sprintf, unary};

pub const BUILTINS: [Builtin; 3] = [
    unary("json.marshal", |value| written(value, None).map(Value::from)),
    binary("json.marshal_with_options", marshal_with_options),
    nullary("opa.runtime", opa_runtime),
];

/// The version is ours. There is no environment and no configuration in it: a policy's answer hangs on its input and
/// data alone, and the environment holds secrets.
#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn opa_runtime() -> Outcome {
    let mut runtime = Value::new_object();
    if let Ok(members) = runtime.as_object_mut() {
        members.insert(Value::from("version"), Value::from(env!("CARGO_PKG_VERSION")));
        members.insert(Value::from("env"), Value::new_object());
        members.insert(Value::from("config"), Value::new_object());
    }
    Ok(runtime)
}

/// How a text is laid out on lines.
pub struct Layout<'a> {
    prefix: &'a str,
    indent: &'a str,
}

pub fn written(value: &Value, layout: Option<&Layout<'_>>) -> Result<String, Fault> {
    let mut writer = Writer { out: String::new(), layout };
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// A key as JSON has it: text itself, anything else as its JSON.
pub fn key(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_string(),
        other => written(other, None).unwrap_or_default(),
    }
}

struct Writer<'a> {
    out: String,
    layout: Option<&'a Layout<'a>>,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Fault> {
        if self.out.len() > MAX_TEXT_BYTES {
            return Err(too_large());
        }
        match value {
            Value::Null | Value::Undefined => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => self.out.push_str(&number.format_decimal()),
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                self.list('[', ']', items.iter(), depth, |writer, item| writer.value(item, depth + 1))?;
            }
            Value::Set(items) => {
                self.list('[', ']', items.iter_sorted(), depth, |writer, item| {
                    writer.value(item, depth + 1)
                })?;
            }
            Value::Object(_) => {
                let members = sorted_members(value);
                self.list('{', '}', members.iter(), depth, |writer, (name, value)| {
                    writer.string(name);
                    writer.out.push_str(if writer.layout.is_some() { ": " } else { ":" });
                    writer.value(value, depth + 1)
                })?;
            }
        }
        Ok(())
    }

    fn list<T>(
        &mut self,
        open: char,
        close: char,
        items: impl Iterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.out.push(open);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                self.out.push(',');
            }
            is_empty = false;
            self.line(depth + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(layout) = self.layout {
            self.out.push('\n');
            self.out.push_str(layout.prefix);
            (0..depth).for_each(|_| self.out.push_str(layout.indent));
        }
    }

    /// With what HTML could take for its own escaped, as Go does it.
    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    sprintf::push_escape(&mut self.out, "\\u", c.into(), 4);
                }
                other => self.out.push(other),
            }
        }
        self.out.push('"');
    }
}

fn marshal_with_options(value: &Value, options: &Value) -> Outcome {
    let (mut prefix, mut indent, mut pretty, mut is_laid_out) = ("", "\t", None, false);
    for (index, (key, option)) in object(2, options)?.iter_sorted().enumerate() {
        let wrong = |message: String| Fault::Type(format!("operand 2 {message}"));
        let Value::String(name) = key else {
            let (key, kind) = (sprintf::term(key), kind_of(key));
            return Err(wrong(format!(
                "failed to stringify key {key} at index {index}: operand {index} must be string but got {kind}"
            )));
        };
        let shown = sprintf::quoted(name, '"');
        match (name.as_ref(), option) {
            ("prefix", Value::String(text)) => (prefix, is_laid_out) = (text.as_ref(), true),
            ("indent", Value::String(text)) => (indent, is_laid_out) = (text.as_ref(), true),
            ("pretty", Value::Bool(value)) => pretty = Some(*value),
            ("prefix" | "indent", other) => {
                let kind = kind_of(other);
                return Err(wrong(format!(
                    "key {shown} failed cast to string: operand {index} must be string but got {kind}"
                )));
            }
            ("pretty", _) => return Err(wrong(format!("key {shown} failed cast to bool"))),
            _ => return Err(wrong(format!("object contained unknown key {shown}"))),
        }
    }
    if !pretty.unwrap_or(is_laid_out) {
        return written(value, None).map(Value::from);
    }
    let layout = Layout { prefix, indent };
    Ok(Value::from(format!("{prefix}{}", written(value, Some(&layout))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes() {
        let value = Value::from_json_str(r#"{"b":[1,"<&\u2028\u0001"],"a":{},"c":[]}"#).unwrap();
        assert_eq!(
            written(&value, None).as_deref(),
            Ok("{\"a\":{},\"b\":[1,\"\\u003c\\u0026\\u2028\\u0001\"],\"c\":[]}")
        );
        let layout = Layout { prefix: "> ", indent: "  " };
        let small = Value::from_json_str(r#"{"a":[1]}"#).unwrap();
        assert_eq!(written(&small, Some(&layout)).as_deref(), Ok("{\n>   \"a\": [\n>     1\n>   ]\n> }"));
    }

    #[test]
    fn an_indent_does_not_multiply_without_bound() {
        let deep = (0..200).fold(Value::from(vec![Value::Null; 2000]), |inner, _| Value::from(vec![inner]));
        let options = Value::from_json_str(&format!("{{\"indent\":\"{}\"}}", " ".repeat(1000))).unwrap();
        assert_eq!(marshal_with_options(&deep, &options), Err(too_large()));
    }
}
