//! Who calls, for those who answer. Established by the gate around all of them, and never by what a call says of itself.

use tonic::{Request, Status};

use crate::principal::Identity;

/// # Errors
/// Nobody was established. Behind the gate that is a mistake of ours, and is refused like any other.
pub fn identity<T>(request: &Request<T>) -> Result<Identity, Status> {
    let found = request.extensions().get::<Identity>().cloned();
    found.ok_or_else(|| Status::unauthenticated("this call needs an identity"))
}
