//! `daypass policy eval`, with the result document of `opa eval`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::{duration, read_document, read_sources};
use crate::cli::output::say;
use crate::policy::{Answer, BuiltinErrors, Document, Evaluator, LoadError, Problem, Sources};

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Policies and data; may be repeated
    #[arg(long, short, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// The input document, JSON or YAML; `-` for standard input
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    #[arg(long, short, value_enum, default_value = "json")]
    format: Format,
    /// End with the error of a built-in function instead of taking it for undefined
    #[arg(long)]
    strict_builtin_errors: bool,
    /// Take the language as it was before OPA 1.0
    #[arg(long)]
    v0_compatible: bool,
    /// Exit with 1 if the result is undefined
    #[arg(long)]
    fail: bool,
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Such as `data.envoy.authz.allow`
    query: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Pretty,
    Raw,
}

pub fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let input = args.input.as_deref().map(read_document).transpose()?;
    let (answers, prints) = match evaluate(args, input) {
        Ok(found) => found,
        Err(LoadError(problems)) => {
            report(&problems, args.format)?;
            return Ok(ExitCode::from(2));
        }
    };
    prints.iter().for_each(|line| eprintln!("{line}"));
    match args.format {
        Format::Json => say!("{:#}", result_document(&answers)?),
        Format::Pretty => print_pretty(&answers)?,
        Format::Raw => print_raw(&answers)?,
    }
    Ok(if args.fail && answers.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn evaluate(args: &EvalArgs, input: Option<Document>) -> Result<(Vec<Answer>, Vec<String>), LoadError> {
    let sources =
        if args.data.is_empty() { Sources::default() } else { read_sources(&args.data, args.v0_compatible)? };
    let errors = if args.strict_builtin_errors { BuiltinErrors::Strict } else { BuiltinErrors::Undefined };
    let mut evaluator = Evaluator::new(&sources, args.timeout, errors)?;
    let answers = evaluator.query(&args.query, input).map_err(|problem| LoadError(vec![problem]))?;
    Ok((answers, evaluator.take_prints()))
}

/// `{}` if nothing holds.
fn result_document(answers: &[Answer]) -> anyhow::Result<Value> {
    if answers.is_empty() {
        return Ok(json!({}));
    }
    let mut results = Vec::new();
    for answer in answers {
        let mut expressions = Vec::new();
        for expression in &answer.expressions {
            expressions.push(json!({
                "value": value(&expression.value)?,
                "text": expression.text,
                "location": {"row": expression.line, "col": expression.column},
            }));
        }
        let mut result = Map::from_iter([("expressions".to_owned(), Value::Array(expressions))]);
        let bindings = value(&answer.bindings)?;
        if bindings.as_object().is_some_and(|bindings| !bindings.is_empty()) {
            result.insert("bindings".to_owned(), bindings);
        }
        results.push(Value::Object(result));
    }
    Ok(json!({"result": results}))
}

fn value(document: &Document) -> anyhow::Result<Value> {
    serde_json::from_str(&document.to_json()?).context("a value has no form in JSON")
}

fn print_pretty(answers: &[Answer]) -> anyhow::Result<()> {
    if answers.is_empty() {
        say!("undefined");
    }
    for answer in answers {
        let bindings = value(&answer.bindings)?;
        if bindings.as_object().is_some_and(|bindings| !bindings.is_empty()) {
            say!("{bindings:#}");
            continue;
        }
        for expression in &answer.expressions {
            say!("{:#}", value(&expression.value)?);
        }
    }
    Ok(())
}

/// Strings without quotes, for scripts.
fn print_raw(answers: &[Answer]) -> anyhow::Result<()> {
    for answer in answers {
        let mut line = Vec::new();
        for expression in &answer.expressions {
            line.push(match value(&expression.value)? {
                Value::String(text) => text,
                other => other.to_string(),
            });
        }
        say!("{}", line.join(" "));
    }
    Ok(())
}

fn report(problems: &[Problem], format: Format) -> anyhow::Result<()> {
    if format != Format::Json {
        problems.iter().for_each(|problem| eprintln!("{}: {problem}", problem.code.as_str()));
        return Ok(());
    }
    let errors: Vec<Value> = problems
        .iter()
        .map(|problem| {
            json!({
                "message": problem.message,
                "code": problem.code.as_str(),
                "location": {"file": problem.file, "row": problem.line, "col": problem.column},
            })
        })
        .collect();
    say!("{}", serde_json::to_string_pretty(&json!({"errors": errors})).context("errors")?);
    Ok(())
}
