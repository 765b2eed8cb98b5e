//! [`Slot`], [`Order`] and [`CredentialChoice`]: the words in which an order is said.

use std::fmt;

/// One of the layer's two credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The credential that has always been used.
    Primary,
    /// The credential that the resources are moving to.
    Fallback,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Fallback,
            Self::Fallback => Self::Primary,
        }
    }

    /// `"primary"` or `"fallback"`: fit for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Fallback => "fallback",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which credential a request is tried with first, and whether the other may follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// The one that last served the same resource where the other was rejected. The default.
    ///
    /// A resource that was never rejected begins with the one that last served it, if that was not pinned by a
    /// [`CredentialChoice`]. One that was never seen begins with the one
    /// that most of those resources needed that were lately rejected by one and served by the other: the primary at
    /// first.
    #[default]
    Adaptive,
    /// The primary, then the fallback.
    PrimaryFirst,
    /// The fallback, then the primary.
    FallbackFirst,
    /// The primary and nothing else: the layer as if switched off.
    PrimaryOnly,
    /// The fallback and nothing else: what remains when the old credential is retired.
    FallbackOnly,
}

impl Order {
    /// Whether the fallback is asked first, whatever is known.
    pub(crate) fn is_fallback_first(self) -> bool {
        matches!(self, Self::FallbackFirst | Self::FallbackOnly)
    }

    /// In the order of their numbers.
    pub(crate) const ALL: [Self; 5] =
        [Self::Adaptive, Self::PrimaryFirst, Self::FallbackFirst, Self::PrimaryOnly, Self::FallbackOnly];
}

/// Put into a request's extensions, it settles the order for that request alone.
///
/// ```
/// use http::Request;
/// use tower_credential_fallback::{CredentialChoice, Slot};
///
/// // A file is only usable by the account that uploaded it, so ask with that account's credential.
/// let request = Request::post("https://api.coze.cn/v1/files/upload")
///     .extension(CredentialChoice::Only(Slot::Fallback))
///     .body(())
///     .unwrap();
/// # let _ = request;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialChoice {
    /// This one first; the other if it is refused.
    First(Slot),
    /// This one and no other.
    Only(Slot),
}
