//! Bodies that are split or cut (case 39).

use super::*;

const WHOLE: &str = r#"{"code":4101,"msg":"You have no permission, see 4101"}"#;

fn forbidden() -> Decision {
    rejected(4101, RejectionKind::Forbidden, 200)
}

#[test]
fn a_code_counts_as_soon_as_its_value_has_ended() {
    let head = head(200, "application/json");
    let decided = r#"{"code":4101,"#.len();
    for cut in 0..=WHOLE.len() {
        let decision = classifier().body(&head, BodyPrefix::partial(&WHOLE.as_bytes()[..cut]));
        let expected = if cut < decided { Decision::Inspect } else { forbidden() };
        assert_eq!(decision, expected, "{}", &WHOLE[..cut]);
    }
}

#[test]
fn a_cut_behind_the_code_changes_nothing_wherever_it_falls() {
    let head = head(200, "application/json");
    for rest in [
        // A number.
        r#""latency":-"#,
        r#""latency":1."#,
        r#""latency":1.5e"#,
        r#""latency":1.5E"#,
        r#""latency":1e+"#,
        r#""latency":1"#,
        // A literal, an escape, a key, a nested value.
        r#""ok":tr"#,
        r#""ok":f"#,
        r#""ok":nul"#,
        r#""msg":"\"#,
        r#""msg":"\u00"#,
        r#""msg":"\ud83d"#,
        r#""msg":"\ud83d\"#,
        r#""ms"#,
        r#""msg""#,
        r#""msg":"#,
        r#""data":{"code":[0,{"#,
        "",
    ] {
        let body = format!(r#"{{"code":4101,{rest}"#);
        for prefix in [BodyPrefix::partial, BodyPrefix::complete, BodyPrefix::cut] {
            let prefix = prefix(body.as_bytes());
            assert_eq!(classifier().body(&head, prefix), forbidden(), "{body} {prefix:?}");
        }
    }
    // In the middle of a character of several bytes.
    let body = r#"{"code":4101,"msg":"权限"#.as_bytes();
    for cut in 1..6 {
        let prefix = BodyPrefix::cut(&body[..body.len() - cut]);
        assert_eq!(classifier().body(&head, prefix), forbidden(), "{cut} bytes less");
    }
}

#[test]
fn a_cut_before_the_code_asks_for_more_and_then_the_status() {
    for rest in [
        r#""latency":-"#,
        r#""latency":1."#,
        r#""latency":1.5e"#,
        r#""latency":1E"#,
        r#""latency":1e+"#,
        r#""latency":12"#,
        r#""ok":tr"#,
        r#""ok":true"#,
        r#""msg":"\"#,
        r#""msg":"\u00"#,
        r#""msg":"x""#,
        r#""ms"#,
        r#""data":[{"#,
        r#""code"#,
        r#""code":"#,
        r#""code":"4101"#,
        r#""code":4101"#,
        r#""code":4101.0e"#,
    ] {
        let body = format!("{{{rest}");
        let prefixes =
            [BodyPrefix::partial, BodyPrefix::complete, BodyPrefix::cut].map(|of| of(body.as_bytes()));
        for (status, by_status) in
            [(200, Decision::Accept), (401, rejected_by_status(RejectionKind::Unauthenticated, 401))]
        {
            let verdicts = prefixes.map(|prefix| classifier().body(&head(status, "text/json"), prefix));
            assert_eq!(verdicts, [Decision::Inspect, by_status, by_status], "{body}");
        }
    }
}

#[test]
fn half_a_number_is_not_a_code() {
    let head = head(200, "application/json");
    let whole = br#"{"code":41015}"#;
    let half = &whole[..br#"{"code":4101"#.len()];
    assert_eq!(classifier().body(&head, BodyPrefix::partial(half)), Decision::Inspect);
    assert_eq!(classifier().body(&head, BodyPrefix::cut(half)), Decision::Accept);
    assert_eq!(classifier().body(&head, BodyPrefix::complete(whole)), Decision::Inconclusive);
}

#[test]
fn a_byte_order_mark_may_be_split() {
    let head = head(200, "application/json");
    let body = "\u{feff}{\"code\":4101}".as_bytes();
    for cut in 0..body.len() {
        let prefix = BodyPrefix::partial(&body[..cut]);
        assert_eq!(classifier().body(&head, prefix), Decision::Inspect, "{cut}");
    }
    assert_eq!(classifier().body(&head, BodyPrefix::complete(body)), forbidden());
    assert_eq!(classifier().body(&head, BodyPrefix::partial(b"\xef\xbb{")), Decision::Accept, "no mark");
}

#[test]
fn a_body_that_cannot_be_inspected_is_judged_by_status() {
    let nothing = BodyPrefix::cut(b"");
    assert_eq!(classifier().body(&head(200, "application/json"), nothing), Decision::Accept);
    assert_eq!(classifier().body(&head(304, "application/json"), nothing), Decision::Accept);
    assert_eq!(classifier().body(&head(404, "application/json"), nothing), Decision::Inconclusive);
    let unauthenticated = rejected_by_status(RejectionKind::Unauthenticated, 401);
    assert_eq!(classifier().body(&head(401, "application/json"), nothing), unauthenticated);
}
