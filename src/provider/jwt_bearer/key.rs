//! [`JwtKey`]: the private key that signs assertions.

use std::fmt;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, EncodingKey};

use crate::error::Error;
use crate::provider::token_endpoint::text;

/// An RSA private key and the name under which the server knows its public half. Signs with RS256.
///
/// `Debug` shows the name and nothing of the key.
#[derive(Clone)]
pub struct JwtKey {
    id: String,
    key: EncodingKey,
}

impl JwtKey {
    /// Reads a key in PEM form: PKCS#8 (`BEGIN PRIVATE KEY`) or PKCS#1 (`BEGIN RSA PRIVATE KEY`), of 2048 to
    /// 8192 bits. `id` becomes the assertion's `kid`.
    ///
    /// It signs once, to be sure that it can.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `key_id`, if it is empty or has
    /// spaces around it, and for `private_key`, if it is not such a key. The error shows nothing of the key.
    pub fn from_rsa_pem(id: impl Into<String>, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        let id = id.into();
        text::check_name("key_id", &id)?;
        let pem = pem.as_ref();
        let refused = || Error::config("private_key", expected(pem));
        let key = Self { id, key: EncodingKey::from_rsa_pem(pem).map_err(|_| refused())? };
        // Reading the PEM does not look at the numbers inside: a public key and one of 512 bits pass it.
        key.sign("test").map_err(|_| refused())?;
        Ok(key)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The RS256 signature in base64url ([RFC 7515, 3.1](https://www.rfc-editor.org/rfc/rfc7515#section-3.1)).
    ///
    /// The signer is taken from the backend by name. `jsonwebtoken::encode` would ask for the process-wide one
    /// instead, and that panics if another crate in the build has turned on the second backend's feature and
    /// nobody has installed either.
    pub(super) fn sign(&self, message: &str) -> Result<String, jsonwebtoken::errors::Error> {
        let signer = (DEFAULT_PROVIDER.signer_factory)(&Algorithm::RS256, &self.key)?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode(signer.try_sign(message.as_bytes())?))
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What to say to someone who gave this instead, told by its label alone.
fn expected(pem: &[u8]) -> &'static str {
    let has = |label: &str| memchr::memmem::find(pem, label.as_bytes()).is_some();
    if pem.is_empty() {
        "expected an RSA private key in PEM form, got nothing"
    } else if has("\\n") {
        "expected an RSA private key in PEM form with real line breaks, got the two characters `\\n`"
    } else if has("ENCRYPTED") {
        "expected an RSA private key in PEM form without a password, got an encrypted one"
    } else if has("PUBLIC KEY-----") || has("CERTIFICATE-----") {
        "expected an RSA private key in PEM form, got a public one"
    } else if has("EC PRIVATE KEY-----") {
        "expected an RSA private key in PEM form, got an elliptic-curve one"
    } else {
        "expected an RSA private key of 2048 to 8192 bits in PEM form, PKCS#8 (`BEGIN PRIVATE KEY`) or PKCS#1 \
         (`BEGIN RSA PRIVATE KEY`)"
    }
}
