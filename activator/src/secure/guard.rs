//! Whether a request is let in at all, by its head.

use http::{header, request::Parts};
use http_body::Body;

use super::tokens::Denied;
use crate::{
    Config,
    error::{Code, Failure},
};

/// Checks the token, and takes it off: it is for us and not for the model. Checks the length that a body says it has.
pub(crate) fn admit(config: &Config, parts: &mut Parts, body: &impl Body) -> Result<(), Failure> {
    if let Some(tokens) = &config.tokens {
        tokens.check(&parts.headers).map_err(|denied| {
            let message = match denied {
                Denied::Missing => "a token is needed: send the header `Authorization: Bearer TOKEN`",
                Denied::Wrong => "the token in `Authorization` is not let in",
            };
            Failure::new(Code::Unauthenticated, message)
        })?;
        parts.headers.remove(header::AUTHORIZATION);
    }
    if body.size_hint().lower() > config.max_body_bytes {
        return Err(too_large(config.max_body_bytes));
    }
    Ok(())
}

pub(crate) fn too_large(limit: u64) -> Failure {
    Failure::new(
        Code::BodyTooLarge,
        format!("the request's body is longer than {limit} bytes"),
    )
}
