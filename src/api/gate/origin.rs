//! Whether a browser makes a call for a page of somebody else's. A browser shows its user's client certificate, and any
//! page can make it call; such a call changes nothing here. Programs send neither header, and are let through.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::answer::Refusal;

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// # Errors
/// The call would change something, and comes from a page of another origin.
pub fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let is_own_site = |value: &HeaderValue| matches!(value.as_bytes(), b"same-origin" | b"none");
    if !headers.get_all(SEC_FETCH_SITE).iter().all(is_own_site) {
        return Err(Refusal::CrossSite);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let own = match (uri.authority(), hosts.next(), hosts.next()) {
        // HTTP/2 names it so.
        (Some(authority), _, _) => Some(authority.as_str()),
        (None, Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    let is_own =
        |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| own.is_some_and(|own| is_of(origin, own)));
    if headers.get_all(ORIGIN).iter().all(is_own) { Ok(()) } else { Err(Refusal::CrossSite) }
}

/// The scheme may be another: a proxy in front may have taken TLS off.
fn is_of(origin: &str, host: &str) -> bool {
    let (port, authority) = match origin.split_once("://") {
        Some(("https", authority)) => (":443", authority),
        Some(("http", authority)) => (":80", authority),
        // `null` too: a page that hides where it is from.
        _ => return false,
    };
    let plain = |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
    !authority.is_empty() && plain(authority) == plain(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(method: &Method, uri: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        check(method, &uri.parse().unwrap(), &map).is_ok()
    }

    #[test]
    fn other_pages_change_nothing() {
        let host = ("host", "api.example:8443");
        for good in [
            vec![],
            vec![host],
            vec![host, ("origin", "https://api.example:8443")],
            vec![host, ("origin", "http://API.example:8443")],
            vec![host, ("sec-fetch-site", "same-origin"), ("origin", "https://api.example:8443")],
            vec![host, ("sec-fetch-site", "none")],
            vec![("host", "api.example"), ("origin", "https://api.example")],
            vec![("host", "api.example:443"), ("origin", "https://api.example")],
        ] {
            assert!(allowed(&Method::POST, "/v1/grants", &good), "{good:?}");
        }
        for bad in [
            vec![host, ("sec-fetch-site", "cross-site")],
            vec![host, ("sec-fetch-site", "same-site")],
            vec![host, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            vec![host, ("origin", "null")],
            vec![host, ("origin", "https://api.example")],
            vec![host, ("origin", "https://evil.example:8443")],
            vec![host, ("origin", "https://api.example:8443.evil.example")],
            vec![host, ("origin", "https://api.example:8443"), ("origin", "https://evil.example")],
            vec![host, ("origin", "https://u@api.example:8443")],
            vec![host, ("origin", "")],
            vec![("origin", "https://api.example:8443")],
            vec![host, host, ("origin", "https://api.example:8443")],
            vec![host, ("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
        ] {
            for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
                assert!(!allowed(&method, "/v1/grants", &bad), "{bad:?}");
            }
            assert!(allowed(&Method::GET, "/v1/grants", &bad), "reading shows nothing to the page");
        }
        let origin = ("origin", "https://api.example");
        assert!(allowed(&Method::POST, "https://api.example/v1/grants", &[origin]));
        assert!(!allowed(
            &Method::POST,
            "https://other.example/v1/grants",
            &[("host", "api.example"), origin]
        ));
    }
}
