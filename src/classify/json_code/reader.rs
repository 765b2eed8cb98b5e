//! Reads one top-level field from the front of a JSON document.
//!
//! The reader goes from byte to byte and never back. It says [`Found::Unfinished`] if it needs a byte that is not there.
//! So every other verdict holds for each longer document too, wherever the bytes are split. It needs no stack: depth is a
//! number, since the kinds of brackets within a skipped value are not compared.

use memchr::memchr2;

use super::integer::integer;

/// What the front of a document says about the code.
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
    match (Reader { rest: document }).code(field) {
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
    rest: &'a [u8],
}

/// A string's content, as it is written.
struct Text<'a> {
    raw: &'a [u8],
    has_escapes: bool,
}

impl<'a> Reader<'a> {
    fn code(&mut self, field: &str) -> Result<i64, Stop> {
        self.skip_byte_order_mark()?;
        self.expect(b'{')?;
        loop {
            // Also after a comma, where `}` is malformed. It means the same: no code.
            self.expect(b'"')?;
            let is_field = self.string()?.is(field);
            self.expect(b':')?;
            let code = match self.peek()? {
                b'"' => {
                    self.skip_byte();
                    let text = self.string()?;
                    if is_field { text.integer() } else { None }
                }
                b'{' | b'[' => {
                    self.skip_byte();
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
        if let Some(behind) = self.rest.strip_prefix(MARK) {
            self.rest = behind;
        } else if MARK.starts_with(self.rest) {
            return Err(Stop::Unfinished);
        }
        Ok(())
    }

    /// Skips whitespace and shows the byte behind it.
    #[inline]
    fn peek(&mut self) -> Result<u8, Stop> {
        loop {
            let first = *self.rest.first().ok_or(Stop::Unfinished)?;
            if !is_space(first) {
                return Ok(first);
            }
            self.skip_byte();
        }
    }

    /// Skips a byte that was seen.
    #[inline]
    fn skip_byte(&mut self) {
        self.rest = &self.rest[1..];
    }

    /// Takes this token. Any other, the object's end too, leaves no code.
    #[inline]
    fn expect(&mut self, token: u8) -> Result<(), Stop> {
        if self.peek()? != token {
            return Err(Stop::NoCode);
        }
        self.skip_byte();
        Ok(())
    }

    /// Takes the rest of a string whose opening quote was taken.
    #[inline]
    fn string(&mut self) -> Result<Text<'a>, Stop> {
        let (text, mut at, mut has_escapes) = (self.rest, 0, false);
        loop {
            at += memchr2(b'"', b'\\', &text[at..]).ok_or(Stop::Unfinished)?;
            if text[at] == b'"' {
                self.rest = &text[at + 1..];
                return Ok(Text { raw: &text[..at], has_escapes });
            }
            // Whatever is escaped ends no string.
            has_escapes = true;
            at += 2;
            if at > text.len() {
                return Err(Stop::Unfinished);
            }
        }
    }

    /// Takes the rest of an object or array whose opening bracket was taken.
    fn skip_nested(&mut self) -> Result<(), Stop> {
        let mut depth = 1_usize;
        while depth > 0 {
            let at = self.rest.iter().position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'));
            let at = at.ok_or(Stop::Unfinished)?;
            let found = self.rest[at];
            self.rest = &self.rest[at + 1..];
            match found {
                b'"' => drop(self.string()?),
                b'{' | b'[' => depth += 1,
                _ => depth -= 1,
            }
        }
        Ok(())
    }

    /// Takes a number or a literal. It has ended only if the byte behind it is there.
    #[inline]
    fn scalar(&mut self) -> Result<&'a [u8], Stop> {
        let end = self.rest.iter().position(|byte| !is_of_a_scalar(*byte)).ok_or(Stop::Unfinished)?;
        let (scalar, behind) = self.rest.split_at(end);
        let is_ended = matches!(behind[0], b',' | b'}') || is_space(behind[0]);
        if scalar.is_empty() || !is_ended {
            return Err(Stop::NoCode);
        }
        self.rest = behind;
        Ok(scalar)
    }
}

impl Text<'_> {
    fn is(&self, name: &str) -> bool {
        if !self.has_escapes {
            return self.raw == name.as_bytes();
        }
        // An escape takes at most six bytes for one (`\u0063`): what is longer need not be decoded.
        self.raw.len() <= name.len().saturating_mul(6) && self.decoded().is_some_and(|text| text == name)
    }

    fn integer(&self) -> Option<i64> {
        if !self.has_escapes {
            return integer(self.raw);
        }
        integer(self.decoded()?.as_bytes())
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
