//! Rules on literals: what may stand where a type is expected (October 2021, sections 5.6 and 5.8).

use std::collections::HashSet;

use super::ast::{FieldDefinition, Literal, LiteralKind, TypeKind, TypeRef};
use super::parser::{Parsed, Problem};
use super::schema::TypeDef;
use super::suggest::did_you_mean;

/// What a place expects.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    pub kind: &'a TypeRef,
    pub definition: Option<&'a TypeDef<'a>>,
    /// A default other than null.
    pub has_default: bool,
}

const MEAN_VALUE: &str = "Did you mean the enum value";

pub fn unique_members(literal: &Literal) -> Parsed<()> {
    let mut seen = HashSet::new();
    if literal.kind != LiteralKind::Object {
        return Ok(());
    }
    match literal.children.iter().find(|child| !seen.insert(child.name.as_str())) {
        None => Ok(()),
        Some(child) => {
            let message = format!("There can be only one input field named \"{}\".", child.name);
            Err(Problem::new(child.at, message))
        }
    }
}

pub fn correct_type(literal: &Literal, expected: &Expected) -> Parsed<()> {
    let Some(definition) = expected.definition else { return Ok(()) };
    let problem = |message: String| Err(Problem::new(literal.at, message));
    let unexpected = || problem(unexpected(literal, expected.kind, definition));
    if literal.kind == LiteralKind::Null && expected.kind.non_null {
        return problem(format!("Expected value of type \"{}\", found null.", expected.kind));
    }
    let is_one_of = |names: &[&str]| names.contains(&definition.name);
    if definition.kind == TypeKind::Scalar && !is_one_of(&["Int", "Float", "String", "Boolean", "ID"]) {
        return Ok(());
    }
    if !is_readable(literal) {
        return unexpected();
    }
    let is_enum = definition.kind == TypeKind::Enum;
    let values = || definition.values.iter().map(|value| value.name.as_str());
    match literal.kind {
        LiteralKind::List if expected.kind.item.is_none() => unexpected(),
        LiteralKind::Int if !is_one_of(&["Int", "Float", "ID"]) => unexpected(),
        LiteralKind::Float if !is_one_of(&["Float"]) => unexpected(),
        LiteralKind::Boolean if !is_one_of(&["Boolean"]) => unexpected(),
        LiteralKind::Text | LiteralKind::Block if is_enum => {
            let mean = did_you_mean(MEAN_VALUE, &literal.raw, values());
            problem(format!("Enum \"{}\" cannot represent non-enum value: {literal}.{mean}", expected.kind))
        }
        LiteralKind::Text | LiteralKind::Block if !is_one_of(&["String", "ID"]) => unexpected(),
        LiteralKind::Enum if !is_enum => unexpected(),
        LiteralKind::Enum if !values().any(|value| value == literal.raw) => {
            let mean = did_you_mean(MEAN_VALUE, &literal.raw, values());
            problem(format!("Value \"{literal}\" does not exist in \"{}\" enum.{mean}", expected.kind))
        }
        LiteralKind::Object => members(literal, definition),
        _ => Ok(()),
    }
}

/// Whether its numbers are numbers that Go holds.
fn is_readable(literal: &Literal) -> bool {
    match literal.kind {
        LiteralKind::Int => literal.raw.parse::<i64>().is_ok(),
        LiteralKind::Float => literal.raw.parse::<f64>().is_ok_and(f64::is_finite),
        LiteralKind::List | LiteralKind::Object => {
            literal.children.iter().all(|child| is_readable(&child.value))
        }
        _ => true,
    }
}

fn unexpected(literal: &Literal, kind: &TypeRef, definition: &TypeDef) -> String {
    let wanted = kind.to_string();
    match wanted.as_str() {
        "Int" | "Int!" => {
            let digits = literal.raw.strip_prefix('-').unwrap_or(&literal.raw);
            let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let what = if is_whole && literal.raw.parse::<i32>().is_err() {
                "non 32-bit signed integer"
            } else {
                "non-integer"
            };
            format!("Int cannot represent {what} value: {literal}")
        }
        "String" | "String!" | "[String]" => format!("String cannot represent a non string value: {literal}"),
        "Boolean" | "Boolean!" => format!("Boolean cannot represent a non boolean value: {literal}"),
        "Float" | "Float!" => format!("Float cannot represent non numeric value: {literal}"),
        "ID" | "ID!" => format!("ID cannot represent a non-string and non-integer value: {literal}"),
        _ if definition.kind == TypeKind::Enum => {
            format!("Enum \"{wanted}\" cannot represent non-enum value: {literal}.")
        }
        _ => format!("Expected value of type \"{wanted}\", found {literal}."),
    }
}

fn members(literal: &Literal, definition: &TypeDef) -> Parsed<()> {
    let given: HashSet<&str> = literal.children.iter().map(|child| child.name.as_str()).collect();
    let name = definition.name;
    let is_missing = |field: &&&FieldDefinition| {
        field.kind.non_null && field.default.is_none() && !given.contains(field.name.as_str())
    };
    if let Some(field) = definition.fields.iter().find(is_missing) {
        let message =
            format!("Field \"{name}.{}\" of required type \"{}\" was not provided.", field.name, field.kind);
        return Err(Problem::new(literal.at, message));
    }
    if definition.directives.iter().any(|directive| directive.name == "oneOf") {
        let [child] = literal.children.as_slice() else {
            let message = format!("OneOf Input Object \"{name}\" must specify exactly one key.");
            return Err(Problem::new(literal.at, message));
        };
        if child.value.kind == LiteralKind::Null {
            let field = definition.fields.first().map_or("", |field| field.name.as_str());
            return Err(Problem::new(child.value.at, format!("Field \"{name}.{field}\" must be non-null.")));
        }
    }
    match literal.children.iter().find(|child| definition.field(&child.name).is_none()) {
        None => Ok(()),
        Some(child) => {
            let names = definition.fields.iter().map(|field| field.name.as_str());
            let mean = did_you_mean("Did you mean", &child.name, names);
            let message = format!("Field \"{}\" is not defined by type \"{name}\".{mean}", child.name);
            Err(Problem::new(child.at, message))
        }
    }
}
