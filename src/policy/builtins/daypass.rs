//! daypass' own: what the permissions of grants and entitlements would cover.

use std::collections::HashSet;

use regorus::value::Object;
use regorus::{Rc, Value};

use super::values::element;
use super::{Builtin, Fault, Outcome, binary, kind_of, ternary, text};
use crate::permission::{Permission, PermissionLists, Target};

pub const BUILTINS: [Builtin; 2] = [binary("daypass.covers", covers), ternary("daypass.askable", askable)];

/// Permissions of one call. A grant has 64 KiB, which are no more.
const MAX_PERMISSIONS: usize = 8192;
/// Requests of one call: one that may be read in two ways is two.
const MAX_REQUESTS: usize = 16;
/// Patterns of one list.
const MAX_PATTERNS: usize = 8192;

/// `daypass.covers(permissions, request)`: whether one of them, as in a grant's key, covers `{host, method, path}`, with
/// `grpc_method` for a gRPC request.
fn covers(permissions: &Value, request: &Value) -> Outcome {
    let Value::Array(items) = permissions else { return Err(Fault::operand(1, "array", permissions)) };
    let Value::Object(request_members) = request else { return Err(Fault::operand(2, "object", request)) };
    if items.len() > MAX_PERMISSIONS {
        return Err(Fault::failed(format!("at most {MAX_PERMISSIONS} permissions are compared")));
    }
    let asked = Asked::read(request_members)?;
    let target = asked.target();
    let mut is_covered = false;
    // All are read, so that a mistake in one is told whatever the request.
    for item in items.iter() {
        let Value::Object(members) = item else { return Err(element(1, permissions, "object", item)) };
        let permission =
            Permission::new(&lists(members)?).map_err(|error| Fault::failed(error.to_string()))?;
        is_covered |= target.as_ref().is_some_and(|target| permission.matches(target));
    }
    Ok(Value::Bool(is_covered))
}

/// `daypass.askable(entitlements, principals, requests)`: names of those that one of the principals may ask for and that
/// would cover one of the requests. For denials: a loop in policy would take a denial's time limit for some thousands of
/// entitlements. Those that are none are passed over; they were refused when they were read.
fn askable(entitlements: &Value, principals: &Value, requests: &Value) -> Outcome {
    let Value::Object(entitlements) = entitlements else {
        return Err(Fault::operand(1, "object", entitlements));
    };
    let Value::Array(principals) = principals else { return Err(Fault::operand(2, "array", principals)) };
    let Value::Array(items) = requests else { return Err(Fault::operand(3, "array", requests)) };
    if items.len() > MAX_REQUESTS {
        return Err(Fault::failed(format!("at most {MAX_REQUESTS} requests are compared")));
    }
    let mut targets = Vec::new();
    for item in items.iter() {
        let Value::Object(members) = item else { return Err(element(3, requests, "object", item)) };
        targets.extend(Asked::read(members)?.target());
    }
    let principals: HashSet<&str> = principals.iter().filter_map(as_text).collect();
    let (eligible, permissions) = (Value::from("eligible"), Value::from("permissions"));
    let list = |members: &Object, name: &Value| match members.get(name) {
        Some(Value::Array(items)) => Some(Rc::clone(items)),
        _ => None,
    };
    let mut names: Vec<&str> = Vec::new();
    for (name, entitlement) in entitlements.iter() {
        let (Some(name), Value::Object(members)) = (as_text(name), entitlement) else { continue };
        let is_eligible = list(members, &eligible)
            .is_some_and(|eligible| eligible.iter().filter_map(as_text).any(|who| principals.contains(who)));
        let covers = |item: &Value| {
            let Value::Object(members) = item else { return false };
            let permission = lists(members).ok().and_then(|lists| Permission::new(&lists).ok());
            permission.is_some_and(|permission| targets.iter().any(|target| permission.matches(target)))
        };
        if is_eligible
            && list(members, &permissions).is_some_and(|permissions| permissions.iter().any(covers))
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(Value::from(names.into_iter().map(Value::from).collect::<Vec<_>>()))
}

fn as_text(value: &Value) -> Option<&str> {
    if let Value::String(text) = value { Some(text) } else { None }
}

/// The request, as far as it is told.
struct Asked<'a> {
    host: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    grpc_method: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn read(members: &'a Object) -> Result<Self, Fault> {
        for name in members.keys() {
            let is_known = matches!(name, Value::String(name) if matches!(&**name, "host" | "method" | "path" | "grpc_method"));
            if !is_known {
                return Err(Fault::failed("a request has host, method, path and grpc_method"));
            }
        }
        let get = |name: &str| members.get(&Value::from(name)).map(|value| text(2, value)).transpose();
        Ok(Self {
            host: get("host")?,
            method: get("method")?,
            path: get("path")?,
            grpc_method: get("grpc_method")?,
        })
    }

    /// None if it contradicts itself, which nothing covers.
    fn target(&self) -> Option<Target<'a>> {
        // What a check would see of a gRPC request.
        let content_type = self.grpc_method.map(|_| "application/grpc");
        let target = match (self.method, self.path) {
            (None, None) if self.grpc_method.is_none() => Target::tcp(self.host),
            (method, path) => Target::http(
                self.host.unwrap_or_default(),
                method.unwrap_or_default(),
                path.unwrap_or_default(),
                content_type,
            ),
        };
        let wanted = self.grpc_method.map(|method| method.trim_start_matches('/'));
        (wanted == target.grpc_method()).then_some(target)
    }
}

fn lists(members: &Object) -> Result<PermissionLists, Fault> {
    let mut found = PermissionLists::default();
    for (name, value) in members {
        let list = match name {
            Value::String(name) => match &**name {
                "hosts" => &mut found.hosts,
                "methods" => &mut found.methods,
                "paths" => &mut found.paths,
                "grpc_methods" => &mut found.grpc_methods,
                _ => return Err(unknown()),
            },
            _ => return Err(unknown()),
        };
        let Value::Array(items) = value else {
            return Err(Fault::Type(format!(
                "operand 1 must have lists of strings but got {}",
                kind_of(value)
            )));
        };
        if items.len() > MAX_PATTERNS {
            return Err(Fault::failed(format!("at most {MAX_PATTERNS} patterns are compared")));
        }
        let pattern = |item: &Value| match item {
            Value::String(text) => Ok(text.to_string()),
            other => Err(element(1, value, "string", other)),
        };
        *list = Some(items.iter().map(pattern).collect::<Result<_, _>>()?);
    }
    Ok(found)
}

fn unknown() -> Fault {
    Fault::failed("a permission has hosts, methods, paths and grpc_methods")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(permissions: &str, request: &str) -> Outcome {
        let value = |text: &str| Value::from_json_str(text).unwrap();
        covers(&value(permissions), &value(request))
    }

    #[test]
    fn as_a_check_would() {
        let db = r#"[{"hosts": ["*.svc"], "methods": ["GET"]}, {"paths": ["/db/**"]}]"#;
        let grpc = r#"[{"grpc_methods": ["a.B/*"]}]"#;
        for (permissions, request, wanted) in [
            (db, r#"{"host": "A.svc:80", "method": "get", "path": "/x?y"}"#, true),
            (db, r#"{"host": "b", "method": "POST", "path": "/db/x"}"#, true),
            (db, r#"{"host": "b", "method": "POST", "path": "/dbx"}"#, false),
            (db, r#"{"host": "a.svc", "method": "GET", "path": "/a/../b"}"#, false),
            (db, r#"{"host": "a.svc"}"#, false),
            (db, "{}", false),
            (r#"[{"hosts": ["a"]}]"#, r#"{"host": "a"}"#, true),
            ("[]", r#"{"host": "a", "method": "GET", "path": "/"}"#, false),
            (grpc, r#"{"host": "a", "method": "POST", "path": "/a.B/C", "grpc_method": "a.B/C"}"#, true),
            (grpc, r#"{"host": "a", "method": "POST", "path": "/a.B/C"}"#, false),
            (grpc, r#"{"host": "a", "method": "POST", "path": "/x.B/C", "grpc_method": "a.B/C"}"#, false),
            (grpc, r#"{"host": "a", "method": "GET", "path": "/a.B/C", "grpc_method": "a.B/C"}"#, false),
        ] {
            assert_eq!(covered(permissions, request), Ok(Value::Bool(wanted)), "{permissions} {request}");
        }
    }

    #[test]
    fn what_may_be_asked_for() {
        let value = |text: &str| Value::from_json_str(text).unwrap();
        let entitlements = value(
            r#"{"b": {"eligible": ["group:x"], "permissions": [{"hosts": ["a"]}]},
                "a": {"eligible": ["user:y", "user:z"], "permissions": [{"paths": ["/q"]}, {"paths": ["/p"]}]},
                "c": {"eligible": ["group:no"], "permissions": [{"hosts": ["a"]}]},
                "d": {"eligible": ["group:x"], "permissions": [{"hosts": ["b"]}]},
                "e": {"eligible": "group:x", "permissions": [{"hosts": ["a"]}]},
                "f": {"eligible": ["group:x", 1], "permissions": [{"hosts": []}, 1]},
                "g": {"eligible": ["group:x"]}, "h": 1}"#,
        );
        let found =
            |principals: &str, requests: &str| askable(&entitlements, &value(principals), &value(requests));
        let request = r#"[{"host": "a", "method": "GET", "path": "/p"}]"#;
        assert_eq!(found(r#"["group:x", "user:z"]"#, request), Ok(value(r#"["a", "b"]"#)));
        assert_eq!(found(r#"["user:z"]"#, request), Ok(value(r#"["a"]"#)));
        assert_eq!(found("[]", request), Ok(value("[]")));
        assert_eq!(found(r#"["group:x"]"#, r#"[{"host": "z"}, {"host": "b"}]"#), Ok(value(r#"["d"]"#)));
        for (principals, requests) in [("{}", "[]"), ("[]", "{}"), ("[]", "[1]"), ("[]", r#"[{"x": "a"}]"#)] {
            assert!(found(principals, requests).is_err(), "{principals} {requests}");
        }
        assert!(askable(&value("[]"), &value("[]"), &value("[]")).is_err());
    }

    #[test]
    fn what_is_no_permission_or_request_is_told() {
        let many = format!("[{}]", vec![r#"{"hosts":["a"]}"#; MAX_PERMISSIONS + 1].join(","));
        for (permissions, request) in [
            ("{}", "{}"),
            ("[1]", "{}"),
            (r#"[{"host": ["a"]}]"#, "{}"),
            (r#"[{"hosts": "a"}]"#, "{}"),
            (r#"[{"hosts": [1]}]"#, "{}"),
            (r#"[{"hosts": []}]"#, "{}"),
            ("[{}]", "{}"),
            (r#"[{"hosts": ["a"]}, {"paths": ["x"]}]"#, r#"{"host": "a"}"#),
            ("[]", "[]"),
            ("[]", r#"{"host": 1}"#),
            ("[]", r#"{"hots": "a"}"#),
            (&many, "{}"),
        ] {
            assert!(covered(permissions, request).is_err(), "{permissions:.60} {request}");
        }
    }
}
