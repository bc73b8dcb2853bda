//! `services`: where bundles come from, and what to show there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use data_encoding::BASE64;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::Value as Json;
use url::Url;

use super::fields::{Fields, Problems, named};
use super::{Credentials, Secret, Service, Token};
use crate::fetch::tls::{ClientCertificate, Tls};

/// As OPA.
const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// In place of OPA's 0, which is for ever: a server that accepts and is silent would never be asked again.
const LONGEST_HEADER_TIMEOUT: Duration = Duration::from_secs(600);

/// A service, and the beginning of its URLs.
pub type Named = (Service, Option<Url>);

/// A list of services with names in them, or a mapping of names to services; the first is the default.
pub fn read(value: &Json, problems: &Problems) -> (BTreeMap<String, Named>, Option<String>) {
    let listed: Vec<(Option<&str>, Fields<'_>)> = match value {
        Json::Array(items) => {
            let item = |(index, item)| Fields::of(format!("services[{index}]"), item, problems);
            items.iter().enumerate().filter_map(item).map(|fields| (None, fields)).collect()
        }
        _ => named("services", value, problems)
            .into_iter()
            .map(|(name, fields)| (Some(name), fields))
            .collect(),
    };
    let (mut services, mut first) = (BTreeMap::new(), None);
    for (key, mut fields) in listed {
        let written = fields.text("name");
        let name = match (key, written) {
            (Some(key), Some(written)) if key != written => {
                fields.complain("name", format!("is not {key:?}, which is its key"));
                continue;
            }
            (Some(key), _) => key.to_owned(),
            (None, Some(written)) => written,
            (None, None) => {
                fields.complain("name", "is missing");
                continue;
            }
        };
        first.get_or_insert_with(|| name.clone());
        let path = fields.path.clone();
        let service = service(name.clone(), fields);
        if services.insert(name, service).is_some() {
            let message = "is a service of a name that another one has".to_owned();
            problems.borrow_mut().push(super::Problem { place: path, message });
        }
    }
    (services, first)
}

fn service(name: String, mut fields: Fields<'_>) -> Named {
    let mut url = fields.text("url").and_then(|text| match base(&text) {
        Ok(url) => Some(url),
        Err(message) => {
            fields.complain("url", message);
            None
        }
    });
    if url.is_none() && fields.value("url").is_none() {
        fields.complain("url", "is missing");
    }
    fields.refuse("type", "only plain HTTP servers are supported, not OCI registries");
    let headers = headers(&mut fields);
    let mut tls = Tls { is_insecure: fields.flag("allow_insecure_tls"), ..Tls::default() };
    if let Some(mut section) = fields.object("tls") {
        tls.ca_file = section.text("ca_cert").map(PathBuf::from);
        tls.with_system_authorities = section.flag("system_ca_required");
        section.finish();
    }
    let mut credentials = fields.object("credentials").map_or(Credentials::None, |section| {
        let (credentials, client) = credentials(section);
        tls.client = client;
        credentials
    });
    if let Some((url, basic)) = url.as_mut().and_then(|url| user_of(url).map(|basic| (url, basic))) {
        // Go's client makes a header of them, and so OPA does.
        if matches!(credentials, Credentials::None) {
            credentials = Credentials::Basic(basic);
        }
        // Neither can fail for a URL that had them.
        _ = url.set_username("");
        _ = url.set_password(None);
    }
    let header_timeout = match fields.whole("response_header_timeout_seconds") {
        None => DEFAULT_HEADER_TIMEOUT,
        Some(0) => LONGEST_HEADER_TIMEOUT,
        Some(seconds) => Duration::from_secs(seconds).min(LONGEST_HEADER_TIMEOUT),
    };
    fields.finish();
    (Service { name, headers, credentials, tls, header_timeout }, url)
}

fn base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" | "https" if url.query().is_none() && url.fragment().is_none() => Ok(url),
        "http" | "https" => Err("may have a path, but no query".to_owned()),
        _ => Err("must begin with http:// or https://".to_owned()),
    }
}

fn user_of(url: &Url) -> Option<Secret> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| {
        let pair = url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
            .next()
            .map(|(_, value)| value.into_owned());
        pair.unwrap_or_default()
    };
    let pair = format!("{}:{}", decode(url.username()), decode(url.password().unwrap_or_default()));
    Some(Secret::new(BASE64.encode(pair.as_bytes())))
}

fn headers(fields: &mut Fields<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    let Some(value) = fields.value("headers") else { return headers };
    let Json::Object(members) = value else {
        fields.complain("headers", "must be a mapping of names to values");
        return headers;
    };
    for (name, value) in members {
        let parsed = HeaderName::try_from(name.as_str()).ok();
        let value = value.as_str().and_then(|text| HeaderValue::from_str(text).ok());
        match (parsed, value) {
            (Some(name), Some(mut value)) => {
                value.set_sensitive(true);
                headers.push((name, value));
            }
            (None, _) => fields.complain("headers", format!("{name:?} is no header's name")),
            (_, None) => {
                fields.complain("headers", format!("{name}: its value is none that a header may have"));
            }
        }
    }
    headers
}

fn credentials(mut section: Fields<'_>) -> (Credentials, Option<ClientCertificate>) {
    const UNSUPPORTED: &str = "is not supported; supported are bearer and client_tls";
    for key in ["oauth2", "s3_signing", "gcp_metadata", "azure_managed_identity", "plugin"] {
        section.refuse(key, UNSUPPORTED);
    }
    let bearer = section.object("bearer").map(bearer);
    let client = section.object("client_tls").map(client_tls);
    if bearer.is_some() && client.is_some() {
        section.complain("", "at most one kind of credentials is used");
    }
    section.finish();
    (bearer.flatten().unwrap_or(Credentials::None), client.flatten())
}

fn bearer(mut section: Fields<'_>) -> Option<Credentials> {
    let scheme = section.text("scheme").unwrap_or_else(|| "Bearer".to_owned());
    let token = match (section.text("token"), section.text("token_path")) {
        (Some(token), None) => Some(Token::Text(Secret::new(token))),
        (None, Some(path)) => Some(Token::File(path.into())),
        (Some(_), Some(_)) => {
            section.complain("", "has both token and token_path, and one is needed");
            None
        }
        (None, None) => {
            section.complain("", "needs token or token_path");
            None
        }
    };
    let is_header = |text: &str| HeaderValue::from_str(text).is_ok();
    if !is_header(&scheme) || matches!(&token, Some(Token::Text(token)) if !is_header(token.reveal())) {
        section.complain("", format!("has characters that the header {AUTHORIZATION} may not have"));
    }
    section.finish();
    token.map(|token| Credentials::Bearer { scheme, token })
}

fn client_tls(mut section: Fields<'_>) -> Option<ClientCertificate> {
    section.refuse("private_key_passphrase", "encrypted keys are not supported");
    section.refuse("ca_cert", "write it in `tls` of the service");
    section.refuse("system_ca_required", "write it in `tls` of the service");
    // They are read for each request here.
    section.whole("cert_reread_interval_seconds");
    let files = section.text("cert").zip(section.text("private_key"));
    if files.is_none() {
        section.complain("", "needs cert and private_key");
    }
    section.finish();
    files.map(|(cert, key)| ClientCertificate { cert_file: cert.into(), key_file: key.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_in_urls_become_headers() {
        let url = Url::parse("https://al%20ice:p%40ss+word@host/x").unwrap();
        assert_eq!(user_of(&url).unwrap().reveal(), BASE64.encode(b"al ice:p@ss+word"));
        assert!(user_of(&Url::parse("https://host/").unwrap()).is_none());
    }
}
