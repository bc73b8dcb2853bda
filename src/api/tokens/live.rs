//! The hashes in force. A file that breaks while the server runs leaves the last good ones, and says so once; one that
//! is deleted leaves nobody.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{Tokens, TokensError, file};

/// Between two looks at the file.
const PERIOD: Duration = Duration::from_millis(500);

pub struct LiveTokens {
    path: PathBuf,
    current: ArcSwap<Tokens>,
}

impl LiveTokens {
    /// # Errors
    /// The file cannot be used, or not be made.
    pub fn open(path: &Path, data_dir: &Path) -> Result<Self, TokensError> {
        let tokens = file::open(path, data_dir)?;
        Ok(Self { path: path.to_owned(), current: ArcSwap::from_pointee(tokens) })
    }

    #[must_use]
    pub fn current(&self) -> Arc<Tokens> {
        self.current.load_full()
    }

    pub async fn follow(self: Arc<Self>) -> Infallible {
        let (mut last, mut said) = (None, String::new());
        loop {
            tokio::time::sleep(PERIOD).await;
            let path = self.path.clone();
            let found = match tokio::task::spawn_blocking(move || file::read_bytes(&path)).await {
                Ok(Ok(content)) if last.as_ref() == Some(&content) => {
                    said.clear();
                    continue;
                }
                Ok(Ok(content)) => {
                    let found = file::parse(&self.path, &content);
                    last = Some(content);
                    found
                }
                Ok(Err(error)) if error.is_missing() => {
                    last = None;
                    Ok(Tokens::default())
                }
                Ok(Err(error)) => Err(error),
                Err(error) => Err(TokensError::Refused(error.to_string())),
            };
            match found {
                Ok(tokens) => {
                    if *self.current.load_full() != tokens {
                        tracing::info!(tokens = tokens.entries().len(), "the API's tokens have changed");
                        self.current.store(Arc::new(tokens));
                    }
                    said.clear();
                }
                Err(error) => {
                    let message = error.to_string();
                    if message != said {
                        tracing::error!("{message}; the tokens of before stay in force");
                        said = message;
                    }
                }
            }
        }
    }
}
