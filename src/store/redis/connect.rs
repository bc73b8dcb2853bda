//! From a store URL to a connection. A new client per session, so that a rotated password is picked up.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo};
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RedisUrlError {
    #[error("not a Redis URL: {0}")]
    Malformed(String),
    #[error("`{0}` is not supported; use redis://, rediss:// or unix://")]
    Unsupported(String),
}

/// `redis://`, `rediss://` or `unix://`, with user, password and db. Prints without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // User and password may also be in the query.
        let plain = self.0.split('?').next().unwrap_or_default();
        match (plain.split_once("://"), plain.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => write!(f, "{scheme}://***@{place}"),
            _ => f.write_str(plain),
        }
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let (scheme, _) = text
            .split_once("://")
            .ok_or_else(|| RedisUrlError::Unsupported("a text without ://".to_owned()))?;
        if !matches!(scheme, "redis" | "rediss" | "unix") {
            return Err(RedisUrlError::Unsupported(format!("{scheme}://")));
        }
        let url = Self(text.to_owned());
        url.connection_info().map_err(|error| RedisUrlError::Malformed(error.to_string()))?;
        Ok(url)
    }
}

impl RedisUrl {
    fn connection_info(&self) -> redis::RedisResult<ConnectionInfo> {
        self.0.as_str().into_connection_info()
    }
}

#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub url: RedisUrl,
    /// Read for each session; overrides the password of the URL.
    pub password_file: Option<PathBuf>,
    pub key_prefix: String,
    /// How old the replica may be before every answer is "cannot tell".
    pub max_staleness: Duration,
}

/// Called by the connection's driver, in the order of the wire. Must not block.
pub type PushHandler = Box<dyn Fn(PushInfo) + Send + Sync>;

/// # Errors
/// The server cannot be reached within `timeout`, or refuses the login or RESP3.
pub async fn open(
    config: &RedisConfig,
    timeout: Duration,
    on_push: Option<PushHandler>,
) -> redis::RedisResult<MultiplexedConnection> {
    let info = config.url.connection_info()?;
    let mut settings =
        info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    if let Some(path) = &config.password_file {
        let password = tokio::fs::read_to_string(path).await?;
        settings = settings.set_password(password.trim_end());
    }
    let tcp = TcpSettings::default().set_nodelay(true);
    let client = Client::open(info.set_redis_settings(settings).set_tcp_settings(tcp))?;
    let mut options = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout));
    if let Some(on_push) = on_push {
        options = options.set_push_sender(move |push: PushInfo| -> Result<(), ()> {
            on_push(push);
            Ok(())
        });
    }
    client.get_multiplexed_async_connection_with_config(&options).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for good in
            ["redis://h", "redis://u:p@h:6380/2", "rediss://h", "unix:///run/redis.sock", "unix:///r?db=1"]
        {
            assert!(good.parse::<RedisUrl>().is_ok(), "{good}");
        }
        for bad in ["", "h:6379", "http://h", "redis+sentinel://a,b/m", "redis+cluster://a", "redis://h/x"] {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let shown = |text: &str| format!("{0} {0:?}", text.parse::<RedisUrl>().unwrap());
        assert_eq!(shown("redis://u:se@cret@h:1/2"), "redis://***@h:1/2 redis://***@h:1/2");
        for url in ["unix:///r?user=u&pass=secret", "unix:///r?user=u@x&pass=secret"] {
            assert!(!shown(url).contains("secret"), "{url}");
        }
    }
}
