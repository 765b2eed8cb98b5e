//! [`Seal`]: what is stored, unreadable to whoever reads the store.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

use crate::store::StoreError;

/// The length of a nonce, in bytes. Long enough to be taken at random for each value.
const NONCE: usize = 24;

/// Seals with one key, and opens with that or with any that was used before. No key: values are stored as they are.
#[derive(Clone, Default)]
pub(super) struct Seal {
    /// The first one seals.
    keys: Vec<XChaCha20Poly1305>,
}

impl Seal {
    pub(super) fn add_key(&mut self, key: &[u8; 32]) {
        self.keys.push(XChaCha20Poly1305::new(&(*key).into()));
    }

    /// `name` is sealed with it: the value opens under no other.
    pub(super) fn close(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let Some(key) = self.keys.first() else { return Ok(value) };
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|error| StoreError::unavailable(error.to_string()))?;
        let payload = Payload { msg: &value, aad: name.as_bytes() };
        let sealed = key.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| StoreError::unavailable("the value could not be sealed"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// `None`: it was sealed with another key, or under another name, or with none.
    pub(super) fn open(&self, name: &str, value: Vec<u8>) -> Option<Vec<u8>> {
        if self.keys.is_empty() {
            return Some(value);
        }
        let (nonce, sealed) = value.split_first_chunk::<NONCE>()?;
        let open = |key: &XChaCha20Poly1305| {
            key.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: name.as_bytes() }).ok()
        };
        self.keys.iter().find_map(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_under_its_own_name_and_key_alone() {
        let (mut old, mut new) = (Seal::default(), Seal::default());
        old.add_key(&[1; 32]);
        new.add_key(&[2; 32]);
        let sealed = old.close("user", b"s3cret".to_vec()).unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"s3cret"));
        assert_ne!(sealed, old.close("user", b"s3cret".to_vec()).unwrap(), "a nonce for each");
        assert_eq!(old.open("user", sealed.clone()).unwrap(), b"s3cret");
        assert!(old.open("another", sealed.clone()).is_none());
        assert!(new.open("user", sealed.clone()).is_none());
        assert!(old.open("user", sealed[..10].to_vec()).is_none());
        new.add_key(&[1; 32]);
        assert_eq!(new.open("user", sealed).unwrap(), b"s3cret", "after a change of keys");
    }
}
