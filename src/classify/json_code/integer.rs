//! Reads an integer in any of JSON's spellings.

/// The integer that a JSON number spells: 4101 for `4101`, `4101.0`, `4.101e3` and `41010e-1`.
///
/// `None` if it is no JSON number ([RFC 8259, 6](https://www.rfc-editor.org/rfc/rfc8259#section-6)), no integer, or does
/// not fit.
pub(super) fn integer(number: &[u8]) -> Option<i64> {
    // Nearly every code is 0.
    if let [digit @ b'0'..=b'9'] = number {
        return Some(i64::from(digit - b'0'));
    }
    let (is_negative, rest) = match number {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (whole, rest) = digits(rest)?;
    if matches!(whole, [b'0', _, ..]) {
        return None;
    }
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => digits(rest)?,
        rest => (&[][..], rest),
    };
    let exponent = match rest {
        [] => 0,
        [b'e' | b'E', rest @ ..] => exponent(rest)?,
        _ => return None,
    };
    // The number is `significant * 10^scale`, and `significant` does not end in 0: a negative scale is a fraction.
    let all = whole.iter().chain(fraction);
    let zeros = all.clone().rev().take_while(|digit| **digit == b'0').count();
    let mut significant = 0_u64;
    for digit in all.take(whole.len() + fraction.len() - zeros) {
        significant = significant.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    if significant == 0 {
        return Some(0);
    }
    let scale = exponent.saturating_add_unsigned(zeros as u64).saturating_sub_unsigned(fraction.len() as u64);
    let magnitude = significant.checked_mul(10_u64.checked_pow(scale.try_into().ok()?)?)?;
    if is_negative { 0_i64.checked_sub_unsigned(magnitude) } else { magnitude.try_into().ok() }
}

/// Reads the digits behind `e`. An exponent beyond the range of an `i64` becomes its bound, which fits no integer either.
fn exponent(text: &[u8]) -> Option<i64> {
    let (is_negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (digits, []) = digits(rest)? else { return None };
    let magnitude = digits
        .iter()
        .fold(0_i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    Some(if is_negative { -magnitude } else { magnitude })
}

/// Splits off the digits in front, one at least.
fn digits(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_integer_is_read() {
        for (number, expected) in [
            ("0", 0),
            ("-0", 0),
            ("-0.0", 0),
            ("0e9", 0),
            ("0.000e-99999999999999999999", 0),
            ("0e99999999999999999999", 0),
            ("7", 7),
            ("-7", -7),
            ("10", 10),
            ("4101", 4101),
            ("4101.0", 4101),
            ("4101.000000000000000000000000000000", 4101),
            ("4.101e3", 4101),
            ("4.101E+3", 4101),
            ("0.4101e4", 4101),
            ("0.00000000000000000000000000000005e32", 5),
            ("41010e-1", 4101),
            ("41010000000000000000000000000000000e-31", 4101),
            ("-41.01e0002", -4101),
            ("700012006", 700_012_006),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-9.223372036854775808e18", i64::MIN),
        ] {
            assert_eq!(integer(number.as_bytes()), Some(expected), "{number}");
        }
    }

    #[test]
    fn fractions_overflows_and_malformed_numbers_are_no_integers() {
        for number in [
            "4101.5",
            "0.5",
            "5e-1",
            "41015e-1",
            "4101.00000000000000000000000000001",
            "1e-99999999999999999999",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999999",
            "1e19",
            "1e99999999999999999999",
            "",
            "-",
            "+1",
            "--1",
            "01",
            "-01",
            "00",
            "1.",
            ".5",
            "1.e3",
            "1e",
            "1e+",
            "1e-",
            "1e1.0",
            "1x",
            "1 ",
            " 1",
            "0x10",
            "1_0",
            "NaN",
            "٣",
        ] {
            assert_eq!(integer(number.as_bytes()), None, "{number}");
        }
    }
}
