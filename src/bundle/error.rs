//! Why a bundle is not used. Shown to whoever reads the status, so nothing here may hold a secret.

use std::time::Duration;

use http::StatusCode;
use thiserror::Error;

use crate::fetch::FetchError;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("{what} took longer than {limit:?}")]
    TimedOut { what: &'static str, limit: Duration },
    #[error("{0}")]
    Redirect(String),
    #[error("the body ended before its end: {0}")]
    CutOff(String),
    #[error("{0}")]
    TooLarge(String),
    /// Not a gzipped tar archive, or one with names that lead nowhere good.
    #[error("{0}")]
    Archive(String),
    /// A file in it is not what its name says.
    #[error("{0}")]
    Content(String),
    /// A bundle to OPA, but of a kind that is not supported here.
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    Signature(String),
    /// Two bundles own the same part of `data`.
    #[error("{0}")]
    Conflict(String),
    /// Read and verified, and then refused by whoever should use it.
    #[error("{0}")]
    Activation(String),
    /// A token, key or certificate that the configuration names, or the bundle itself.
    #[error("{0}")]
    File(String),
}

impl From<FetchError> for BundleError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Unreachable(reason) => Self::Unreachable(reason),
            FetchError::NotAUrl(_) => Self::Redirect(error.to_string()),
            FetchError::TimedOut { what, limit } => Self::TimedOut { what, limit },
            FetchError::CutOff(reason) => Self::CutOff(reason),
            FetchError::TooLarge(_) => Self::TooLarge(error.to_string()),
            FetchError::File(reason) => Self::File(reason),
        }
    }
}

impl BundleError {
    /// Stable: alerts are written on it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "http_status",
            Self::TimedOut { .. } => "timeout",
            Self::Redirect(_) => "redirect",
            Self::CutOff(_) => "cut_off",
            Self::TooLarge(_) => "too_large",
            Self::Archive(_) => "archive",
            Self::Content(_) => "content",
            Self::Unsupported(_) => "unsupported",
            Self::Signature(_) => "signature",
            Self::Conflict(_) => "conflict",
            Self::Activation(_) => "activation",
            Self::File(_) => "file",
        }
    }

    #[must_use]
    pub fn http_code(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status.as_u16()),
            _ => None,
        }
    }
}
