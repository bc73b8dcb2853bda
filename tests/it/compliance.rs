//! OPA's own evaluation cases, read where they lie. What fails is on a list that may only shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use daypass::policy::{BuiltinErrors, Data, Document, Evaluator, Problem, RegoFile, Sources};
use serde_json::{Map, Value, json};

use crate::support::shared;

/// One line for each case that is known to fail: `folder | note`, and why behind a `#`.
const KNOWN: &str = include_str!("../compliance/known-failures.txt");
/// No case takes a second; this only ends what hangs.
const LIMIT: Duration = Duration::from_secs(20);
/// As much as the threads that decide have.
const STACK_BYTES: usize = 16 << 20;

#[test]
fn opa_cases_evaluate_as_in_opa() {
    let Some(path) = shared("rego-compliance") else { return };
    let only = std::env::var("COMPLIANCE_ONLY").ok();
    let runner = move || run(&path, only.as_deref());
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(runner).unwrap().join().unwrap();
}

fn run(dir: &Path, only: Option<&str>) {
    let known: BTreeSet<&str> = KNOWN
        .lines()
        .filter_map(|line| line.split(" #").next())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut folders: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let (mut failures, mut mended, mut listed) = (String::new(), String::new(), BTreeSet::new());
    for file in files.iter().filter(|file| file.extension().is_some_and(|found| found == "json")) {
        let folder = file.file_stem().unwrap().to_str().unwrap().to_owned();
        if only.is_some_and(|only| !only.split(',').any(|part| folder.starts_with(part))) {
            continue;
        }
        let cases: Vec<Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for case in &cases {
            let note = case["note"].as_str().unwrap();
            // Some notes are given twice; the second becomes `note~2`.
            let count = seen.entry(note.to_owned()).or_default();
            *count += 1;
            let id =
                if *count == 1 { format!("{folder} | {note}") } else { format!("{folder} | {note}~{count}") };
            let counts = folders.entry(folder.clone()).or_default();
            let is_known = known.contains(id.as_str());
            match evaluate(case) {
                Ok(()) => {
                    counts.0 += 1;
                    if is_known {
                        writeln!(mended, "{id}").unwrap();
                    }
                }
                Err(why) => {
                    counts.1 += 1;
                    listed.insert(id.clone());
                    if !is_known || only.is_some() {
                        writeln!(failures, "{id}\n    {why}").unwrap();
                    }
                }
            }
        }
    }
    let (passed, failed) = folders.values().fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
    for (folder, (passed, failed)) in folders.iter().filter(|(_, counts)| counts.1 > 0) {
        println!("{folder}: {passed} of {}", passed + failed);
    }
    println!("{} folders whole", folders.values().filter(|counts| counts.1 == 0).count());
    println!("{passed} of {} cases pass, {failed} known to fail", passed + failed);
    if let Ok(path) = std::env::var("COMPLIANCE_WRITE") {
        fs::write(path, listed.into_iter().map(|id| id + "\n").collect::<String>()).unwrap();
        return;
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(mended.is_empty(), "these pass now; take them off the list:\n{mended}");
}

fn evaluate(case: &Value) -> Result<(), String> {
    let strict = case["strict_error"] == json!(true);
    let errors = if strict { BuiltinErrors::Strict } else { BuiltinErrors::Undefined };
    let result = answers(case, errors);
    match (result, case["want_error_code"].as_str(), case["want_error"].as_str()) {
        (Ok(found), None, None) => {
            let mut wanted = case["want_result"].as_array().cloned().unwrap_or_default();
            let mut found: Vec<Value> = found;
            if case["sort_bindings"] == json!(true) {
                sort_all(&mut found);
                sort_all(&mut wanted);
            }
            let (found, wanted) = (normal(&Value::Array(found)), normal(&Value::Array(wanted)));
            if found == wanted { Ok(()) } else { Err(format!("wanted {wanted}\n    found  {found}")) }
        }
        (Ok(found), code, message) => Err(format!(
            "wanted {} {}\n    found  {}",
            code.unwrap_or(""),
            message.unwrap_or(""),
            json!(found)
        )),
        (Err(error), None, None) => Err(format!("wanted {}\n    failed {error}", case["want_result"])),
        (Err(error), code, message) => {
            let found = error.to_string();
            let same_code = code.is_none_or(|code| error.code() == code);
            if same_code && message.is_none_or(|message| found.contains(message_part(message))) {
                Ok(())
            } else {
                Err(format!("wanted {} {}\n    failed {found}", code.unwrap_or(""), message.unwrap_or("")))
            }
        }
    }
}

/// Without OPA's own file name and line in front.
fn message_part(message: &str) -> &str {
    message
        .split_once("eval_")
        .map_or(message, |(_, rest)| rest.split_once(": ").map_or(rest, |(_, text)| text))
}

enum Failure {
    Load(String),
    Query(Problem),
}

impl Failure {
    fn code(&self) -> &str {
        match self {
            Self::Load(_) => "load",
            Self::Query(error) => error.code.as_str(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Load(error) => write!(f, "load: {error}"),
            Self::Query(error) => write!(f, "{}: {error}", error.code.as_str()),
        }
    }
}

fn answers(case: &Value, errors: BuiltinErrors) -> Result<Vec<Value>, Failure> {
    let mut sources = Sources::default();
    for (index, text) in case["modules"].as_array().into_iter().flatten().enumerate() {
        let name = format!("test-{index}.rego");
        sources.modules.push(RegoFile::new(name, text.as_str().unwrap()));
    }
    if case["data"].is_object() {
        sources.data =
            Data::from_json(&case["data"].to_string()).map_err(|error| Failure::Load(error.to_string()))?;
    }
    let load = |error: daypass::policy::LoadError| Failure::Load(error.to_string());
    let mut evaluator = Evaluator::new(&sources, LIMIT, errors).map_err(load)?;
    let input = match (&case["input_term"], case.get("input")) {
        (Value::String(term), _) => {
            let mut plain = Evaluator::new(&Sources::default(), LIMIT, errors).map_err(load)?;
            let answers = plain.query(term, None).map_err(Failure::Query)?;
            answers
                .into_iter()
                .next()
                .and_then(|answer| answer.expressions.into_iter().next())
                .map(|found| found.value)
        }
        (_, Some(input)) => Some(Document::from_json(&input.to_string()).unwrap()),
        _ => None,
    };
    let answers = evaluator.query(case["query"].as_str().unwrap(), input).map_err(Failure::Query)?;
    Ok(answers
        .into_iter()
        .map(|answer| serde_json::from_str(&answer.bindings.to_json().unwrap()).unwrap())
        .collect())
}

fn sort_all(values: &mut [Value]) {
    for value in values.iter_mut() {
        sort_inside(value);
    }
    values.sort_by_key(|value| normal(value).to_string());
}

fn sort_inside(value: &mut Value) {
    match value {
        Value::Array(items) => sort_all(items),
        Value::Object(members) => members.values_mut().for_each(sort_inside),
        _ => {}
    }
}

/// 1e3, 1000 and 1000.0 are one number.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(whole) => json!(format!("number {whole}")),
            None => json!(format!("number {}", number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
        Value::Object(members) => Value::Object(
            members.iter().map(|(name, value)| (name.clone(), normal(value))).collect::<Map<_, _>>(),
        ),
        other => other.clone(),
    }
}
