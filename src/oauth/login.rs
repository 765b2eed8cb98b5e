//! [`Login`]: a login that has begun in a browser.

use std::fmt;

use oauth2::{CsrfToken, PkceCodeChallenge, PkceCodeVerifier};
use serde::{Deserialize, Serialize};

use super::OAuthError;
use super::OAuthErrorKind;

/// A login that was begun and not finished. It belongs to one browser: keep it in its session (it can be serialised),
/// and nowhere that another user can read.
#[derive(Serialize, Deserialize)]
pub struct Login {
    state: CsrfToken,
    pub(super) verifier: Option<PkceCodeVerifier>,
}

impl Login {
    /// A new one, and what the server is told of the verifier.
    pub(super) fn new(has_pkce: bool) -> (Self, Option<PkceCodeChallenge>) {
        let (challenge, verifier) = has_pkce.then(PkceCodeChallenge::new_random_sha256).unzip();
        (Self { state: CsrfToken::new_random(), verifier }, challenge)
    }

    pub(super) fn state(&self) -> &str {
        self.state.secret()
    }

    /// Compares in a time that does not depend on where they differ
    /// ([RFC 6749, 10.12](https://www.rfc-editor.org/rfc/rfc6749#section-10.12)).
    pub(super) fn check_state(&self, state: &str) -> Result<(), OAuthError> {
        // By their hashes: oauth2's feature `timing-resistant-secret-traits`.
        if CsrfToken::new(state.to_owned()) == self.state {
            return Ok(());
        }
        Err(OAuthError::new(
            OAuthErrorKind::StateMismatch,
            "the callback's `state` is not the one of this login: it was not begun in this browser",
        ))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("has_pkce", &self.verifier.is_some()).finish_non_exhaustive()
    }
}
