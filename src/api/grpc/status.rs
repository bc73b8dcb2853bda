//! The one place where errors become status codes. Causes go to the log, not to the caller.

use tonic::Status;

use crate::desk::DeskError;
use crate::store::StoreError;

impl From<DeskError> for Status {
    fn from(error: DeskError) -> Self {
        let message = error.to_string();
        match error {
            DeskError::Invalid(_) => Self::invalid_argument(message),
            DeskError::NotFound(_) => Self::not_found(message),
            DeskError::Denied(_) | DeskError::Admission(_) => Self::permission_denied(message),
            DeskError::State(_) => Self::failed_precondition(message),
            DeskError::AlreadyExists(_) => Self::already_exists(message),
            DeskError::Full(_) => Self::resource_exhausted(message),
            DeskError::Contended => Self::aborted(message),
            DeskError::Store(error) | DeskError::Unwritten(error) => of_store(&error),
        }
    }
}

fn of_store(error: &StoreError) -> Status {
    match error {
        StoreError::NotFound => Status::not_found(error.to_string()),
        StoreError::AlreadyExists => Status::already_exists(error.to_string()),
        StoreError::Full(_) => Status::resource_exhausted(error.to_string()),
        StoreError::NotNow(_) => {
            tracing::error!("grant store: {error}");
            Status::unavailable(format!("{error}; nothing was written"))
        }
        StoreError::Refused(_) => {
            tracing::error!("grant store: {error}");
            Status::failed_precondition(format!("{error}; nothing was written"))
        }
        StoreError::Invalid(refusal) => Status::invalid_argument(format!("not a grant: {}", refusal.code())),
        StoreError::Unavailable(source) => {
            tracing::error!("grant store: {source}");
            Status::unavailable("the grant store cannot be reached; a write may or may not have happened")
        }
    }
}
