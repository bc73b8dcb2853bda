//! Who calls the API, settled before anything else is done for a call.
//!
//! Every call but health has an identity or is answered here. A token decides who calls, whatever certificate the
//! connection has: a proxy that forwards a person's token has one of its own. A token that is not good is never made
//! up for by a certificate, and no answer quotes what was sent.

mod answer;
mod certificate;
mod jwt;
mod keys;
mod origin;
mod rate;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::task::JoinSet;

pub use answer::{Reason, Refusal};
pub use certificate::Presented;
pub use jwt::IssuerConfig;
pub use keys::Source as KeySource;
pub use origin::check as check_origin;
pub use rate::{RateLimit, network};

use super::tokens::LiveTokens;
use crate::clock::{Clock, Now};
use crate::jws::Algorithm;
use crate::principal::{Evidence, Identity};
use jwt::Issuers;
use rate::Buckets;

/// Bytes of a token. Tokens with some hundred groups have 4 KiB; proxies cut headers off at 8 or 16.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// What anybody may call: orchestrators ask it and have no tokens. Not what is beside it: a watch has no end.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

#[derive(Debug, Clone)]
pub struct GateConfig {
    pub issuers: Vec<IssuerConfig>,
    pub rate_limit: RateLimit,
}

/// What issuers sign with, if the configuration says nothing. No shared secrets: whoever verifies could sign.
#[must_use]
pub fn default_algorithms() -> Vec<Algorithm> {
    const NAMES: [&str; 10] =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];
    NAMES.into_iter().filter_map(Algorithm::named).collect()
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: IpAddr,
    /// A certificate that the handshake has verified.
    pub certificate: Option<Arc<Presented>>,
}

pub struct Gate {
    issuers: Issuers,
    tokens: Arc<LiveTokens>,
    buckets: Buckets,
    clock: Clock,
}

impl Gate {
    #[must_use]
    pub fn new(config: GateConfig, tokens: LiveTokens, clock: Clock) -> Self {
        Self {
            issuers: Issuers::new(config.issuers, clock),
            tokens: Arc::new(tokens),
            buckets: Buckets::new(config.rate_limit),
            clock,
        }
    }

    /// Keeps keys and tokens up to date.
    pub async fn follow(self: Arc<Self>) -> Infallible {
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&self.tokens).follow());
        for keys in self.issuers.keys() {
            tasks.spawn(keys.follow());
        }
        match tasks.join_next().await {
            Some(Ok(never)) => match never {},
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => std::future::pending().await,
        }
    }

    /// Who calls; nobody where nobody needs to be somebody.
    ///
    /// # Errors
    /// The call must be answered with the refusal, and with nothing else.
    pub async fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Option<Identity>, Refusal> {
        let now = self.clock.now();
        if path == HEALTH {
            return self.buckets.take_health(peer.address, now.boot).map(|()| None);
        }
        match self.identify(headers, peer, now).await {
            Ok(identity) => {
                self.buckets.take_call(&identity.subject, now.boot)?;
                Ok(Some(identity))
            }
            // After the look at it, not before: who shares an address with an attacker, behind a proxy say, is still
            // let in.
            Err(refusal) => {
                tracing::debug!(peer = %peer.address, "refused: {refusal}");
                self.buckets.take_refusal(peer.address, now.boot)?;
                Err(refusal)
            }
        }
    }

    async fn identify(&self, headers: &HeaderMap, peer: &Peer, now: Now) -> Result<Identity, Refusal> {
        let Some(token) = bearer(headers)? else {
            let certificate = peer.certificate.as_ref().ok_or(Reason::Missing)?;
            return Ok(certificate.identity(now.wall)?);
        };
        if let Some(entry) = self.tokens.current().find(token) {
            if entry.expires_at.is_some_and(|end| end <= now.wall) {
                return Err(Reason::Expired.into());
            }
            let identity = Identity::new(entry.caller(), Evidence::Token).ok_or(Reason::NoSubject)?;
            return Ok(Identity { expires_at: entry.expires_at, ..identity });
        }
        if !token.contains('.') {
            return Err(Reason::UnknownToken.into());
        }
        // Who was refused too often already does not make others wait for a fetch of keys.
        let may_ask = self.buckets.has_refusals_left(peer.address, now.boot);
        self.issuers.identify(token, peer.certificate.as_deref(), now, may_ask).await
    }
}

/// The one token of a call, if it has any.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Reason> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Reason::Several);
    }
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Reason::NotBearer)?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Reason::NotBearer);
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Reason::TooLong);
    }
    // RFC 6750, section 2.1. A comma would be two headers that somebody has joined.
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.bytes().all(is_allowed) { Ok(Some(token)) } else { Err(Reason::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&str]) -> Result<Option<String>, Reason> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        bearer(&headers).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn one_bearer_token_or_none() {
        assert_eq!(with(&[]), Ok(None));
        for good in ["Bearer abc.d-e_f=", "bearer abc.d-e_f=", "BEARER  abc.d-e_f= "] {
            assert_eq!(with(&[good]), Ok(Some("abc.d-e_f=".to_owned())), "{good:?}");
        }
        for bad in ["", "abc", "Basic abc", "Bearer", "Bearer ", "Bearerabc"] {
            assert_eq!(with(&[bad]), Err(Reason::NotBearer), "{bad:?}");
        }
        for bad in ["Bearer a, Bearer b", "Bearer a b", "Bearer a,b", "Bearer \"a\""] {
            assert_eq!(with(&[bad]), Err(Reason::Malformed), "{bad:?}");
        }
        assert_eq!(with(&["Bearer a", "Bearer a"]), Err(Reason::Several));
        assert_eq!(with(&["Bearer a", ""]), Err(Reason::Several));
        let long = |bytes: usize| format!("Bearer {}", "x".repeat(bytes));
        assert!(with(&[&long(MAX_TOKEN_BYTES)]).is_ok());
        assert_eq!(with(&[&long(MAX_TOKEN_BYTES + 1)]), Err(Reason::TooLong));
    }
}
