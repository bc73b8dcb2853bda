//! The OpenAPI 3.1 document of the API, from the same descriptors as the routes; words are the comments of `proto/`.
//!
//! Must stay honest: what a schema allows is read, and what it does not is refused. One thing is read besides, and
//! said in the document: fields by their names in `proto/`.

use std::collections::BTreeMap;

use prost_reflect::{
    EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use serde_json::{Map, Value, json};

use super::json::{MAX_DEPTH, MAX_VALUES};
use super::message::{WellKnown, is_output_only, is_required};
use super::routes::{Route, Routes};
use super::scalar;

const ABOUT: &str = "Just-in-time access: requests, approvals, grants, locks and the record of every step. The same calls as by gRPC \
     (`daypass.v1`), on the same listener. Fields at their defaults are left out of answers: an absent number is 0, an \
     absent boolean false, an absent list empty.\n\nNames of fields are also read as `proto/` spells them (`page_size`). \
     A field or parameter that is not known, or is given twice, is refused, and so is null: leave a field out. 64-bit integers \
     are strings in answers.";

/// Statuses of failures, and when.
const FAILURES: [(&str, &str); 8] = [
    ("400", "A field is missing or wrong, or the object is not in the state for it; the message says which."),
    ("401", "No identity, or one that cannot be verified."),
    ("403", "Policy says no; the message has its reasons."),
    ("404", "There is no such object, or not for this caller."),
    ("429", "Too many calls, pending requests or grants."),
    ("500", "A mistake of the server."),
    ("501", "This server does not offer this call."),
    ("503", "The store cannot be reached; a write may or may not have happened."),
];
/// And of calls that change something.
const FAILURES_OF_WRITES: [(&str, &str); 1] = [(
    "409",
    "An object with this id exists, or others changed the same objects all the time and nothing was done.",
)];
/// And of calls with a body.
const FAILURES_OF_BODIES: [(&str, &str); 3] = [
    ("408", "The body did not arrive in time."),
    ("413", "The body is larger than 1 MiB."),
    ("415", "The body is not `application/json`."),
];

pub fn document(routes: &Routes) -> Value {
    let mut words = Words::default();
    let mut schemas = Schemas { components: Map::new(), words: &mut words };
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut tags: BTreeMap<String, String> = BTreeMap::new();
    for route in routes.iter() {
        let service = route.method.parent_service();
        let about = schemas.words.of(&service.parent_file(), service.path());
        tags.insert(service.name().to_owned(), about);
        let verb = route.verb.as_str().to_ascii_lowercase();
        let operation = schemas.operation(route);
        paths.entry(&route.template).or_default().insert(verb, operation);
    }
    schemas.components.insert("Error".to_owned(), error_schema());
    let tags: Vec<Value> = tags.iter().map(|(name, about)| described(json!({"name": name}), about)).collect();
    let failures = FAILURES
        .iter()
        .chain(&FAILURES_OF_WRITES)
        .chain(&FAILURES_OF_BODIES)
        .map(|(status, about)| ((*status).to_owned(), error_response(about)));
    let responses: Map<String, Value> =
        failures.chain([("default".to_owned(), error_response("Any other failure."))]).map(named).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "daypass",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"certificate": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": responses,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A JWT of a configured issuer, or a static token."},
                "certificate": {"type": "mutualTLS", "description": "A client certificate."},
            },
        },
    })
}

/// Names of components are words, not numbers.
fn named((status, response): (String, Value)) -> (String, Value) {
    (format!("failure-{status}"), response)
}

/// The comments of the descriptors.
#[derive(Default)]
struct Words(BTreeMap<String, BTreeMap<Vec<i32>, String>>);

impl Words {
    fn of(&mut self, file: &FileDescriptor, path: &[i32]) -> String {
        let known = self.0.entry(file.name().to_owned()).or_insert_with(|| {
            let info = file.file_descriptor_proto().source_code_info.as_ref();
            let locations = info.map(|info| info.location.as_slice()).unwrap_or_default();
            let commented = locations.iter().filter_map(|location| {
                let lines = location.leading_comments().lines().map(str::trim).collect::<Vec<_>>();
                let text = lines.join(" ").trim().to_owned();
                (!text.is_empty()).then(|| (location.path.clone(), text))
            });
            commented.collect()
        });
        known.get(path).cloned().unwrap_or_default()
    }
}

fn described(mut schema: Value, about: &str) -> Value {
    if let (Value::Object(members), false) = (&mut schema, about.is_empty()) {
        members.insert("description".to_owned(), about.into());
    }
    schema
}

struct Schemas<'a> {
    components: Map<String, Value>,
    words: &'a mut Words,
}

impl Schemas<'_> {
    fn operation(&mut self, route: &Route) -> Value {
        let method = &route.method;
        let about = self.words.of(&method.parent_file(), method.path());
        let mut operation = json!({
            "operationId": operation_id(method),
            "tags": [method.parent_service().name()],
            "responses": self.responses(route),
        });
        let parameters = self.parameters(route);
        if let Value::Object(members) = &mut operation {
            if !parameters.is_empty() {
                members.insert("parameters".to_owned(), parameters.into());
            }
            if route.has_body {
                members.insert("requestBody".to_owned(), self.request_body(route));
            }
        }
        described(operation, &about)
    }

    fn parameters(&mut self, route: &Route) -> Vec<Value> {
        let in_path: Vec<FieldDescriptor> = route.path_fields().cloned().collect();
        let mut parameters = Vec::new();
        for field in &in_path {
            let parameter = json!({
                "name": field.json_name(), "in": "path", "required": true,
                "schema": {"type": "string", "minLength": 1},
            });
            parameters.push(described(parameter, &self.words_of(field)));
        }
        if !route.has_body {
            for field in route.input.fields().filter(|field| !in_path.contains(field)) {
                let schema = match field.kind() {
                    // One form only: all text is the same there.
                    Kind::Uint64 => json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
                    _ => self.kind(&field.kind()),
                };
                let schema = if field.is_list() { json!({"type": "array", "items": schema}) } else { schema };
                let parameter = json!({
                    "name": field.json_name(), "in": "query", "required": is_required(&field), "schema": schema,
                });
                parameters.push(described(parameter, &self.words_of(&field)));
            }
        }
        if route.resumes().is_some() {
            parameters.push(json!({
                "name": "Last-Event-ID", "in": "header",
                "schema": {"type": "integer", "minimum": 0, "maximum": u64::MAX},
                "description": "The `id` of the last event that was seen, as browsers send it; in place of `after`.",
            }));
        }
        parameters
    }

    fn request_body(&mut self, route: &Route) -> Value {
        let in_path: Vec<FieldDescriptor> = route.path_fields().cloned().collect();
        let schema = self.object(&route.input, &in_path);
        let is_required = schema.get("required").is_some() || schema.get("oneOf").is_some();
        let name = component_name(route.input.full_name());
        self.components.insert(name.clone(), schema);
        json!({
            "required": is_required,
            "content": {"application/json": {"schema": reference(&name)}},
        })
    }

    fn responses(&mut self, route: &Route) -> Value {
        let schema = self.message(&route.output);
        let answer = if route.is_stream() {
            let of =
                |form: &str| json!({"schema": {"type": "string", "description": form}, "x-message": schema});
            json!({
                "description": "A message whenever there is one. A stream that fails ends with an event `error`, or a line with `error`.",
                "content": {
                    "text/event-stream": of("Server-Sent Events; the data of each is one message as JSON."),
                    "application/x-ndjson": of("A message as JSON on each line."),
                },
            })
        } else {
            json!({"description": "Done.", "content": {"application/json": {"schema": schema}}})
        };
        let of_writes = if route.verb.is_safe() { &[] } else { &FAILURES_OF_WRITES[..] };
        let of_bodies = if route.has_body { &FAILURES_OF_BODIES[..] } else { &[] };
        let statuses = FAILURES.iter().chain(of_writes).chain(of_bodies).map(|(status, _)| *status);
        let statuses = statuses.chain(["default"]);
        let failures = statuses.map(|status| {
            (status.to_owned(), json!({"$ref": format!("#/components/responses/failure-{status}")}))
        });
        Value::Object([("200".to_owned(), answer)].into_iter().chain(failures).collect())
    }

    fn message(&mut self, message: &MessageDescriptor) -> Value {
        let name = component_name(message.full_name());
        if !self.components.contains_key(&name) {
            // First its name: a message may hold itself.
            self.components.insert(name.clone(), Value::Null);
            let schema = match WellKnown::of(message) {
                Some(WellKnown::Duration) => json!({
                    "type": "string", "pattern": scalar::duration_pattern(), "examples": ["3600s"],
                    "description": "Seconds, with at most 9 digits after the point, and `s`.",
                }),
                Some(WellKnown::Timestamp) => json!({
                    "type": "string", "format": "date-time", "pattern": scalar::timestamp_pattern(),
                    "examples": ["2026-01-31T12:00:00Z"], "description": "A moment as RFC 3339 writes it.",
                }),
                Some(WellKnown::Struct) => json!({
                    "type": "object", "additionalProperties": true,
                    "description": format!("Any JSON object. A body nests at most {MAX_DEPTH} deep and has at most {MAX_VALUES} values."),
                }),
                None => self.object(message, &[]),
            };
            self.components.insert(name.clone(), schema);
        }
        reference(&name)
    }

    fn object(&mut self, message: &MessageDescriptor, without: &[FieldDescriptor]) -> Value {
        let fields: Vec<FieldDescriptor> =
            message.fields().filter(|field| !without.contains(field)).collect();
        let properties: Map<String, Value> =
            fields.iter().map(|field| (field.json_name().to_owned(), self.property(field))).collect();
        let mut schema = json!({
            "type": "object", "properties": properties, "additionalProperties": false,
        });
        let required: Vec<&str> =
            fields.iter().filter(|field| is_required(field)).map(FieldDescriptor::json_name).collect();
        let about = self.words.of(&message.parent_file(), message.path());
        if let Value::Object(members) = &mut schema {
            if !required.is_empty() {
                members.insert("required".to_owned(), json!(required));
            }
            let choices = message.oneofs().filter(|oneof| !oneof.is_synthetic()).map(|oneof| {
                let ways = oneof.fields().map(|field| json!({"required": [field.json_name()]}));
                json!({"oneOf": ways.collect::<Vec<_>>()})
            });
            let mut choices: Vec<Value> = choices.collect();
            match (choices.len(), choices.pop()) {
                (1, Some(Value::Object(choice))) => members.extend(choice),
                (_, Some(last)) => {
                    choices.push(last);
                    members.insert("allOf".to_owned(), choices.into());
                }
                (_, None) => {}
            }
        }
        described(schema, &about)
    }

    fn property(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = self.kind(&field.kind());
        if field.is_list() {
            schema = json!({"type": "array", "items": schema});
        }
        if let (Value::Object(members), true) = (&mut schema, is_output_only(field)) {
            members.insert("readOnly".to_owned(), true.into());
        }
        described(schema, &self.words_of(field))
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Uint32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Uint64 => json!({
                "type": ["integer", "string"], "minimum": 0, "maximum": u64::MAX,
                "pattern": scalar::digits_pattern(),
            }),
            Kind::Enum(values) => self.names(values),
            Kind::Message(message) => self.message(message),
            // The contract has no numbers with a fraction and no bytes; a test holds that it stays so.
            _ => json!({"type": "string"}),
        }
    }

    fn names(&mut self, values: &EnumDescriptor) -> Value {
        let name = component_name(values.full_name());
        if !self.components.contains_key(&name) {
            let file = values.parent_file();
            let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
            let mut about = self.words.of(&file, values.path());
            for value in values.values() {
                let words = self.words.of(&file, value.path());
                if !words.is_empty() {
                    about.extend(["\n* `", value.name(), "`: ", &words]);
                }
            }
            let schema = described(json!({"type": "string", "enum": names}), about.trim());
            self.components.insert(name.clone(), schema);
        }
        reference(&name)
    }

    fn words_of(&mut self, field: &FieldDescriptor) -> String {
        self.words.of(&field.parent_file(), field.path())
    }
}

/// Without the package, which all share.
fn component_name(full_name: &str) -> String {
    let name = full_name.strip_prefix("daypass.v1.").or(full_name.strip_prefix("google.protobuf."));
    name.unwrap_or(full_name).to_owned()
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The method's name, begun small.
pub fn operation_id(method: &MethodDescriptor) -> String {
    let (first, rest) = method.name().split_at_checked(1).unwrap_or(("", method.name()));
    format!("{}{rest}", first.to_ascii_lowercase())
}

fn error_schema() -> Value {
    json!({
        "type": "object", "required": ["error"], "additionalProperties": false,
        "properties": {"error": {
            "type": "object", "required": ["code", "status", "message"], "additionalProperties": false,
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "status": {"type": "string", "description": "The gRPC status, such as `NOT_FOUND`."},
                "message": {"type": "string", "description": "In words, for people."},
            },
        }},
    })
}

fn error_response(about: &str) -> Value {
    json!({"description": about, "content": {"application/json": {"schema": reference("Error")}}})
}
