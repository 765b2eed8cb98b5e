//! Reads one top-level field from the front of a JSON document.
//!
//! The reader decides from the front, and says [`Found::Unfinished`] if it needs a byte that is not there. So any other
//! result holds for every longer document too: it does not matter where the bytes are split.
//!
//! Nested values are skipped by counting brackets outside of strings. The kinds of brackets are not compared, so depth is a
//! number and deep nesting needs no stack.
//!
//! No parser crate is used: `serde_json` neither resumes nor tells a cut number from a whole one, and reads every byte of
//! what is skipped.

use super::integer::integer;
use super::string::end_of_string;

/// The code, as far as the front of a document tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The field holds this code, and its value has ended.
    Code(i64),
    /// The object ended without a code, or the document is malformed: what follows cannot change it.
    NoCode,
    /// More bytes are needed.
    Unfinished,
}

/// Finds the first integer in a top-level field of this name.
pub(super) fn find_code(document: &[u8], field: &str) -> Found {
    match (Reader { text: document, at: 0 }).code(field) {
        Ok(code) => Found::Code(code),
        Err(Stop::NoCode) => Found::NoCode,
        Err(Stop::Unfinished) => Found::Unfinished,
    }
}

/// Why there is no code.
enum Stop {
    NoCode,
    Unfinished,
}

struct Reader<'a> {
    text: &'a [u8],
    /// The index of the next byte to read.
    at: usize,
}

/// A string's content as it is written, escapes included.
struct Text<'a> {
    raw: &'a [u8],
}

impl<'a> Reader<'a> {
    fn code(&mut self, field: &str) -> Result<i64, Stop> {
        self.skip_byte_order_mark()?;
        self.expect(b'{')?;
        loop {
            // `}` in place of a name means that there is no code, whether a comma stands before it or not.
            if self.peek()? != b'"' {
                return Err(Stop::NoCode);
            }
            let is_field = self.string()?.is(field);
            self.expect(b':')?;
            let code = match self.peek()? {
                b'"' => {
                    let text = self.string()?;
                    if is_field { text.integer() } else { None }
                }
                b'{' | b'[' => {
                    self.skip_nested()?;
                    None
                }
                _ => {
                    let scalar = self.scalar()?;
                    if is_field { integer(scalar) } else { None }
                }
            };
            if let Some(code) = code {
                return Ok(code);
            }
            self.expect(b',')?;
        }
    }

    /// Skips U+FEFF in UTF-8, which RFC 8259, 8.1 lets a reader ignore.
    fn skip_byte_order_mark(&mut self) -> Result<(), Stop> {
        const MARK: &[u8] = "\u{feff}".as_bytes();
        if self.text.starts_with(MARK) {
            self.at = MARK.len();
        } else if MARK.starts_with(self.text) {
            return Err(Stop::Unfinished);
        }
        Ok(())
    }

    /// Skips whitespace and shows the byte behind it.
    #[inline]
    fn peek(&mut self) -> Result<u8, Stop> {
        loop {
            let byte = self.here()?;
            if !is_space(byte) {
                return Ok(byte);
            }
            self.at += 1;
        }
    }

    #[inline]
    fn here(&self) -> Result<u8, Stop> {
        self.text.get(self.at).copied().ok_or(Stop::Unfinished)
    }

    /// Takes this token. Any other, the object's end too, leaves no code.
    #[inline]
    fn expect(&mut self, token: u8) -> Result<(), Stop> {
        if self.peek()? != token {
            return Err(Stop::NoCode);
        }
        self.at += 1;
        Ok(())
    }

    /// Takes a string whose opening quote is here.
    #[inline]
    fn string(&mut self) -> Result<Text<'a>, Stop> {
        let start = self.at + 1;
        let end = end_of_string(self.text, start).ok_or(Stop::Unfinished)?;
        self.at = end + 1;
        Ok(Text { raw: &self.text[start..end] })
    }

    /// Takes an object or array whose opening bracket is here.
    #[inline]
    fn skip_nested(&mut self) -> Result<(), Stop> {
        let (mut at, mut depth) = (self.at, 0_usize);
        while let Some(byte) = self.text.get(at) {
            match byte {
                b'"' => at = end_of_string(self.text, at + 1).ok_or(Stop::Unfinished)?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at = at + 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            at += 1;
        }
        Err(Stop::Unfinished)
    }

    /// Takes a number or a literal. It has ended only if the byte behind it is there.
    #[inline]
    fn scalar(&mut self) -> Result<&'a [u8], Stop> {
        let start = self.at;
        while is_of_a_scalar(self.here()?) {
            self.at += 1;
        }
        let behind = self.here()?;
        let is_ended = matches!(behind, b',' | b'}') || is_space(behind);
        if self.at == start || !is_ended {
            return Err(Stop::NoCode);
        }
        Ok(&self.text[start..self.at])
    }
}

impl Text<'_> {
    #[inline]
    fn is(&self, name: &str) -> bool {
        if self.raw.len() <= name.len() {
            // An escape takes more bytes than what it stands for.
            return self.raw == name.as_bytes() && !self.has_escapes();
        }
        // It takes at most six for one (`\u0063`), so a longer text need not be decoded.
        self.raw.len() <= name.len().saturating_mul(6)
            && self.has_escapes()
            && self.decoded().is_some_and(|text| text == name)
    }

    #[inline]
    fn integer(&self) -> Option<i64> {
        if self.has_escapes() { integer(self.decoded()?.as_bytes()) } else { integer(self.raw) }
    }

    fn has_escapes(&self) -> bool {
        self.raw.contains(&b'\\')
    }

    #[cold]
    fn decoded(&self) -> Option<String> {
        let quoted = [b"\"", self.raw, b"\""].concat();
        serde_json::from_slice(&quoted).ok()
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_of_a_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}
