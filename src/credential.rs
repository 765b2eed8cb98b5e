//! [`Credential`]: one header that proves who is calling.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::error::Error;
use crate::lane::Lanes;

/// One credential: a header name and the secret value that goes with it.
///
/// Cloning shares the value, so a cached credential is handed out without a copy. `Debug` shows the
/// header's name, the generation and the expiry, and nothing of the secret.
///
/// Every credential built gets a *generation* of its own, which its clones share. Two tokens are told
/// apart by it, without comparing secrets: a late refusal of generation 3 says nothing about generation 4.
///
/// A `Credential` is itself an [`AuthProvider`](crate::AuthProvider): the one that always gives itself.
///
/// ```
/// use tower_credential_fallback::Credential;
///
/// # fn main() -> Result<(), tower_credential_fallback::Error> {
/// let token = Credential::bearer("pat_example")?;
/// assert!(!format!("{token:?}").contains("pat_example"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Credential {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    name: HeaderName,
    /// Always marked sensitive.
    value: HeaderValue,
    generation: u64,
    expires_at: Option<SystemTime>,
}

impl Credential {
    /// `Authorization: Bearer <token>` ([RFC 6750](https://www.rfc-editor.org/rfc/rfc6750)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `token`, if it is empty or has a
    /// character that is not visible ASCII. The error shows nothing of the token.
    pub fn bearer(token: impl AsRef<str>) -> Result<Self, Error> {
        let token = token.as_ref();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::config(
                "token",
                "expected a non-empty token of visible ASCII characters, without spaces or line ends",
            ));
        }
        Self::from_text("token", AUTHORIZATION, format!("Bearer {token}"))
    }

    /// `Authorization: Basic <base64(user:password)>` ([RFC 7617](https://www.rfc-editor.org/rfc/rfc7617)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `user`, if it is empty or has a
    /// colon, which the scheme cannot carry.
    pub fn basic(user: impl AsRef<str>, password: impl AsRef<str>) -> Result<Self, Error> {
        let (user, password) = (user.as_ref(), password.as_ref());
        if user.is_empty() || user.contains(':') {
            return Err(Error::config("user", "expected a non-empty user name without a colon"));
        }
        let pair = BASE64_STANDARD.encode(format!("{user}:{password}"));
        Self::from_text("password", AUTHORIZATION, format!("Basic {pair}"))
    }

    /// Any other header, such as `x-api-key`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `name` or `value`, if it is empty
    /// or not allowed in a header.
    pub fn header(name: impl AsRef<str>, value: impl AsRef<str>) -> Result<Self, Error> {
        let name = HeaderName::from_bytes(name.as_ref().as_bytes())
            .map_err(|_| Error::config("name", "expected a valid header name, such as `x-api-key`"))?;
        // A server takes them off (RFC 9110, 5.5), and two secrets that differ by them alone are one.
        if value.as_ref().trim_matches([' ', '\t']).len() < value.as_ref().len() {
            return Err(Error::config("value", "expected no space or tab at either end"));
        }
        Self::from_text("value", name, value.as_ref().to_owned())
    }

    fn from_text(field: &'static str, name: HeaderName, text: String) -> Result<Self, Error> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);

        if text.is_empty() {
            return Err(Error::config(field, "expected a value that is not empty"));
        }
        let value = shared_value(text.into_bytes()).ok_or_else(|| {
            Error::config(field, "expected characters that are allowed in a header, without line ends")
        })?;
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Ok(Self { inner: Arc::new(Inner { name, value, generation, expires_at: None }) })
    }

    /// The same credential, known to end at `at` (wall clock). Default: no known end.
    #[must_use]
    pub fn with_expiry(mut self, at: SystemTime) -> Self {
        Arc::make_mut(&mut self.inner).expires_at = Some(at);
        self
    }

    /// The same credential for each lane, sharing nothing with this one nor with each other.
    pub(crate) fn replicas(&self) -> Lanes<Self> {
        Lanes::new(|| {
            let Inner { name, value, generation, expires_at } = &*self.inner;
            let value = shared_value(value.as_bytes().to_vec()).unwrap_or_else(|| value.clone());
            let (name, generation, expires_at) = (unshared_name(name), *generation, *expires_at);
            Self { inner: Arc::new(Inner { name, value, generation, expires_at }) }
        })
    }

    /// The secret itself, to be hashed.
    pub(crate) fn secret(&self) -> &[u8] {
        self.inner.value.as_bytes()
    }

    /// The header that carries it.
    pub fn name(&self) -> &HeaderName {
        &self.inner.name
    }

    /// When it ends (wall clock), if that is known.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.inner.expires_at
    }

    /// A number that this credential shares with its clones and with no other credential of this process.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Puts the credential into `headers`, in place of every value under the same name.
    pub fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(self.inner.name.clone(), self.inner.value.clone());
    }

    /// Whether the server would see the same bytes from both.
    pub(crate) fn is_same_secret(&self, other: &Self) -> bool {
        let (ours, theirs) = (&*self.inner, &*other.inner);
        ours.generation == theirs.generation || (ours.name == theirs.name && ours.value == theirs.value)
    }
}

/// The same name with a reference count of its own, if it has one. As with [`shared_value`], its clones allocate nothing.
fn unshared_name(name: &HeaderName) -> HeaderName {
    let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
    drop(name.clone());
    name
}

/// A value that is marked sensitive and whose clones allocate nothing; `None` if it is none for a header.
fn shared_value(bytes: Vec<u8>) -> Option<HeaderValue> {
    // `Bytes` shares its memory from the second handle on; take that one allocation here rather than on the
    // first request.
    let bytes = Bytes::from(bytes);
    let mut value = HeaderValue::from_maybe_shared(bytes.clone()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("name", &self.inner.name)
            .field("generation", &self.inner.generation)
            .field("expires_at", &self.inner.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_argument_is_refused_by_name_and_shows_no_secret() {
        for (wrong, field) in [
            (Credential::bearer(""), "token"),
            (Credential::bearer("s3cret with space"), "token"),
            (Credential::bearer("s3cret\r\nx-injected: 1"), "token"),
            (Credential::bearer("s3cret-\u{e9}"), "token"),
            (Credential::basic("", "s3cret"), "user"),
            (Credential::basic("a:b", "s3cret"), "user"),
            (Credential::header("", "s3cret"), "name"),
            (Credential::header("x y", "s3cret"), "name"),
            (Credential::header("x-api-key", ""), "value"),
            (Credential::header("x-api-key", "s3cret\n"), "value"),
        ] {
            let error = wrong.unwrap_err();
            assert_eq!((error.kind(), error.field()), (crate::ErrorKind::InvalidConfig, Some(field)));
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("expected") && !shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn each_kind_makes_its_header_marked_sensitive() {
        for (credential, name, value) in [
            (Credential::bearer("pat_1"), "authorization", "Bearer pat_1"),
            // The example of RFC 7617, 2.
            (
                Credential::basic("Aladdin", "open sesame"),
                "authorization",
                "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            ),
            (Credential::header("X-Api-Key", "k"), "x-api-key", "k"),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("callers-own"));
            credential.unwrap().apply(&mut headers);
            assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), [value]);
            assert!(headers[name].is_sensitive());
        }
    }

    #[test]
    fn clones_share_a_generation_and_no_two_credentials_do() {
        let (one, two) = (Credential::bearer("t").unwrap(), Credential::bearer("t").unwrap());
        assert_eq!(one.clone().generation(), one.generation());
        assert_ne!(one.generation(), two.generation());
        assert!(one.is_same_secret(&two));
        assert!(!one.is_same_secret(&Credential::header("x-api-key", "Bearer t").unwrap()));
    }
}
