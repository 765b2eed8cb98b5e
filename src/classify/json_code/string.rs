//! Finds the end of a JSON string.

use memchr::memchr;

/// Words of eight bytes that are searched before `memchr` is called. Its setup costs some 50 instructions, and most strings
/// in JSON are shorter than this.
const WORDS: usize = 4;

/// The index of a string's closing quote, if its text begins at `start`, right behind the opening quote.
#[inline(always)]
pub(super) fn end_of_string(text: &[u8], start: usize) -> Option<usize> {
    let mut rest = text.get(start..)?;
    for nth in 0..WORDS {
        let Some((word, behind)) = rest.split_first_chunk() else { break };
        if let Some(found) = first_quote(u64::from_le_bytes(*word)) {
            let quote = start + 8 * nth + found;
            if text.get(quote - 1) == Some(&b'\\') {
                break;
            }
            return Some(quote);
        }
        rest = behind;
    }
    end_of_any_string(text, start)
}

/// The index of the first `"` in eight bytes.
#[inline]
fn first_quote(word: u64) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    // A quote becomes 0. Only from the first 0 on can the subtraction borrow, so the lowest bit is exact.
    let word = word ^ (ONES * b'"' as u64);
    let found = word.wrapping_sub(ONES) & !word & (ONES << 7);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[inline(never)]
fn end_of_any_string(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let quote = at + memchr(b'"', &text[at..])?;
        let escapes = text[at..quote].iter().rev().take_while(|byte| **byte == b'\\').count();
        if escapes % 2 == 0 {
            return Some(quote);
        }
        at = quote + 1;
    }
}
