//! [`Error`]: what this crate itself can fail with. Errors of the inner service pass through unchanged.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use http::Uri;

use crate::origin::Origin;
use crate::preference::Slot;
use crate::provider::CredentialError;

/// A boxed error, as tower's middleware use it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// An error of the layer or of one of its parts. It never holds a secret.
///
/// The layer's service fails with a [`BoxError`]: `downcast_ref::<Error>()` tells whether it came from
/// here or from the inner service.
pub struct Error {
    repr: Repr,
}

#[derive(Debug)]
enum Repr {
    Config { field: &'static str, expected: Cow<'static, str> },
    NoCredential { first: (Slot, CredentialError), second: Option<(Slot, CredentialError)> },
    InsecureOrigin { origin: String },
}

/// What went wrong, for a `match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value given when something was built is not usable. [`Error::field`] names it.
    InvalidConfig,
    /// No provider gave a credential. Nothing was sent.
    NoCredential,
    /// The request would have carried a credential over plaintext to another host. Nothing was sent.
    InsecureOrigin,
}

impl Error {
    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        match self.repr {
            Repr::Config { .. } => ErrorKind::InvalidConfig,
            Repr::NoCredential { .. } => ErrorKind::NoCredential,
            Repr::InsecureOrigin { .. } => ErrorKind::InsecureOrigin,
        }
    }

    /// The name of the value that was refused, for [`ErrorKind::InvalidConfig`].
    pub fn field(&self) -> Option<&'static str> {
        match self.repr {
            Repr::Config { field, .. } => Some(field),
            _ => None,
        }
    }

    /// Why the given slot's provider had no credential, for [`ErrorKind::NoCredential`].
    pub fn credential_error(&self, slot: Slot) -> Option<&CredentialError> {
        let Repr::NoCredential { first, second } = &self.repr else {
            return None;
        };
        [Some(first), second.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|(failed, error)| (*failed == slot).then_some(error))
    }

    /// Whose turn it was first, for [`ErrorKind::NoCredential`]: that is the account which the order in force prefers.
    pub fn first_slot(&self) -> Option<Slot> {
        match &self.repr {
            Repr::NoCredential { first, .. } => Some(first.0),
            Repr::Config { .. } | Repr::InsecureOrigin { .. } => None,
        }
    }

    /// `expected` says what the field should hold; it must not quote a secret.
    pub(crate) fn config(field: &'static str, expected: impl Into<Cow<'static, str>>) -> Self {
        let expected = expected.into();
        Self { repr: Repr::Config { field, expected } }
    }

    pub(crate) fn no_credential(
        first: (Slot, CredentialError),
        second: Option<(Slot, CredentialError)>,
    ) -> Self {
        Self { repr: Repr::NoCredential { first, second } }
    }

    /// Path and query are left out: they may hold what should not be in a log.
    pub(crate) fn insecure_origin(uri: &Uri) -> Self {
        let origin = Origin::of(uri).map_or_else(|| "another host".to_owned(), |origin| origin.to_string());
        Self { repr: Repr::InsecureOrigin { origin } }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.repr {
            Repr::Config { field, expected } => write!(f, "invalid `{field}`: {expected}"),
            Repr::NoCredential { first, second: None } => {
                write!(f, "no credential to send: {} provider: {}", first.0, first.1)
            }
            Repr::NoCredential { first, second: Some(second) } => write!(
                f,
                "no credential to send: {} provider: {}; {} provider: {}",
                first.0, first.1, second.0, second.1
            ),
            Repr::InsecureOrigin { origin } => write!(
                f,
                "refused to send a credential over plaintext to {origin}: use https, or allow it with \
                 `with_plaintext_allowed`"
            ),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.repr, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.repr {
            Repr::NoCredential { first, .. } => Some(&first.1),
            Repr::Config { .. } | Repr::InsecureOrigin { .. } => None,
        }
    }
}
