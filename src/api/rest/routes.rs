//! Which method a path and a verb mean: read from the `google.api.http` options of the API's descriptors.
//!
//! Must never guess: a path matches one way only. A known verb after the last `:` is a verb; an id with such an end
//! is written with `%3A`.

use http::Method;
use percent_encoding::percent_decode_str;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
use thiserror::Error;

use super::refusal::Refusal;

/// A mistake in `proto/`; tests hold that the shipped one has none.
#[derive(Debug, Error)]
pub enum ContractError {
    #[error("the API's descriptors cannot be read")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    #[error("{method} has an HTTP option that is not understood: {problem}")]
    Rule { method: String, problem: &'static str },
}

#[derive(Debug, Clone)]
pub enum Segment {
    Literal(String),
    Field(FieldDescriptor),
}

#[derive(Debug)]
pub struct Route {
    pub verb: Method,
    /// As the OpenAPI document writes it.
    pub template: String,
    segments: Vec<Segment>,
    /// What stands after the last `:`.
    custom: Option<String>,
    /// Whether a body holds what the path does not; else the query does.
    pub has_body: bool,
    pub method: MethodDescriptor,
    pub input: MessageDescriptor,
    pub output: MessageDescriptor,
    /// Where the gRPC router has it.
    pub grpc_path: String,
}

impl Route {
    pub fn path_fields(&self) -> impl Iterator<Item = &FieldDescriptor> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Field(field) => Some(field),
        })
    }

    pub fn is_stream(&self) -> bool {
        self.method.is_server_streaming()
    }

    /// For streams of numbered messages: the number, and the request's field to go on after one.
    pub fn resumes(&self) -> Option<(FieldDescriptor, FieldDescriptor)> {
        let number = self.output.get_field_by_name("number").filter(|field| field.kind() == Kind::Uint64)?;
        let after = self.input.get_field_by_name("after").filter(|field| field.kind() == Kind::Uint64)?;
        self.is_stream().then_some((number, after))
    }

    fn read(method: &MethodDescriptor) -> Result<Option<Self>, ContractError> {
        let wrong = |problem| ContractError::Rule { method: method.full_name().to_owned(), problem };
        let Some(extension) = method.parent_pool().get_extension_by_name("google.api.http") else {
            return Err(wrong("the option is not defined"));
        };
        let options = method.options();
        if !options.has_extension(&extension) {
            return Ok(None);
        }
        let rule = options.get_extension(&extension);
        let rule = rule.as_message().ok_or_else(|| wrong("not a message"))?;
        let verbs = [
            ("get", Method::GET),
            ("put", Method::PUT),
            ("post", Method::POST),
            ("delete", Method::DELETE),
            ("patch", Method::PATCH),
        ];
        let text = |name: &str| match rule.get_field_by_name(name).as_deref() {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        };
        let (verb, template) = verbs
            .into_iter()
            .find_map(|(name, verb)| text(name).map(|template| (verb, template)))
            .ok_or_else(|| wrong("no path"))?;
        let has_body = match text("body").as_deref() {
            None => false,
            Some("*") => true,
            Some(_) => return Err(wrong("a body is `*` or none")),
        };
        if method.is_client_streaming() {
            return Err(wrong("streams of requests have no form in HTTP"));
        }
        let input = method.input();
        let (segments, custom) = parse_template(&template, &input).map_err(wrong)?;
        let grpc_path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let (method, output) = (method.clone(), method.output());
        let template = template_for_readers(&segments, custom.as_deref());
        Ok(Some(Self { verb, template, segments, custom, has_body, method, input, output, grpc_path }))
    }

    /// The path's parameters, if it is a path of this route. `last` is the last segment, without the verb.
    fn captures(&self, before: &[&str], last: &str) -> Option<Vec<(FieldDescriptor, String)>> {
        if self.segments.len() != before.len() + 1 {
            return None;
        }
        let mut captured = Vec::new();
        for (segment, raw) in self.segments.iter().zip(before.iter().copied().chain([last])) {
            let text = percent_decode_str(raw).decode_utf8().ok()?;
            match segment {
                Segment::Literal(literal) if *literal == text => {}
                Segment::Field(field) if !text.is_empty() => {
                    captured.push((field.clone(), text.into_owned()));
                }
                _ => return None,
            }
        }
        Some(captured)
    }
}

type Template = (Vec<Segment>, Option<String>);

fn parse_template(template: &str, input: &MessageDescriptor) -> Result<Template, &'static str> {
    let rest = template.strip_prefix('/').ok_or("a path begins with `/`")?;
    let (rest, custom) = match rest.rsplit_once(':') {
        Some((rest, custom)) if !custom.contains(['/', '}']) => (rest, Some(custom.to_owned())),
        _ => (rest, None),
    };
    let segment = |text: &str| {
        let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            return if text.is_empty() || text.contains(['{', '}', '*', '%']) {
                Err("a segment is a word or `{field}`")
            } else {
                Ok(Segment::Literal(text.to_owned()))
            };
        };
        let field = input.get_field_by_name(name).ok_or("the path names a field that is not there")?;
        let is_plain = field.kind() == Kind::String && !field.is_list();
        if is_plain { Ok(Segment::Field(field)) } else { Err("the path names a field that is no string") }
    };
    Ok((rest.split('/').map(segment).collect::<Result<_, _>>()?, custom))
}

/// With the names of fields as JSON has them.
fn template_for_readers(segments: &[Segment], custom: Option<&str>) -> String {
    let mut text = String::new();
    for segment in segments {
        match segment {
            Segment::Literal(word) => text.extend(["/", word]),
            Segment::Field(field) => text.extend(["/{", field.json_name(), "}"]),
        }
    }
    if let Some(custom) = custom {
        text.extend([":", custom]);
    }
    text
}

#[derive(Debug)]
pub struct Found<'a> {
    pub route: &'a Route,
    pub captured: Vec<(FieldDescriptor, String)>,
}

#[derive(Debug)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// All methods that have an HTTP option.
    pub fn read(pool: &DescriptorPool) -> Result<Self, ContractError> {
        let methods: Vec<MethodDescriptor> =
            pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
        let routes = methods.iter().filter_map(|method| Route::read(method).transpose());
        Ok(Self(routes.collect::<Result<_, _>>()?))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// HEAD is as GET; the answer's body is left out by whoever writes it.
    pub fn find(&self, verb: &Method, path: &str) -> Result<Found<'_>, Refusal> {
        let matches = self.matches(path)?;
        let allowed = allowed(matches.iter().map(|found| &found.route.verb));
        let verb = if verb == Method::HEAD { &Method::GET } else { verb };
        let found = matches.into_iter().find(|found| found.route.verb == *verb);
        found.ok_or(Refusal::Method(allowed))
    }

    fn matches(&self, path: &str) -> Result<Vec<Found<'_>>, Refusal> {
        let mut segments: Vec<&str> = path.strip_prefix('/').ok_or(Refusal::NoSuchPath)?.split('/').collect();
        if !segments.iter().all(|segment| is_encoded(segment)) {
            return Err(Refusal::Path);
        }
        let last = segments.pop().unwrap_or_default();
        let among = |custom: Option<&str>, last: &str| -> Vec<Found<'_>> {
            let routes = self.0.iter().filter(|route| route.custom.as_deref() == custom);
            routes
                .filter_map(|route| {
                    let captured = route.captures(&segments, last)?;
                    Some(Found { route, captured })
                })
                .collect()
        };
        let mut matches = match last.rsplit_once(':') {
            Some(("", _)) => return Err(Refusal::NoSuchPath),
            Some((last, custom)) => among(Some(custom), last),
            None => Vec::new(),
        };
        if matches.is_empty() {
            matches = among(None, last);
        }
        if matches.is_empty() { Err(Refusal::NoSuchPath) } else { Ok(matches) }
    }
}

/// The value of `allow`.
pub fn allowed<'a>(verbs: impl Iterator<Item = &'a Method>) -> String {
    let mut names: Vec<&str> = verbs.map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.join(", ")
}

/// Whether this is percent-encoded UTF-8: every `%` with two digits.
pub fn is_encoded(text: &str) -> bool {
    let mut parts = text.split('%').skip(1);
    parts.all(|part| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2)
        && percent_decode_str(text).decode_utf8().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        Routes::read(&DescriptorPool::decode(crate::api::v1::DESCRIPTORS).unwrap()).unwrap()
    }

    fn found(verb: &Method, path: &str) -> Result<(String, Vec<String>), Refusal> {
        let routes = routes();
        let found = routes.find(verb, path)?;
        let captured = found.captured.into_iter().map(|(_, text)| text).collect();
        Ok((found.route.method.name().to_owned(), captured))
    }

    #[test]
    fn paths_mean_one_method() {
        let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
        for (verb, path, method, captured) in [
            (&get, "/v1/grants", "ListGrants", &[][..]),
            (&post, "/v1/grants", "CreateGrant", &[]),
            (&Method::HEAD, "/v1/grants", "ListGrants", &[]),
            (&post, "/v1/grants:revokeAll", "RevokeAllGrants", &[]),
            (&get, "/v1/grants/g1", "GetGrant", &["g1"]),
            (&get, "/v1/gr%61nts/g%31", "GetGrant", &["g1"]),
            (&post, "/v1/grants/g1:revoke", "RevokeGrant", &["g1"]),
            (&get, "/v1/grants/g1:watch", "WatchGrant", &["g1"]),
            (&get, "/v1/grants/g1%3Awatch", "GetGrant", &["g1:watch"]),
            (&get, "/v1/grants/g1%3Awatch:watch", "WatchGrant", &["g1:watch"]),
            (&get, "/v1/grants/a%2Fb", "GetGrant", &["a/b"]),
            (&get, "/v1/grants/%2E%2E", "GetGrant", &[".."]),
            (&get, "/v1/entitlements/db:read", "GetEntitlement", &["db:read"]),
            (&post, "/v1/entitlements/db:read:breakGlass", "BreakGlass", &["db:read"]),
            (&get, "/v1/requests:search", "SearchRequests", &[]),
            (&delete, "/v1/locks/%C3%A9", "DeleteLock", &["é"]),
        ] {
            let (name, values) = found(verb, path).unwrap();
            assert_eq!(
                (name.as_str(), values.as_slice()),
                (method, &captured.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>()[..]),
                "{path}"
            );
        }
    }

    #[test]
    fn other_paths_and_verbs_are_refused() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v1/grants/",
            "/v1/grants/:watch",
            "/v1/grants//",
            "/v1/grants/a/b",
            "/V1/grants",
            "/v1/grants:",
            "/v1/grants:watch",
            "/v1/grants%3ArevokeAll",
            "//v1/grants",
            "/v1/nothing",
            "*",
        ] {
            assert!(matches!(found(&Method::GET, path), Err(Refusal::NoSuchPath)), "{path:?}");
        }
        for (path, allow) in [
            ("/v1/grants", "POST, GET, HEAD, OPTIONS"),
            ("/v1/grants/x:revoke", "POST, OPTIONS"),
            ("/v1/locks/x", "DELETE, OPTIONS"),
        ] {
            let Err(Refusal::Method(allowed)) = found(&Method::PATCH, path) else { panic!("{path}") };
            assert_eq!(allowed, allow);
        }
        assert!(matches!(found(&Method::GET, "/v1/grants/x:revoke"), Err(Refusal::Method(_))));
        for path in ["/v1/grants/%", "/v1/grants/%4", "/v1/grants/%zz", "/v1/grants/%ff", "/%/x"] {
            assert!(matches!(found(&Method::GET, path), Err(Refusal::Path)), "{path}");
        }
    }
}
