//! What is in a UUID. New ones are the engine's to make, one for each key and evaluation.

use std::collections::BTreeMap;

use regorus::Value;
use uuid::Uuid;

use super::{Builtin, Outcome, text, unary};

pub const BUILTINS: [Builtin; 1] = [unary("uuid.parse", parse)];

/// From 15 October 1582, in steps of 100 nanoseconds, to 1970.
const STEPS_TO_1970: i128 = 0x01b2_1dd2_1381_4000;

/// What is no UUID has no value, and is no error: so it is in OPA.
fn parse(value: &Value) -> Outcome {
    let Ok(uuid) = Uuid::parse_str(text(1, value)?) else { return Ok(Value::Undefined) };
    let version = uuid.get_version_num();
    let mut parts = BTreeMap::new();
    let mut put = |name: &str, value: Value| parts.insert(Value::from(name), value);
    put("version", Value::from(version));
    let (low, middle, high, rest) = uuid.as_fields();
    let [sequence_high, sequence_low, node @ ..] = *rest;
    put("variant", Value::from(variant(sequence_high)));
    if matches!(version, 1 | 2) {
        let steps = i128::from(high & 0x0fff) << 48 | i128::from(middle) << 32 | i128::from(low);
        put("time", Value::from((steps - STEPS_TO_1970) * 100));
        put("nodeid", Value::from(node.map(|byte| format!("{byte:02x}")).join("-")));
        let [first, ..] = node;
        put("macvariables", Value::from(address_kind(first)));
        let sequence = u16::from_be_bytes([sequence_high & 0x3f, sequence_low]);
        put("clocksequence", Value::from(u64::from(sequence)));
        if version == 2 {
            put("id", Value::from(u64::from(low)));
            put("domain", Value::from(domain(sequence_low)));
        }
    }
    Ok(Value::from(parts))
}

fn variant(byte: u8) -> &'static str {
    match byte >> 5 {
        0b100 | 0b101 => "RFC4122",
        0b110 => "Microsoft",
        0b111 => "Future",
        _ => "Reserved",
    }
}

fn address_kind(byte: u8) -> &'static str {
    match byte & 0b11 {
        0b11 => "local:multicast",
        0b01 => "global:multicast",
        0b10 => "local:unicast",
        _ => "global:unicast",
    }
}

fn domain(byte: u8) -> String {
    match byte {
        0 => "Person".to_owned(),
        1 => "Group".to_owned(),
        2 => "Org".to_owned(),
        other => format!("Domain{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_uuid_is_taken_apart() {
        let parsed = |text: &str| parse(&Value::from(text)).map(|value| value.to_string());
        let first = parsed("00000000-0000-1000-c000-000000000000").unwrap();
        assert!(first.contains(r#""time":-12219292800000000000"#) && first.contains("Microsoft"), "{first}");
        assert!(parsed("ffffffff-ffff-2fff-8fff-ffffffffffff").unwrap().contains("Domain255"));
        assert!(!parsed("018f0000-0000-7000-8000-000000000000").unwrap().contains("time"));
        assert_eq!(parsed("x"), Ok(Value::Undefined.to_string()));
    }
}
