//! Properties of every document at every split.

use proptest::collection::vec;
use proptest::prelude::*;

use super::documents::{code_by_serde, document};
use super::*;

/// Up to this length, a document is split at every byte.
const SHORT: usize = 64;

fn status() -> impl Strategy<Value = u16> {
    proptest::sample::select(&[200, 401, 403, 404][..])
}

fn by_status(status: u16) -> Decision {
    match status {
        200 => Decision::Accept,
        401 => rejected_by_status(RejectionKind::Unauthenticated, 401),
        403 => rejected_by_status(RejectionKind::Forbidden, 403),
        _ => Decision::Inconclusive,
    }
}

fn by_code(code: Option<i64>, status: u16) -> Decision {
    match code {
        None | Some(0) => by_status(status),
        Some(4100) => rejected(4100, RejectionKind::Unauthenticated, status),
        Some(code @ (4101 | -7)) => rejected(code, RejectionKind::Forbidden, status),
        Some(_) => Decision::Inconclusive,
    }
}

/// Splits a body and compares each verdict with that on the whole. `cuts` are fractions of the length, by 2^16.
fn check_splits(status: u16, body: &[u8], cuts: &[u16]) -> Result<(), TestCaseError> {
    let (classifier, head) = (classifier(), head(status, "application/json"));
    let whole = classifier.body(&head, BodyPrefix::complete(body));
    prop_assert_ne!(whole, Decision::Inspect);
    let check = |cut: usize| {
        let shown = || String::from_utf8_lossy(&body[..cut]);
        let partial = classifier.body(&head, BodyPrefix::partial(&body[..cut]));
        let last = classifier.body(&head, BodyPrefix::cut(&body[..cut]));
        prop_assert!(
            partial == Decision::Inspect || partial == whole,
            "{}: {:?}, not {:?}",
            shown(),
            partial,
            whole
        );
        let expected = if partial == Decision::Inspect { by_status(status) } else { whole };
        prop_assert_eq!(last, expected, "{}, cut there", shown());
        Ok(())
    };
    if body.len() <= SHORT {
        return (0..=body.len()).try_for_each(check);
    }
    cuts.iter().try_for_each(|cut| check((usize::from(*cut) * (body.len() + 1)) >> 16))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn any_document_at_any_split_gives_the_verdict_of_the_whole(
        choices in vec(any::<u8>(), 0..64),
        cuts in any::<[u16; 6]>(),
        status in status(),
    ) {
        let document = document(&choices);
        let expected = by_code(code_by_serde(&document), status);
        prop_assert_eq!(ask(status, &document), expected, "{}", document);
        check_splits(status, document.as_bytes(), &cuts)?;
    }
}

/// Pieces of documents, well-formed in few orders.
const PIECES: [&[u8]; 24] = [
    b"{",
    b"\"code\"",
    b":",
    b"4101",
    b",",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b" ",
    b"0",
    b"-",
    b".",
    b"e",
    b"+",
    b"true",
    b"{\"code\":",
    b"\"a\":",
    b"u006f",
    b"\xef\xbb\xbf",
    b"\xef",
    b"\xff",
    b"\x00",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn malformed_bodies_at_any_split_give_the_verdict_of_the_whole(
        starts_as_object in any::<bool>(),
        pieces in vec(proptest::sample::select(&PIECES[..]), 0..16),
        status in status(),
    ) {
        let start = if starts_as_object { &b"{"[..] } else { b"" };
        check_splits(status, &[start, &pieces.concat()].concat(), &[0x8000])?;
    }

    #[test]
    fn arbitrary_bytes_at_any_split_give_the_verdict_of_the_whole(
        bytes in vec(any::<u8>(), 0..SHORT),
        status in status(),
    ) {
        check_splits(status, &bytes, &[])?;
    }

    #[test]
    fn every_integer_is_read_as_it_is_printed(code in any::<i64>()) {
        prop_assert_eq!(integer::integer(code.to_string().as_bytes()), Some(code));
        prop_assert_eq!(integer::integer(format!("{code}.0e0").as_bytes()), Some(code));
    }
}
