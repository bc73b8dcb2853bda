//! What a call that is not let in is told: in general words, in the form its client reads, and never with anything of
//! what it sent.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use thiserror::Error;
use tonic::Status;

/// Why somebody is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Reason {
    #[error("this call needs an identity: a bearer token, or a client certificate")]
    Missing,
    #[error("more than one authorization header")]
    Several,
    #[error("the authorization header is not `Bearer` and a token")]
    NotBearer,
    #[error("the token is too long")]
    TooLong,
    #[error("the token is malformed")]
    Malformed,
    #[error("the token is not known")]
    UnknownToken,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token has no expiry")]
    Endless,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token's issuer is not trusted here")]
    Issuer,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token is of another type")]
    Type,
    #[error("the token asks for what is not supported")]
    Critical,
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    #[error("the token's signature is not good")]
    Signature,
    #[error("the token is bound to a key that this connection has not shown")]
    Bound,
    #[error("nobody is named who could be a caller")]
    NoSubject,
    #[error("the token's email address is not verified")]
    Unverified,
    #[error("somebody is named who cannot be a principal")]
    BadPrincipal,
    #[error("too many groups are named")]
    TooManyNames,
    #[error("the token's `act` claim names nobody")]
    BadDelegate,
    #[error("the token's `act` claim does not have the claim by which callers are named here")]
    OtherwiseNamed,
    #[error("the token's `act` claim names an actor of another issuer")]
    StrangeDelegate,
    #[error("the token's `act` claim names a chain of actors; only one may act for its subject")]
    SeveralDelegates,
    #[error("the client certificate cannot be read")]
    Unreadable,
    #[error("the client certificate has several names of one kind")]
    SeveralNames,
    #[error("the client certificate's DNS name is not a plain name in lower case")]
    BadDnsName,
    #[error("the client certificate's SPIFFE ID is not one")]
    BadSpiffeId,
    #[error("the client certificate has expired")]
    CertificateExpired,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("{0}")]
    Nobody(#[from] Reason),
    #[error("too many calls; try again in {} s", .0.as_secs())]
    TooMany(Duration),
    #[error("too many calls are under way; let some of them end")]
    Crowded,
    #[error("this call comes from a page of another site")]
    CrossSite,
    #[error("the keys of the token's issuer cannot be had now; try again")]
    NoKeys,
}

impl Refusal {
    /// The whole answer, for gRPC if that was asked for.
    #[must_use]
    pub fn answer(&self, headers: &HeaderMap) -> Response<String> {
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let is_grpc = kind.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC.as_bytes()));
        if is_grpc { self.grpc().into_http() } else { self.http() }
    }

    fn grpc(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::Nobody(_) => Status::unauthenticated(message),
            Self::CrossSite => Status::permission_denied(message),
            Self::TooMany(_) | Self::Crowded => Status::resource_exhausted(message),
            Self::NoKeys => Status::unavailable(message),
        }
    }

    fn http(&self) -> Response<String> {
        let (code, status) = match self {
            Self::Nobody(_) => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
            Self::TooMany(_) | Self::Crowded => (StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
            Self::NoKeys => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        };
        let message = self.to_string();
        let error = serde_json::json!({"code": code.as_u16(), "status": status, "message": message});
        let mut response = Response::new(serde_json::json!({ "error": error }).to_string());
        *response.status_mut() = code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self {
            Self::Nobody(_) => _ = headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Self::TooMany(wait) => _ = headers.insert(RETRY_AFTER, wait.as_secs().into()),
            Self::Crowded => _ = headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            Self::CrossSite | Self::NoKeys => {}
        }
        response
    }
}

const GRPC: &str = "application/grpc";

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(refusal: &Refusal, kind: Option<&'static str>) -> Response<String> {
        let kind = kind.map(|kind| (CONTENT_TYPE, HeaderValue::from_static(kind)));
        refusal.answer(&kind.into_iter().collect())
    }

    #[test]
    fn speaks_the_callers_protocol() {
        let refusals = [
            (Refusal::Nobody(Reason::Expired), 401, "UNAUTHENTICATED", "16"),
            (Refusal::TooMany(Duration::from_secs(3)), 429, "RESOURCE_EXHAUSTED", "8"),
            (Refusal::CrossSite, 403, "PERMISSION_DENIED", "7"),
            (Refusal::NoKeys, 503, "UNAVAILABLE", "14"),
        ];
        for (refusal, code, name, grpc) in refusals {
            for kind in ["application/grpc", "application/grpc+proto", "Application/GRPC-web"] {
                let answer = answer(&refusal, Some(kind));
                assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::OK, ""));
                assert_eq!(answer.headers()["grpc-status"], grpc);
            }
            for kind in [None, Some("application/json"), Some("application/gr")] {
                let answer = answer(&refusal, kind);
                assert_eq!(answer.status().as_u16(), code);
                let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
                assert_eq!(body["error"]["code"], code);
                assert_eq!(body["error"]["status"], name);
                assert_eq!(body["error"]["message"], refusal.to_string());
                assert_eq!(answer.headers().contains_key(WWW_AUTHENTICATE), code == 401);
                let wait = answer.headers().get(RETRY_AFTER);
                assert_eq!(wait.map(HeaderValue::as_bytes), (code == 429).then_some(&b"3"[..]));
            }
        }
    }
}
