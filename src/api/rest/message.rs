//! JSON and parameters -> the request message that a method takes.
//!
//! Strict where the JSON form of protobuf leaves a choice, so that the OpenAPI document can be exact: no null, no
//! numbers for enums, strings for 64-bit integers alone. Must never accept what it does not understand.

use std::collections::HashMap;
use std::fmt;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use thiserror::Error;

use super::json::{self, Json, shown};
use super::scalar;

const DURATION: &str = "google.protobuf.Duration";
const TIMESTAMP: &str = "google.protobuf.Timestamp";
const STRUCT: &str = "google.protobuf.Struct";
const VALUE: &str = "google.protobuf.Value";
const LIST: &str = "google.protobuf.ListValue";

/// What is wrong with what a caller said, and where.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    pub fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }

    fn at(place: &Place<'_>, problem: &str) -> Self {
        Self(format!("`{place}`: {problem}"))
    }
}

/// The types that JSON has a form of its own for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WellKnown {
    Duration,
    Timestamp,
    Struct,
}

impl WellKnown {
    pub fn of(message: &MessageDescriptor) -> Option<Self> {
        match message.full_name() {
            DURATION => Some(Self::Duration),
            TIMESTAMP => Some(Self::Timestamp),
            STRUCT => Some(Self::Struct),
            _ => None,
        }
    }
}

/// Where in a request something stands.
enum Place<'a> {
    Root,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("body"),
            Self::Field(Self::Root, name) => f.write_str(shown(name)),
            Self::Field(parent, name) => write!(f, "{parent}.{}", shown(name)),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The fields of a request that are not in its body.
pub struct Given {
    message: DynamicMessage,
    fields: Vec<FieldDescriptor>,
}

impl Given {
    pub fn new(descriptor: &MessageDescriptor) -> Self {
        Self { message: DynamicMessage::new(descriptor.clone()), fields: Vec::new() }
    }

    /// A field by its text, from the path, or from a header that overrides what is there.
    pub fn set(&mut self, field: &FieldDescriptor, text: &str) -> Result<(), Invalid> {
        let place = Place::Field(&Place::Root, field.json_name());
        put(&mut self.message, field, from_text(field, text, &place)?, &place)?;
        self.fields.push(field.clone());
        Ok(())
    }

    /// Fields by their names, from the query.
    pub fn set_query(
        &mut self,
        pairs: impl Iterator<Item = (String, String)>,
        is_in_body: bool,
    ) -> Result<(), Invalid> {
        let taken = self.fields.clone();
        let mut lists: Vec<(FieldDescriptor, Vec<Value>)> = Vec::new();
        for (name, text) in pairs {
            let place = Place::Field(&Place::Root, &name);
            let field = find(&self.message.descriptor(), &name)
                .ok_or_else(|| Invalid::at(&place, "there is no such parameter"))?;
            if is_in_body {
                return Err(Invalid::at(&place, "belongs into the body"));
            }
            if taken.contains(&field) {
                return Err(Invalid::at(&place, "is given by the path"));
            }
            let value = from_text(&field, &text, &place)?;
            if field.is_list() {
                match lists.iter_mut().find(|(known, _)| *known == field) {
                    Some((_, values)) => values.push(value),
                    None => lists.push((field, vec![value])),
                }
                continue;
            }
            if self.fields.contains(&field) {
                return Err(Invalid::at(&place, "is given twice"));
            }
            put(&mut self.message, &field, value, &place)?;
            self.fields.push(field);
        }
        for (field, values) in lists {
            let place = Place::Field(&Place::Root, field.json_name());
            put(&mut self.message, &field, Value::List(values), &place)?;
            self.fields.push(field.clone());
        }
        Ok(())
    }

    /// With a body that holds all other fields.
    pub fn with_body(self, body: &[u8]) -> Result<DynamicMessage, Invalid> {
        let Self { mut message, fields } = self;
        match json::read(body) {
            Ok(json) => fill(&mut message, json, fields, &Place::Root)?,
            Err(error) => return Err(Invalid(format!("the body: {error}"))),
        }
        Ok(message)
    }

    pub fn without_body(self) -> Result<DynamicMessage, Invalid> {
        complete(&self.message.descriptor(), &self.fields, &Place::Root)?;
        Ok(self.message)
    }
}

/// By either of its names.
fn find(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

fn fill(
    message: &mut DynamicMessage,
    json: Json,
    mut seen: Vec<FieldDescriptor>,
    place: &Place<'_>,
) -> Result<(), Invalid> {
    let Json::Object(members) = json else {
        return Err(Invalid::at(place, &format!("must be an object, not {}", json.kind())));
    };
    let descriptor = message.descriptor();
    let in_path = seen.len();
    for (name, json) in members {
        let place = Place::Field(place, &name);
        let field = find(&descriptor, &name).ok_or_else(|| Invalid::at(&place, "there is no such field"))?;
        match seen.iter().position(|known| *known == field) {
            Some(at) if at < in_path => return Err(Invalid::at(&place, "is given by the path")),
            Some(_) => return Err(Invalid::at(&place, "is given twice, by both of its names")),
            None => {}
        }
        let value = from_json(&field, json, &place)?;
        put(message, &field, value, &place)?;
        seen.push(field);
    }
    complete(&descriptor, &seen, place)
}

/// Sets a field, if it may stand beside those that are there.
fn put(
    message: &mut DynamicMessage,
    field: &FieldDescriptor,
    value: Value,
    place: &Place<'_>,
) -> Result<(), Invalid> {
    if let Some(oneof) = field.containing_oneof()
        && let Some(other) = oneof.fields().find(|other| other != field && message.has_field(other))
    {
        return Err(Invalid::at(place, &format!("excludes `{}`", other.json_name())));
    }
    message.try_set_field(field, value).map_err(|error| Invalid::at(place, &error.to_string()))
}

/// Whether nothing is missing that the contract asks for.
fn complete(
    message: &MessageDescriptor,
    given: &[FieldDescriptor],
    place: &Place<'_>,
) -> Result<(), Invalid> {
    for field in message.fields().filter(is_required) {
        if !given.contains(&field) {
            return Err(Invalid::at(&Place::Field(place, field.json_name()), "is missing"));
        }
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        if !oneof.fields().any(|field| given.contains(&field)) {
            let names: Vec<String> = oneof.fields().map(|field| format!("`{}`", field.json_name())).collect();
            return Err(Invalid::at(place, &format!("one of {} is missing", names.join(", "))));
        }
    }
    Ok(())
}

/// By `google.api.field_behavior`.
pub fn is_required(field: &FieldDescriptor) -> bool {
    has_behavior(field, 2)
}

pub fn is_output_only(field: &FieldDescriptor) -> bool {
    has_behavior(field, 3)
}

fn has_behavior(field: &FieldDescriptor, number: i32) -> bool {
    let pool = field.parent_pool();
    pool.get_extension_by_name("google.api.field_behavior").is_some_and(|extension| {
        let options = field.options();
        let behaviors = options.get_extension(&extension);
        behaviors.as_list().is_some_and(|list| list.contains(&Value::EnumNumber(number)))
    })
}

fn from_json(field: &FieldDescriptor, json: Json, place: &Place<'_>) -> Result<Value, Invalid> {
    if !field.is_list() {
        return single(field, json, place);
    }
    let Json::List(items) = json else {
        return Err(Invalid::at(place, &format!("must be a list, not {}", json.kind())));
    };
    let items = items.into_iter().enumerate();
    let values = items.map(|(index, item)| single(field, item, &Place::Item(place, index)));
    values.collect::<Result<_, _>>().map(Value::List)
}

fn single(field: &FieldDescriptor, json: Json, place: &Place<'_>) -> Result<Value, Invalid> {
    let wanted = |what: &str, json: &Json| {
        let hint = if *json == Json::Null { "; leave it out" } else { "" };
        Err(Invalid::at(place, &format!("must be {what}, not {}{hint}", json.kind())))
    };
    match (field.kind(), json) {
        (Kind::Message(message), json) => match (WellKnown::of(&message), json) {
            (None, json) => {
                let mut inner = DynamicMessage::new(message);
                fill(&mut inner, json, Vec::new(), place)?;
                Ok(Value::Message(inner))
            }
            (Some(WellKnown::Struct), Json::Object(members)) => structure(&message, members, place),
            (Some(WellKnown::Struct), json) => wanted("an object", &json),
            (Some(_), Json::Text(text)) => from_text(field, &text, place),
            (Some(WellKnown::Duration), json) => wanted("a duration such as \"3600s\"", &json),
            (Some(WellKnown::Timestamp), json) => wanted("a moment such as \"2026-01-31T12:00:00Z\"", &json),
        },
        (Kind::String | Kind::Enum(_), Json::Text(text))
        | (Kind::Uint32 | Kind::Uint64, Json::Number(text)) => from_text(field, &text, place),
        (Kind::Bool, Json::Bool(value)) => Ok(Value::Bool(value)),
        (Kind::Bool, json) => wanted("true or false", &json),
        (Kind::String, json) => wanted("a string", &json),
        (Kind::Enum(_), json) => wanted("the name of a value", &json),
        (Kind::Uint64, Json::Text(text)) => match scalar::digits(&text) {
            Some(value) => Ok(Value::U64(value)),
            None => Err(Invalid::at(place, "must be a whole number from 0 to 18446744073709551615")),
        },
        (Kind::Uint32 | Kind::Uint64, json) => wanted("a number", &json),
        _ => Err(Invalid::at(place, "cannot be given")),
    }
}

/// The one value that a text stands for; for lists, an item.
fn from_text(field: &FieldDescriptor, text: &str, place: &Place<'_>) -> Result<Value, Invalid> {
    let kind = field.kind();
    let whole = |max: u64| {
        let number = match json::read(text.as_bytes()) {
            Ok(Json::Number(number)) if !text.contains(char::is_whitespace) => scalar::integer(&number, max),
            _ => None,
        };
        number.ok_or_else(|| Invalid::at(place, &format!("must be a whole number from 0 to {max}")))
    };
    match &kind {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(Invalid::at(place, "must be true or false")),
        },
        Kind::Uint32 => {
            whole(u64::from(u32::MAX)).map(|value| Value::U32(u32::try_from(value).unwrap_or(u32::MAX)))
        }
        Kind::Uint64 => whole(u64::MAX).map(Value::U64),
        Kind::Enum(values) => {
            let value = values.get_value_by_name(text).map(|value| Value::EnumNumber(value.number()));
            value.ok_or_else(|| {
                let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
                Invalid::at(place, &format!("must be one of {}", names.join(", ")))
            })
        }
        Kind::Message(message) => {
            let (seconds, nanos) = match WellKnown::of(message) {
                Some(WellKnown::Duration) => scalar::duration(text)
                    .map(|found| (found.seconds, found.nanos))
                    .ok_or_else(|| Invalid::at(place, "must be a duration such as 3600s"))?,
                Some(WellKnown::Timestamp) => scalar::timestamp(text)
                    .map(|found| (found.seconds, found.nanos))
                    .ok_or_else(|| Invalid::at(place, "must be a moment such as 2026-01-31T12:00:00Z"))?,
                _ => return Err(Invalid::at(place, "cannot be given as text")),
            };
            let fields = [("seconds", Value::I64(seconds)), ("nanos", Value::I32(nanos))];
            build(message, fields, place)
        }
        _ => Err(Invalid::at(place, "cannot be given")),
    }
}

fn structure(
    message: &MessageDescriptor,
    members: impl IntoIterator<Item = (String, Json)>,
    place: &Place<'_>,
) -> Result<Value, Invalid> {
    let mut fields = HashMap::new();
    for (name, json) in members {
        let place = Place::Field(place, &name);
        let value = any_value(message, json, &place)?;
        fields.insert(MapKey::String(name), value);
    }
    build(message, [("fields", Value::Map(fields))], place)
}

/// A `google.protobuf.Value`; the depth is bounded where the JSON was read.
fn any_value(near: &MessageDescriptor, json: Json, place: &Place<'_>) -> Result<Value, Invalid> {
    let known = |name: &str| {
        let found = near.parent_pool().get_message_by_name(name);
        found.ok_or_else(|| Invalid::at(place, "cannot be given"))
    };
    let member = match json {
        Json::Null => ("null_value", Value::EnumNumber(0)),
        Json::Bool(value) => ("bool_value", Value::Bool(value)),
        Json::Text(text) => ("string_value", Value::String(text)),
        Json::Number(text) => {
            let number: Option<f64> = text.parse().ok().filter(|number: &f64| number.is_finite());
            let number = number.ok_or_else(|| Invalid::at(place, "is a number too large to keep"))?;
            ("number_value", Value::F64(number))
        }
        Json::List(items) => {
            let items = items.into_iter().enumerate();
            let values = items.map(|(index, item)| any_value(near, item, &Place::Item(place, index)));
            let values = values.collect::<Result<_, _>>()?;
            ("list_value", build(&known(LIST)?, [("values", Value::List(values))], place)?)
        }
        Json::Object(members) => ("struct_value", structure(&known(STRUCT)?, members, place)?),
    };
    build(&known(VALUE)?, [member], place)
}

fn build<const N: usize>(
    message: &MessageDescriptor,
    fields: [(&str, Value); N],
    place: &Place<'_>,
) -> Result<Value, Invalid> {
    let mut built = DynamicMessage::new(message.clone());
    for (name, value) in fields {
        let set = built.try_set_field_by_name(name, value);
        set.map_err(|error| Invalid::at(place, &error.to_string()))?;
    }
    Ok(Value::Message(built))
}
