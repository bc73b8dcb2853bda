//! `graphql.*`: reading queries and schemas, and holding one against the other, as OPA does with gqlparser.
//!
//! No crate has OPA's objects or its messages. Queries are what strangers send: nothing here recurses or compares
//! without a bound. Schemas are the policy's, as a rule: a thread keeps the last few.

mod ast;
mod lexer;
mod overlap;
mod parser;
mod rules;
mod schema;
mod sdl;
mod suggest;
mod validate_query;
mod validate_schema;
mod values;

use std::cell::RefCell;
use std::rc::Rc;

use regorus::Value;

use self::ast::{Form, QueryDocument, SchemaDocument};
use self::parser::{Parsed, Problem, parse_query};
use self::schema::Schema;
use self::sdl::parse_schema;
use super::values::Latest;
use super::{Builtin, Fault, Outcome, binary, kind_of, text, unary};

pub const BUILTINS: [Builtin; 6] = [
    binary("graphql.is_valid", is_valid),
    binary("graphql.parse", parse),
    binary("graphql.parse_and_verify", parse_and_verify),
    unary("graphql.parse_query", query_of),
    unary("graphql.parse_schema", schema_of),
    unary("graphql.schema_is_valid", schema_is_valid),
];

fn fault(problem: &Problem) -> Fault {
    Fault::failed(problem.to_string())
}

fn query_of(value: &Value) -> Outcome {
    parse_query(text(1, value)?).map(|document| document.to_value()).map_err(|problem| fault(&problem))
}

fn schema_of(value: &Value) -> Outcome {
    parse_schema(text(1, value)?).map(|document| document.to_value()).map_err(|problem| fault(&problem))
}

/// Text, or the object that was made of it.
fn document<T: Form>(position: usize, value: &Value, parse: fn(&str) -> Parsed<T>) -> Result<T, Fault> {
    match value {
        Value::String(text) => parse(text).map_err(|problem| fault(&problem)),
        Value::Object(_) => {
            T::from_value(value, 0).map_err(|_| Fault::failed("the object is not a GraphQL document"))
        }
        other => Err(Fault::Type(format!(
            "operand {position} must be one of {{string, object}} but got {}",
            kind_of(other)
        ))),
    }
}

/// Of a schema's problem.
fn schema_fault(problem: Problem) -> Fault {
    let at = problem.at.map(|at| format!("input:{}:{}: ", at.line, at.column)).unwrap_or_default();
    let message = problem.message;
    Fault::failed(format!("Error in gqlparser SchemaDocument to Schema conversion: {at}{message}"))
}

/// Bytes of a document and its object, for each character of its text.
const BYTES_A_CHARACTER: usize = 128;

struct ValidSchema {
    document: SchemaDocument,
    /// As an object.
    value: Value,
}

thread_local! {
    static KEPT: RefCell<Latest<Result<ValidSchema, Fault>>> = const { RefCell::new(Latest::new()) };
}

fn valid_schema(operand: &Value) -> Rc<Result<ValidSchema, Fault>> {
    let read = |operand: &Value| {
        let document: SchemaDocument = document(2, operand, parse_schema)?;
        Schema::of(&document).map_err(schema_fault)?;
        let value = document.to_value();
        Ok(ValidSchema { document, value })
    };
    let bytes = |operand: &Value| operand.as_string().map_or(0, |text| text.len() * BYTES_A_CHARACTER);
    KEPT.with_borrow_mut(|kept| kept.of(operand, |operand| (read(operand), bytes(operand))))
}

/// Both as objects, if the query is one for the schema.
fn checked(query: &Value, schema: &Value) -> Result<(Value, Value), Fault> {
    let query: QueryDocument = document(1, query, parse_query)?;
    let valid = valid_schema(schema);
    let valid = valid.as_ref().as_ref().map_err(Clone::clone)?;
    let schema = Schema::of_valid(&valid.document).map_err(schema_fault)?;
    validate_query::validate(&schema, &query).map_err(|mut problem| {
        // OPA takes the full stop off what validation says, and off nothing else.
        if problem.message.ends_with('.') {
            problem.message.pop();
        }
        fault(&problem)
    })?;
    Ok((query.to_value(), valid.value.clone()))
}

fn parse(query: &Value, schema: &Value) -> Outcome {
    let (query, schema) = checked(query, schema)?;
    Ok(Value::from(vec![query, schema]))
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn parse_and_verify(query: &Value, schema: &Value) -> Outcome {
    let (is_valid, query, schema) = match checked(query, schema) {
        Ok((query, schema)) => (true, query, schema),
        Err(_) => (false, Value::new_object(), Value::new_object()),
    };
    Ok(Value::from(vec![Value::Bool(is_valid), query, schema]))
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn is_valid(query: &Value, schema: &Value) -> Outcome {
    Ok(Value::Bool(checked(query, schema).is_ok()))
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn schema_is_valid(value: &Value) -> Outcome {
    Ok(Value::Bool(valid_schema(value).is_ok()))
}

#[cfg(test)]
mod tests;
