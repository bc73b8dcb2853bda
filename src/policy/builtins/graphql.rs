//! `graphql.*`: reading queries and schemas, and holding one against the other, as OPA does with gqlparser.
//!
//! No crate has OPA's objects or its messages. Queries are what strangers send: nothing here recurses or compares
//! without a bound.

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

use regorus::Value;

use self::ast::{Form, QueryDocument, SchemaDocument};
use self::parser::{Parsed, Problem, parse_query};
use self::schema::Schema;
use self::sdl::parse_schema;
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

fn schema(document: &SchemaDocument) -> Result<Schema<'_>, Fault> {
    Schema::of(document).map_err(|problem| {
        let at = problem.at.map(|at| format!("input:{}:{}: ", at.line, at.column)).unwrap_or_default();
        let message = problem.message;
        Fault::failed(format!("Error in gqlparser SchemaDocument to Schema conversion: {at}{message}"))
    })
}

/// Both as objects, if the query is one for the schema.
fn checked(query: &Value, schema_text: &Value) -> Result<(Value, Value), Fault> {
    let query: QueryDocument = document(1, query, parse_query)?;
    let schema_document = document(2, schema_text, parse_schema)?;
    let schema = schema(&schema_document)?;
    validate_query::validate(&schema, &query).map_err(|mut problem| {
        // OPA takes the full stop off what validation says, and off nothing else.
        if problem.message.ends_with('.') {
            problem.message.pop();
        }
        fault(&problem)
    })?;
    Ok((query.to_value(), schema_document.to_value()))
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
    let document = document(1, value, parse_schema);
    Ok(Value::Bool(document.is_ok_and(|document| schema(&document).is_ok())))
}

#[cfg(test)]
mod tests;
