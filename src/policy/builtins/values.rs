//! Reading operands with OPA's error texts, and the bounds that every family shares: values come from strangers'
//! requests, and the time limit of an evaluation is not looked at inside a built-in.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;

use num_bigint::BigInt;
use regorus::Value;
use regorus::value::{Array, Object, Set};

use super::{Fault, kind_of};

/// Bytes of a text that a built-in makes. Far above any answer, and far below what a server misses.
pub const MAX_TEXT_BYTES: usize = 16 << 20;
/// Values that a built-in makes out of a few: a range of numbers, the addresses of a network.
pub const MAX_ITEMS: usize = 1 << 17;
/// Bits of an integer that a built-in makes: two thousand times those of the largest amount.
pub const MAX_INTEGER_BITS: u64 = 1 << 16;

pub fn array(position: usize, value: &Value) -> Result<&Array, Fault> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(Fault::operand(position, "array", other)),
    }
}

pub fn object(position: usize, value: &Value) -> Result<&Object, Fault> {
    match value {
        Value::Object(members) => Ok(members),
        other => Err(Fault::operand(position, "object", other)),
    }
}

pub fn set(position: usize, value: &Value) -> Result<&Set, Fault> {
    match value {
        Value::Set(items) => Ok(items),
        other => Err(Fault::operand(position, "set", other)),
    }
}

/// The operand is of none of several types.
pub fn none_of(position: usize, wanted: &[&str], found: &Value) -> Fault {
    Fault::operand(position, &format!("one of {{{}}}", wanted.join(", ")), found)
}

/// Items of an array or a set, in OPA's order.
pub fn items(value: &Value) -> Option<Vec<&Value>> {
    match value {
        Value::Array(items) => Some(items.iter().collect()),
        Value::Set(items) => Some(items.iter_sorted().collect()),
        _ => None,
    }
}

pub fn element(position: usize, collection: &Value, wanted: &str, found: &Value) -> Fault {
    let kind = kind_of(collection);
    Fault::Type(format!(
        "operand {position} must be {kind} of {wanted}s but got {kind} containing {}",
        kind_of(found)
    ))
}

/// The strings of an array or a set.
pub fn strings<'a>(position: usize, value: &'a Value, wanted: &[&str]) -> Result<Vec<&'a str>, Fault> {
    let items = items(value).ok_or_else(|| none_of(position, wanted, value))?;
    let text = |item: &'a Value| match item {
        Value::String(text) => Ok(text.as_ref()),
        other => Err(element(position, value, "string", other)),
    };
    items.into_iter().map(text).collect()
}

/// A whole number that 64 bits hold.
pub fn int(position: usize, value: &Value) -> Result<i64, Fault> {
    match value {
        Value::Number(number) => number.as_i64().ok_or_else(|| floating(position)),
        other => Err(Fault::operand(position, "number", other)),
    }
}

pub fn floating(position: usize) -> Fault {
    Fault::kind(position, "integer number", "floating-point number")
}

/// A whole number of any size.
pub fn big(position: usize, value: &Value) -> Result<BigInt, Fault> {
    match value {
        Value::Number(_) => whole(value).ok_or_else(|| floating(position)),
        other => Err(Fault::operand(position, "integer", other)),
    }
}

/// The whole number that a value is.
pub fn whole(value: &Value) -> Option<BigInt> {
    let Value::Number(number) = value else { return None };
    if let Some(small) = number.as_i64() {
        return Some(BigInt::from(small));
    }
    if let Some(large) = number.as_big() {
        return Some(BigInt::clone(&large));
    }
    // A double of more than 53 bits; its digits are exact.
    let double = number.as_f64().filter(|double| double.is_finite() && double.fract() == 0.0)?;
    format!("{double:.0}").parse().ok()
}

pub fn integer(value: BigInt) -> Value {
    Value::Number(value.into())
}

pub fn bounded_integer(value: BigInt) -> Result<Value, Fault> {
    if value.bits() > MAX_INTEGER_BITS { Err(Fault::failed("number too large")) } else { Ok(integer(value)) }
}

pub fn too_large() -> Fault {
    Fault::failed("the result is too large")
}

/// Appends, within [`MAX_TEXT_BYTES`].
pub fn append(to: &mut String, text: &str) -> Result<(), Fault> {
    if text.len() > MAX_TEXT_BYTES - to.len().min(MAX_TEXT_BYTES) {
        return Err(too_large());
    }
    to.push_str(text);
    Ok(())
}

pub fn text_value(text: impl Into<String>) -> Value {
    Value::from(text.into())
}

/// OPA's order of values, which has objects before sets; the engine's has not.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => in_turn(a.iter(), b.iter(), a.len().cmp(&b.len())),
        (Value::Set(a), Value::Set(b)) => in_turn(sorted(a.iter()), sorted(b.iter()), a.len().cmp(&b.len())),
        (Value::Object(a), Value::Object(b)) => {
            let members = |object: &Object| -> Vec<Value> {
                let keys = sorted(object.keys());
                keys.flat_map(|key| [key.clone(), object.get(key).cloned().unwrap_or(Value::Null)]).collect()
            };
            in_turn(members(a).iter(), members(b).iter(), a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)),
    }
}

fn in_turn<'a>(
    a: impl Iterator<Item = &'a Value>,
    b: impl Iterator<Item = &'a Value>,
    by_length: Ordering,
) -> Ordering {
    a.zip(b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne()).unwrap_or(by_length)
}

fn sorted<'a>(items: impl Iterator<Item = &'a Value>) -> impl Iterator<Item = &'a Value> {
    let mut items: Vec<&Value> = items.collect();
    items.sort_by(|a, b| compare(a, b));
    items.into_iter()
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
        Value::Set(_) => 6,
        Value::Undefined => 7,
    }
}

/// Members of an object under the names that JSON gives them, in the order of the names.
pub fn sorted_members(value: &Value) -> Vec<(String, &Value)> {
    let Value::Object(members) = value else { return Vec::new() };
    let mut members: Vec<_> = members.iter().map(|(key, value)| (super::marshal::key(key), value)).collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    members
}

/// Schemas and the like that a thread keeps of one kind. A policy has a few, and each is compared with the operand.
pub const MAX_LATEST: usize = 8;
/// Bytes of all of them. What is larger is read at every call.
pub const MAX_LATEST_BYTES: usize = 64 << 20;
/// Of a value, for each character of its text: an object with one short member has 50.
pub const BYTES_A_CHARACTER: usize = 64;

/// What was made of the last operands that take long to read.
pub struct Latest<T>(VecDeque<Made<T>>);

struct Made<T> {
    operand: Value,
    result: Rc<T>,
    bytes: usize,
}

impl<T> Latest<T> {
    pub const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// `make` says too how many bytes its result has beside those of the operand.
    pub fn of(&mut self, operand: &Value, make: impl FnOnce(&Value) -> (T, usize)) -> Rc<T> {
        let found = self.0.iter().position(|made| made.operand == *operand).and_then(|at| self.0.remove(at));
        let latest = found.unwrap_or_else(|| {
            let (result, more) = make(operand);
            let characters = match operand {
                Value::String(text) => text.len(),
                other => other.to_string().len(),
            };
            let bytes = characters.saturating_mul(BYTES_A_CHARACTER).saturating_add(more);
            Made { operand: operand.clone(), result: Rc::new(result), bytes }
        });
        let result = Rc::clone(&latest.result);
        if latest.bytes <= MAX_LATEST_BYTES {
            self.0.push_front(latest);
        }
        while self.0.len() > MAX_LATEST || self.bytes() > MAX_LATEST_BYTES {
            self.0.pop_back();
        }
        result
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|made| made.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_few_and_small() {
        let mut latest = Latest::new();
        let first = latest.of(&Value::from("a"), |_| (1, 0));
        assert!(Rc::ptr_eq(&first, &latest.of(&Value::from("a"), |_| (2, 0))));
        for number in 0..MAX_LATEST {
            assert_eq!(*latest.of(&Value::from(number), |_| (3, 0)), 3);
        }
        assert_eq!(*latest.of(&Value::from("a"), |_| (4, 0)), 4, "there were others since");
        assert_eq!(latest.0.len(), MAX_LATEST);
        assert_eq!(*latest.of(&Value::from("b"), |_| (5, MAX_LATEST_BYTES)), 5);
        assert_eq!(*latest.of(&Value::from("b"), |_| (6, 0)), 6, "too large");
        let text = Value::from("c".repeat(MAX_LATEST_BYTES / BYTES_A_CHARACTER - 10));
        latest.of(&text, |_| (7, 0));
        assert_eq!(*latest.of(&text, |_| (8, 0)), 7);
        assert!(latest.bytes() <= MAX_LATEST_BYTES);
    }
}
