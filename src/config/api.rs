//! The `api` section of the configuration file: who may call, how often, and over which TLS.

use std::collections::HashSet;
use std::path::PathBuf;

use jiff::SignedDuration;
use url::{Host, Url};

use super::file::{path, positive, text};
use super::reader::Section;
use super::{ClientAuth, TlsFiles};
use crate::api::{IssuerConfig, KeySource, RateLimit, default_algorithms};
use crate::fetch::tls::Tls;
use crate::jws::Algorithm;
use crate::principal::Kind;

const DEFAULT_LEEWAY: SignedDuration = SignedDuration::from_secs(30);
/// Clocks that are further apart are wrong, and every second of it is one more for a stolen token.
const MAX_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// What the file says; nothing where it says nothing.
#[derive(Debug, Default)]
pub struct ApiSettings {
    pub tokens_file: Option<PathBuf>,
    pub tls: Option<TlsFiles>,
    pub issuers: Vec<IssuerConfig>,
    pub rate_limit: Option<RateLimit>,
}

pub fn read(section: &mut Section<'_, '_>) -> ApiSettings {
    ApiSettings {
        tokens_file: section.get("tokens_file", path),
        tls: section.section("tls", tls).flatten(),
        issuers: section.section("authentication", issuers).unwrap_or_default(),
        rate_limit: section.section("rate_limit", rate_limit).flatten(),
    }
}

fn tls(section: &mut Section<'_, '_>) -> Option<TlsFiles> {
    let (cert_file, key_file) = (section.get("cert_file", path), section.get("key_file", path));
    let client_ca_file = section.get("client_ca_file", path);
    let client_auth = section.get("client_auth", |text| match text {
        "optional" => Ok(ClientAuth::Optional),
        "required" => Ok(ClientAuth::Required),
        other => Err(format!("{other:?} is neither optional nor required")),
    });
    if client_auth.is_some() && client_ca_file.is_none() {
        section.complain("client_auth needs client_ca_file: who signs the certificates");
    }
    if let (Some(cert_file), Some(key_file)) = (cert_file, key_file) {
        let client_ca = client_ca_file.map(|file| (file, client_auth.unwrap_or(ClientAuth::Optional)));
        Some(TlsFiles { cert_file, key_file, client_ca })
    } else {
        section.complain("needs cert_file and key_file");
        None
    }
}

fn rate_limit(section: &mut Section<'_, '_>) -> Option<RateLimit> {
    let number = |text: &str| {
        positive(text).and_then(|number| u32::try_from(number).map_err(|_| format!("{text} is too large")))
    };
    let (per_second, burst) = (section.get("per_second", number), section.get("burst", number));
    let Some(per_second) = per_second else {
        section.complain("needs per_second");
        return None;
    };
    // One second's worth, if nothing is said.
    Some(RateLimit { per_second, burst: burst.unwrap_or(per_second) })
}

fn issuers(section: &mut Section<'_, '_>) -> Vec<IssuerConfig> {
    let found = section.sections("jwt", issuer).unwrap_or_default();
    let mut names = HashSet::new();
    for config in &found {
        if !names.insert(config.issuer.as_str()) {
            section.complain(&format!("the issuer {:?} is there twice", config.issuer));
        }
    }
    found
}

fn issuer(section: &mut Section<'_, '_>) -> Option<IssuerConfig> {
    let issuer = section.get("issuer", text);
    if issuer.is_none() {
        section.complain("needs `issuer`, as the tokens have it in `iss`");
    }
    let audiences = section.list("audiences", text).filter(|audiences| !audiences.is_empty());
    if audiences.is_none() {
        section.complain("needs `audiences`: a token for another service must not pass here");
    }
    let user_claim = section.get("user_claim", text).unwrap_or_else(|| "sub".to_owned());
    let groups_claim = section.get("groups_claim", text);
    let groups = section.list("groups", text);
    let kind = section.get("kind", |text| match text {
        "user" => Ok(Kind::User),
        "workload" => Ok(Kind::Workload),
        other => Err(format!("{other:?} is neither user nor workload")),
    });
    let kind = kind.unwrap_or(Kind::User);
    let groups_claim = groups_claim_of(kind, groups_claim);
    if groups.is_some() && groups_claim.is_none() {
        section.complain("groups: needs groups_claim, where the tokens have them");
    }
    let algorithms = section.list("algorithms", |text| {
        Algorithm::named(text)
            .map(|algorithm| (algorithm, matches!(algorithm, Algorithm::Hmac(_))))
            .ok_or_else(|| format!("{text:?} is no algorithm of signatures that is known here"))
    });
    let has_secrets = algorithms.iter().flatten().any(|(_, is_hmac)| *is_hmac);
    if has_secrets && algorithms.iter().flatten().any(|(_, is_hmac)| !is_hmac) {
        section.complain("algorithms: one issuer has secrets (HS...) or public keys, not both");
    }
    let keys = keys(section);
    if has_secrets && matches!(keys, Some(KeySource::Url { .. })) {
        section.complain("algorithms: a secret is not fetched from a URL; HS... needs jwks_file");
    }
    let leeway = section.get("leeway", leeway).unwrap_or(DEFAULT_LEEWAY);
    Some(IssuerConfig {
        issuer: issuer?,
        audiences: audiences?,
        keys: keys?,
        user_claim,
        groups_claim,
        groups,
        kind,
        algorithms: match algorithms {
            Some(algorithms) => algorithms.into_iter().map(|(algorithm, _)| algorithm).collect(),
            None => default_algorithms(),
        },
        leeway,
    })
}

/// Groups of people mean something to policy. What workloads' issuers have under the same name often is theirs to choose.
fn groups_claim_of(kind: Kind, said: Option<String>) -> Option<String> {
    match said {
        Some(name) if name == "none" => None,
        None if kind == Kind::Workload => None,
        said => Some(said.unwrap_or_else(|| "groups".to_owned())),
    }
}

fn keys(section: &mut Section<'_, '_>) -> Option<KeySource> {
    let (file, url) = (section.get("jwks_file", path), section.get("jwks_url", jwks_url));
    let ca_file = section.get("ca_file", path);
    match (file, url) {
        (Some(file), None) => {
            if ca_file.is_some() {
                section.complain("ca_file belongs to jwks_url");
            }
            Some(KeySource::File(file))
        }
        (None, Some(url)) => Some(KeySource::Url { url, tls: Tls { ca_file, ..Tls::default() } }),
        _ => {
            section.complain("needs either jwks_file or jwks_url");
            None
        }
    }
}

/// Whoever can change the answer can sign tokens.
fn jwks_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{text:?}: {error}"))?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err("user and password are not sent".to_owned())
        }
        "https" => Ok(url),
        "http" if is_loopback => Ok(url),
        "http" => Err(format!("{text:?} is in clear; only this machine may be asked by http://")),
        _ => Err(format!("{text:?} is not https://")),
    }
}

/// As other durations, and none at all.
fn leeway(text: &str) -> Result<SignedDuration, String> {
    let parsed: Option<SignedDuration> =
        if text == "0" { Some(SignedDuration::ZERO) } else { text.parse().ok() };
    match parsed {
        Some(leeway) if !leeway.is_negative() && leeway <= MAX_LEEWAY => Ok(leeway),
        Some(_) => Err(format!("{text:?} is not between 0s and {MAX_LEEWAY:#}")),
        None => Err(format!("{text:?} is not a duration; write 30s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_tls_or_from_this_machine() {
        for good in ["https://idp/keys", "http://127.0.0.1:1/k", "http://[::1]/k", "http://localhost:8080/k"]
        {
            assert!(jwks_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://idp/keys",
            "http://127.0.0.1.evil.example/k",
            "http://localhost.evil.example/k",
            "https://user@idp/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "keys.json",
        ] {
            assert!(jwks_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn workloads_have_groups_only_if_that_is_said() {
        let claim = |kind, said: Option<&str>| groups_claim_of(kind, said.map(str::to_owned));
        assert_eq!(claim(Kind::User, None).as_deref(), Some("groups"));
        assert_eq!(claim(Kind::Workload, None), None);
        for kind in [Kind::User, Kind::Workload] {
            assert_eq!(claim(kind, Some("none")), None);
            assert_eq!(claim(kind, Some("roles")).as_deref(), Some("roles"));
        }
    }

    #[test]
    fn leeway_has_an_end() {
        for good in ["0", "0s", "30s", "1m", "60s"] {
            assert!(leeway(good).is_ok(), "{good}");
        }
        for bad in ["61s", "-1s", "soon", "30"] {
            assert!(leeway(bad).is_err(), "{bad}");
        }
    }
}
