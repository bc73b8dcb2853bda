//! Tokens that issuers sign. Nothing of a token is believed before its signature is, but for which issuer and key it
//! names; and no key checks a signature that its issuer's algorithms do not include.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Reason, Refusal};
use super::certificate::Presented;
use super::keys::{Keys, Source};
use crate::clock::{Clock, Now};
use crate::jws::compact::Compact;
use crate::jws::{self, Algorithm, base64};
use crate::principal::{Caller, Evidence, Identity, Kind, Principal};

/// As at the check listener: more principals than any directory gives one person.
const MAX_PRINCIPALS: usize = 256;
/// Keys that are tried for a token. Issuers that rotate have two or three of a kind, and name them.
const MAX_TRIED_KEYS: usize = 4;
/// Signatures looked at at once for those who were refused too often: never more than this of the processors.
const MAX_TURNS: usize = 1;
/// What they wait for their turn, before they are refused unheard.
const TURN_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct IssuerConfig {
    pub issuer: String,
    /// Tokens are for one of them.
    pub audiences: Vec<String>,
    pub keys: Source,
    pub user_claim: String,
    /// None: the issuer names no groups.
    pub groups_claim: Option<String>,
    /// The groups that it may name; others of its tokens do not count. None: any.
    pub groups: Option<Vec<String>>,
    /// What the subject is.
    pub kind: Kind,
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may be apart.
    pub leeway: SignedDuration,
}

struct Issuer {
    config: IssuerConfig,
    keys: Arc<Keys>,
}

pub struct Issuers {
    all: Vec<Issuer>,
    turns: Semaphore,
}

impl Issuers {
    #[must_use]
    pub fn new(configs: Vec<IssuerConfig>, clock: Clock) -> Self {
        let issuer = |config: IssuerConfig| {
            let keys = Arc::new(Keys::new(config.issuer.clone(), config.keys.clone(), clock));
            Issuer { config, keys }
        };
        Self { all: configs.into_iter().map(issuer).collect(), turns: Semaphore::new(MAX_TURNS) }
    }

    pub fn keys(&self) -> impl Iterator<Item = Arc<Keys>> {
        self.all.iter().map(|issuer| Arc::clone(&issuer.keys))
    }

    /// Who is not trusted to ask, because of too many refusals, waits for no keys, and for signatures in a line.
    ///
    /// # Errors
    /// The token is not one of a trusted issuer for this server, or its keys are not there.
    pub async fn identify(
        &self,
        token: &str,
        certificate: Option<&Presented>,
        now: Now,
        may_ask: bool,
    ) -> Result<Identity, Refusal> {
        let token = Token::read(token)?;
        let named = token.claims.get("iss").and_then(Value::as_str).ok_or(Reason::Issuer)?;
        let issuer = self.all.iter().find(|issuer| issuer.config.issuer == named).ok_or(Reason::Issuer)?;
        if !issuer.config.algorithms.contains(&token.algorithm) {
            return Err(Reason::Algorithm.into());
        }
        let is_missing = |keys: &Keys| {
            let known = keys.current();
            known.is_none_or(|known| token.key_id.as_deref().is_some_and(|id| !known.has(id)))
        };
        if may_ask && is_missing(&issuer.keys) {
            issuer.keys.look_again().await;
        }
        let known = issuer.keys.current().ok_or(Refusal::NoKeys)?;
        if token.key_id.as_deref().is_some_and(|id| !known.has(id)) {
            return Err(Reason::UnknownKey.into());
        }
        let turn = async { if may_ask { None } else { self.turns.acquire().await.ok() } };
        let _turn = timeout(TURN_LIMIT, turn).await.map_err(|_| Refusal::TooMany(TURN_LIMIT))?;
        let is_signed = known
            .candidates(token.key_id.as_deref(), &token.algorithm_name)
            .filter(|key| jws::fits(token.algorithm, key))
            .take(MAX_TRIED_KEYS)
            .any(|key| jws::verify(token.algorithm, key, token.signed, &token.signature));
        if !is_signed {
            return Err(Reason::Signature.into());
        }
        check_binding(&token.claims, certificate)?;
        Ok(identity(&issuer.config, &token.claims, now.wall)?)
    }
}

/// Taken apart, and not believed yet.
struct Token<'t> {
    algorithm: Algorithm,
    algorithm_name: String,
    key_id: Option<String>,
    claims: Map<String, Value>,
    signed: &'t [u8],
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    fn read(text: &'t str) -> Result<Self, Reason> {
        let compact = Compact::parse(text).map_err(|_| Reason::Malformed)?;
        let header = object(compact.header)?;
        let claims = object(compact.payload)?;
        let signature = base64::strict_url(compact.signature).ok_or(Reason::Malformed)?;
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Reason::Malformed),
        };
        // RFC 7515, 4.1.11: what must be understood and is not.
        if header.contains_key("crit") {
            return Err(Reason::Critical);
        }
        if !text("typ")?.is_none_or(|kind| is_token_type(&kind)) || header.contains_key("cty") {
            return Err(Reason::Type);
        }
        let algorithm_name = text("alg")?.ok_or(Reason::Algorithm)?;
        let algorithm = Algorithm::named(&algorithm_name).ok_or(Reason::Algorithm)?;
        let key_id = text("kid")?;
        Ok(Self { algorithm, algorithm_name, key_id, claims, signed: compact.signed, signature })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Reason> {
    let bytes = base64::strict_url(part).ok_or(Reason::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Reason::Malformed)
}

/// A token to call with: RFC 7519, RFC 9068 and JWT-SVID. Not one that says that somebody logged out, or proves that
/// somebody has a key.
fn is_token_type(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt" | "jose")
}

/// RFC 7800: a token that is worth nothing without a key is refused without it.
fn check_binding(claims: &Map<String, Value>, certificate: Option<&Presented>) -> Result<(), Reason> {
    let Some(binding) = claims.get("cnf") else { return Ok(()) };
    let is_shown = binding.as_object().is_some_and(|members| {
        let wanted = members.get("x5t#S256").and_then(Value::as_str).and_then(base64::strict_url);
        members.len() == 1
            && wanted.is_some_and(|wanted| certificate.is_some_and(|own| own.sha256() == wanted))
    });
    if is_shown { Ok(()) } else { Err(Reason::Bound) }
}

fn identity(config: &IssuerConfig, claims: &Map<String, Value>, now: Timestamp) -> Result<Identity, Reason> {
    let expires_at = check_times(claims, config.leeway, now)?;
    if !is_for(claims.get("aud"), &config.audiences) {
        return Err(Reason::Audience);
    }
    // Anybody may write anybody's address into a directory that does not ask whether it is theirs.
    if config.user_claim == "email" && claims.get("email_verified") != Some(&Value::Bool(true)) {
        return Err(Reason::Unverified);
    }
    let subject = match claims.get(&config.user_claim) {
        Some(Value::String(name)) => principal(config.kind, name)?,
        _ => return Err(Reason::NoSubject),
    };
    let mut principals = vec![subject];
    let groups = config.groups_claim.as_ref().and_then(|claim| claims.get(claim));
    let may_name =
        |name: &str| config.groups.as_ref().is_none_or(|groups| groups.iter().any(|own| own == name));
    for name in texts(groups).filter(|name| may_name(name)) {
        let group = principal(Kind::Group, name)?;
        if principals.contains(&group) {
            continue;
        }
        if principals.len() == MAX_PRINCIPALS {
            return Err(Reason::TooManyNames);
        }
        principals.push(group);
    }
    let delegate = claims.get("act").map(|act| delegate(config, act)).transpose()?;
    let identity = Identity::new(Caller::new(principals), Evidence::Jwt).ok_or(Reason::NoSubject)?;
    Ok(Identity { delegate, expires_at: Some(expires_at), ..identity })
}

fn principal(kind: Kind, name: &str) -> Result<Principal, Reason> {
    Principal::new(kind, name).map_err(|_| Reason::BadPrincipal)
}

/// RFC 8693, 4.1: who acts now. Named as the same actor is named when it calls for itself: nobody approves through a
/// delegate what they asked for, and that is held by name.
fn delegate(config: &IssuerConfig, act: &Value) -> Result<Principal, Reason> {
    let act = act.as_object().ok_or(Reason::BadDelegate)?;
    // Actors further in acted before; one of them may be who must not act here, and nothing here looks at more than one.
    if act.contains_key("act") {
        return Err(Reason::SeveralDelegates);
    }
    // What it is called here, only its own issuer's configuration could tell.
    if act.get("iss").is_some_and(|issuer| issuer.as_str() != Some(config.issuer.as_str())) {
        return Err(Reason::StrangeDelegate);
    }
    let name = match act.get(&config.user_claim) {
        Some(name) => name.as_str().ok_or(Reason::BadDelegate)?,
        None if act.contains_key("sub") => return Err(Reason::OtherwiseNamed),
        None => return Err(Reason::BadDelegate),
    };
    let kind = if name.starts_with("spiffe://") { Kind::Workload } else { config.kind };
    Principal::new(kind, name).map_err(|_| Reason::BadDelegate)
}

/// A text, or the texts of a list. Claims of other types name nobody.
fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let values = match value {
        Some(Value::Array(items)) => items.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    values.iter().filter_map(Value::as_str).filter(|text| !text.is_empty())
}

fn is_for(audience: Option<&Value>, own: &[String]) -> bool {
    match audience {
        Some(Value::String(name)) => own.contains(name),
        Some(Value::Array(names)) => {
            names.iter().all(Value::is_string)
                && texts(audience).any(|name| own.iter().any(|own| own == name))
        }
        _ => false,
    }
}

/// `exp` must be there; `nbf` and `iat` are held to if they are.
fn check_times(
    claims: &Map<String, Value>,
    leeway: SignedDuration,
    now: Timestamp,
) -> Result<Timestamp, Reason> {
    let expires_at = date(claims.get("exp").ok_or(Reason::Endless)?)?;
    if now.duration_since(expires_at) >= leeway {
        return Err(Reason::Expired);
    }
    for name in ["nbf", "iat"] {
        if let Some(begins) = claims.get(name)
            && date(begins)?.duration_since(now) > leeway
        {
            return Err(Reason::NotYet);
        }
    }
    Ok(expires_at)
}

/// NumericDate of RFC 7519.
fn date(value: &Value) -> Result<Timestamp, Reason> {
    let seconds = value.as_f64().and_then(|seconds| SignedDuration::try_from_secs_f64(seconds).ok());
    seconds.and_then(|seconds| Timestamp::UNIX_EPOCH.checked_add(seconds).ok()).ok_or(Reason::Malformed)
}

#[cfg(test)]
mod tests;
