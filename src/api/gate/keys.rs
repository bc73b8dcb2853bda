//! The keys of one issuer, kept up to date beside the calls. No call waits for a fetch longer than [`KEY_WAIT`], and
//! no stranger's key ids become a flood of fetches. A key that its issuer takes back ends at the next look.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use url::Url;

use crate::clock::{BootTime, Clock};
use crate::fetch::{self, tls::Tls};
use crate::jws::jwk::{self, Jwk};
use crate::jws::{Algorithm, Key};

/// Between two looks at a server.
const URL_PERIOD: Duration = Duration::from_secs(300);
/// The same after one that failed.
const URL_RETRY_PERIOD: Duration = Duration::from_secs(10);
/// Between two looks at a file. It is small and near.
const FILE_PERIOD: Duration = Duration::from_secs(2);
/// Between two looks that unknown keys ask for. Anybody can name an unknown key.
const UNKNOWN_KEY_PERIOD: Duration = Duration::from_secs(10);
/// What a call waits for a look.
const KEY_WAIT: Duration = Duration::from_secs(2);
/// One fetch, whole.
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// How long keys are believed that could not be looked at again: a night's outage of the issuer, not a forgotten one.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Of a key set. Each of some dozen keys is 2 KiB at most, certificates included.
const MAX_SET_BYTES: u64 = 256 << 10;
/// Of a shared secret: as many as its digest has (RFC 7518, 3.2), of the shortest.
const MIN_SECRET_BYTES: usize = 32;

/// Where the keys are.
#[derive(Debug, Clone)]
pub enum Source {
    File(PathBuf),
    Url { url: Url, tls: Tls },
}

impl Source {
    async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.map_err(|error| error.to_string())?
            }
            Self::Url { url, tls } => {
                let whole = timeout(FETCH_LIMIT, download(url, tls.clone())).await;
                whole.map_err(|_| format!("no whole answer within {FETCH_LIMIT:?}"))?
            }
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    file.take(MAX_SET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes.len() as u64 > MAX_SET_BYTES {
        return Err(format!("{}: larger than {MAX_SET_BYTES} bytes", path.display()));
    }
    Ok(bytes)
}

async fn download(url: &Url, tls: Tls) -> Result<Vec<u8>, String> {
    let accept = (ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
    let headers: HeaderMap = [accept].into_iter().collect();
    let response = fetch::get(url, headers, tls).await.map_err(|error| error.to_string())?;
    match response.status() {
        StatusCode::OK => fetch::body(response, MAX_SET_BYTES).await.map_err(|error| error.to_string()),
        // A redirect too: keys come from where the configuration says.
        status => Err(format!("the server answered {status}")),
    }
}

/// Keys that a look found.
pub struct Known {
    keys: Vec<Jwk>,
    read_at: BootTime,
}

impl Known {
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// Those a token may be signed with: of that id if it names one, and not meant for another algorithm.
    pub fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: &'a str,
    ) -> impl Iterator<Item = &'a Key> {
        self.keys
            .iter()
            .filter(move |key| id.is_none_or(|id| key.id == id))
            .filter(move |key| key.algorithm.is_empty() || key.algorithm == algorithm)
            .map(|key| &key.key)
    }
}

/// Looks that have begun, and ended.
#[derive(Debug, Clone, Copy, Default)]
struct Looks {
    begun: u64,
    ended: u64,
}

pub struct Keys {
    issuer: String,
    source: Source,
    clock: Clock,
    known: ArcSwapOption<Known>,
    looks: watch::Sender<Looks>,
    wake: Notify,
    /// When an unknown key last asked for a look, and for which.
    asked: Mutex<Option<(BootTime, u64)>>,
}

impl Keys {
    #[must_use]
    pub fn new(issuer: String, source: Source, clock: Clock) -> Self {
        Self {
            issuer,
            source,
            clock,
            known: ArcSwapOption::empty(),
            looks: watch::Sender::default(),
            wake: Notify::new(),
            asked: Mutex::default(),
        }
    }

    /// None if there are none that could still be believed.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Known>> {
        let now = self.clock.now().boot;
        self.known.load_full().filter(|known| now.since(known.read_at) <= MAX_AGE)
    }

    /// Waits for a look that begins now or has lately, if there is one to be had.
    pub async fn look_again(&self) {
        let mut looks = self.looks.subscribe();
        let wanted = {
            let seen = *looks.borrow_and_update();
            let now = self.clock.now().boot;
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            match *asked {
                // The first is under way, or about to be.
                _ if seen.ended == 0 => 1,
                Some((at, look)) if now.since(at) < UNKNOWN_KEY_PERIOD => look,
                _ => {
                    *asked = Some((now, seen.begun + 1));
                    self.wake.notify_one();
                    seen.begun + 1
                }
            }
        };
        // In vain if it takes longer; the call is answered with what is known.
        let _ = timeout(KEY_WAIT, looks.wait_for(|looks| looks.ended >= wanted)).await;
    }

    pub async fn follow(self: Arc<Self>) -> Infallible {
        let mut last = Last::default();
        loop {
            self.looks.send_modify(|looks| looks.begun += 1);
            let began = self.clock.now().boot;
            let found = self.source.read().await;
            let is_good = self.take_in(found, began, &mut last);
            self.looks.send_modify(|looks| looks.ended += 1);
            let period = match (&self.source, is_good) {
                (Source::File(_), _) => FILE_PERIOD,
                (Source::Url { .. }, true) => URL_PERIOD,
                (Source::Url { .. }, false) => URL_RETRY_PERIOD,
            };
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// What cannot be read leaves what is known as it is.
    fn take_in(&self, found: Result<Vec<u8>, String>, read_at: BootTime, last: &mut Last) -> bool {
        let keys = match (found, self.known.load_full()) {
            (Ok(bytes), Some(known)) if last.bytes == bytes => Ok(known.keys.clone()),
            (Ok(bytes), _) => {
                let keys = parse(&bytes);
                if let Ok(keys) = &keys {
                    let ids: Vec<_> = keys.iter().map(|key| key.id.as_str()).collect();
                    tracing::info!(issuer = self.issuer, keys = ?ids, "keys of an issuer");
                    last.bytes = bytes;
                }
                keys
            }
            (Err(error), _) => Err(error),
        };
        match keys {
            Ok(keys) => {
                self.known.store(Some(Arc::new(Known { keys, read_at })));
                last.error.clear();
                true
            }
            Err(error) => {
                if last.error != error {
                    tracing::warn!(issuer = self.issuer, "the keys of an issuer cannot be read: {error}");
                    last.error = error;
                }
                false
            }
        }
    }
}

/// What the last look that was good read, and what was said of the last that was not.
#[derive(Default)]
struct Last {
    bytes: Vec<u8>,
    error: String,
}

fn parse(bytes: &[u8]) -> Result<Vec<Jwk>, String> {
    let text = str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    let mut keys = jwk::parse_set(text).map_err(|error| format!("not a JWK set: {error}"))?;
    keys.retain(|key| {
        let is_for_signatures = matches!(key.usage.as_str(), "" | "sig")
            && (key.algorithm.is_empty() || Algorithm::named(&key.algorithm).is_some());
        let is_sound = match &key.key {
            Key::Public(_) => true,
            Key::Secret(secret) => secret.len() >= MIN_SECRET_BYTES,
            // Published, it is everybody's.
            Key::Private { .. } => {
                tracing::warn!(key = key.id, "a private key in a key set is not used");
                false
            }
        };
        is_for_signatures && is_sound
    });
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    fn ids(set: &str) -> Result<Vec<String>, String> {
        parse(set.as_bytes()).map(|keys| keys.into_iter().map(|key| key.id).collect())
    }

    #[test]
    fn only_keys_that_verify_signatures() {
        let private = r#""d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A""#;
        let set = format!(
            r#"{{"keys":[{PUBLIC},"kid":"a"}},{PUBLIC},"kid":"b","use":"sig","alg":"EdDSA"}},
            {PUBLIC},"kid":"enc","use":"enc"}},{PUBLIC},"kid":"odd","alg":"RSA-OAEP"}},{PUBLIC},"kid":"d",{private}}},
            {{"kty":"oct","kid":"short","k":"c2VjcmV0"}},{{"kty":"new","kid":"new"}}]}}"#
        );
        assert_eq!(ids(&set), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(ids(r#"{"keys":[]}"#), Ok(Vec::new()));
        for bad in ["", "[]", "{", "<html>", r#"{"keys":{}}"#, r#"{"keys":[1]}"#] {
            assert!(ids(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_believed_for_a_day() {
        let at = |millis| crate::clock::Now {
            boot: BootTime::from_millis(millis),
            wall: jiff::Timestamp::UNIX_EPOCH,
        };
        let source = Source::File("/nonexistent".into());
        let mut keys = Keys::new("i".to_owned(), source, Clock::Fixed(at(0)));
        let mut last = Last::default();
        let set = format!(r#"{{"keys":[{PUBLIC},"kid":"a"}}]}}"#);
        assert!(keys.take_in(Ok(set.into_bytes()), BootTime::from_millis(0), &mut last));
        assert!(!keys.take_in(Err("away".to_owned()), BootTime::from_millis(1), &mut last));
        assert!(!keys.take_in(Ok(b"broken".to_vec()), BootTime::from_millis(2), &mut last));
        let day = 24 * 3600 * 1000;
        keys.clock = Clock::Fixed(at(day));
        assert!(keys.current().unwrap().has("a"));
        keys.clock = Clock::Fixed(at(day + 1));
        assert!(keys.current().is_none());
    }
}
