//! Which verdict follows from which body.

use super::*;

const UNAUTHENTICATED: RejectionKind = RejectionKind::Unauthenticated;
const FORBIDDEN: RejectionKind = RejectionKind::Forbidden;

#[test]
fn a_listed_code_is_rejected_whatever_the_status() {
    for status in [200, 302, 400, 401, 403, 404] {
        assert_eq!(ask(status, r#"{"code":4101,"msg":"no"}"#), rejected(4101, FORBIDDEN, status));
    }
}

#[test]
fn with_a_success_code_the_status_decides() {
    let body = r#"{"code":0,"msg":""}"#;
    assert_eq!(ask(200, body), Decision::Accept);
    assert_eq!(ask(401, body), rejected_by_status(UNAUTHENTICATED, 401));
    assert_eq!(ask(403, body), rejected_by_status(FORBIDDEN, 403));
    assert_eq!(ask(404, body), Decision::Inconclusive);
    assert_eq!(ask(302, body), Decision::Inconclusive);
}

#[test]
fn an_unlisted_code_is_inconclusive_whatever_the_status() {
    for status in [200, 400, 401, 403, 404] {
        assert_eq!(ask(status, r#"{"code":4000,"msg":"bad parameter"}"#), Decision::Inconclusive, "{status}");
    }
}

#[test]
fn without_a_readable_code_the_status_decides() {
    for body in [
        "",
        " ",
        "{}",
        "{ }",
        "nonsense",
        "4101",
        r#""code":4101"#,
        r#"[{"code":4101}]"#,
        r#"{"code":null}"#,
        r#"{"code":true}"#,
        r#"{"code":{"code":4101}}"#,
        r#"{"code":[4101]}"#,
        r#"{"code":"no"}"#,
        r#"{"msg":"cut o"#,
    ] {
        assert_eq!(ask(200, body), Decision::Accept, "{body}");
        assert_eq!(ask(401, body), rejected_by_status(UNAUTHENTICATED, 401), "{body}");
        assert_eq!(ask(404, body), Decision::Inconclusive, "{body}");
    }
}

#[test]
fn rate_limits_timeouts_and_server_errors_are_never_rejected() {
    for status in [408, 429, 500, 502, 503, 504, 599] {
        assert_eq!(classifier().head(&head(status, "application/json")), Decision::Inconclusive, "{status}");
        assert_eq!(classifier().head(&head(status, "text/html")), Decision::Inconclusive, "{status}");
    }
}

#[test]
fn an_explicit_code_wins_over_a_403_that_is_a_rate_limit() {
    let mut head = head(403, "application/json");
    head.headers.insert("retry-after", "1".parse().unwrap());
    for (body, expected) in [
        (r#"{"code":4101}"#, rejected(4101, FORBIDDEN, 403)),
        (r#"{"code":4013}"#, Decision::Inconclusive),
        (r#"{"code":0}"#, Decision::Inconclusive),
        (r#"{}"#, Decision::Inconclusive),
    ] {
        assert_eq!(ask_of(&classifier(), &head, body.as_bytes()), expected, "{body}");
    }
}

#[test]
fn other_content_is_judged_by_status_alone() {
    for content_type in ["text/html", "application/jsonl", ""] {
        assert_eq!(classifier().head(&head(200, content_type)), Decision::Accept, "{content_type}");
        let unauthenticated = rejected_by_status(UNAUTHENTICATED, 401);
        assert_eq!(classifier().head(&head(401, content_type)), unauthenticated, "{content_type}");
    }
    // Case 41.
    for content_type in ["application/json charset=utf-8", "application/x-json", "text/x-json", "a/b+json"] {
        assert_eq!(classifier().head(&head(200, content_type)), Decision::Inspect, "{content_type}");
    }
}

#[test]
fn a_code_is_read_in_every_spelling_of_an_integer() {
    for number in ["4101", "4101.0", "4.101e3", "4.101E+3", "41010e-1", "0.4101e4"] {
        for body in [
            format!(r#"{{"code":{number}}}"#),
            format!(r#"{{"code":"{number}"}}"#),
            format!("{{ \"msg\" : \"x\" ,\n \"code\" \t:\r\n {number} }}"),
            format!("\u{feff}{{\"code\":{number},\"msg\":\"\"}}"),
        ] {
            assert_eq!(ask(200, &body), rejected(4101, FORBIDDEN, 200), "{body}");
        }
    }
    assert_eq!(ask(200, r#"{"code":-7}"#), rejected(-7, FORBIDDEN, 200));
    assert_eq!(ask(200, r#"{"code":-0}"#), Decision::Accept);
    assert_eq!(ask(200, r#"{"code":"\u0034101"}"#), rejected(4101, FORBIDDEN, 200));
}

#[test]
fn digits_elsewhere_are_not_the_code() {
    for body in [
        r#"{"code":0,"msg":"code 4101"}"#,
        r#"{"msg":"\"code\":4101","code":0}"#,
        r#"{"msg":"\\","x":"\"code\":4101","code":0}"#,
        r#"{"data":{"code":4101},"code":0}"#,
        r#"{"data":[{"code":4101}]}"#,
        r#"{"data":["}","code",4101],"code":0}"#,
        r#"{"x\"code":4101}"#,
        r#"{"Code":4101}"#,
        r#"{"code ":4101}"#,
        r#"{"code":4101.5}"#,
        r#"{"code":"4101x"}"#,
        r#"{"code":"+4101"}"#,
        r#"{"code":" 4101"}"#,
        r#"{"code":99999999999999999999}"#,
    ] {
        assert_eq!(ask(200, body), Decision::Accept, "{body}");
    }
    assert_eq!(ask(200, r#"{"code":41010}"#), Decision::Inconclusive);
}

#[test]
fn the_name_of_the_field_may_be_written_with_escapes() {
    for name in [r"c\u006fde", r"\u0063\u006F\u0064\u0065"] {
        assert_eq!(ask(200, format!(r#"{{"{name}":4101}}"#)), rejected(4101, FORBIDDEN, 200), "{name}");
    }
    for name in [r"c\u006gde", r"c\ode", r"\ud800code", r"code\u0000", r"c\u006f\u006fde"] {
        assert_eq!(ask(200, format!(r#"{{"{name}":4101}}"#)), Decision::Accept, "{name}");
    }
    let odd = JsonCodeClassifier::new("\"é\n").reject(1, FORBIDDEN);
    let head = head(200, "application/json");
    for body in [r#"{"\"é\n":1}"#, r#"{"\u0022\u00e9\u000a":1}"#] {
        assert_eq!(ask_of(&odd, &head, body.as_bytes()), rejected(1, FORBIDDEN, 200), "{body}");
    }
}

#[test]
fn the_first_readable_code_counts_if_the_field_occurs_twice() {
    assert_eq!(ask(200, r#"{"code":0,"code":4101}"#), Decision::Accept);
    assert_eq!(ask(200, r#"{"code":4101,"code":0}"#), rejected(4101, FORBIDDEN, 200));
    assert_eq!(ask(200, r#"{"code":null,"code":{},"code":4.5,"code":4101}"#), rejected(4101, FORBIDDEN, 200));
}

#[test]
fn malformed_json_before_the_code_leaves_no_code() {
    for body in [
        r#"{code:4101}"#,
        r#"{"a":1 "code":4101}"#,
        r#"{"a":1,,"code":4101}"#,
        r#"{"a" 1,"code":4101}"#,
        r#"{"a":,"code":4101}"#,
        r#"{"a":'',"code":4101}"#,
        r#"{"a":1],"code":4101}"#,
        r#"{,"code":4101}"#,
        r#"{{"code":4101}}"#,
        r#"{"code":4101]"#,
        r#"{"code":04101}"#,
        "\u{feff}\u{feff}{\"code\":4101}",
    ] {
        assert_eq!(ask(200, body), Decision::Accept, "{body}");
    }
}

#[test]
fn what_follows_the_code_is_not_read() {
    for rest in [",}", "}}", ",\u{1}", " nonsense", " 4100}", ",\"code\":0}", ", "] {
        assert_eq!(ask(200, format!(r#"{{"code":4101{rest}"#)), rejected(4101, FORBIDDEN, 200), "{rest}");
    }
}

#[test]
fn the_code_is_found_after_a_large_data_field() {
    let body = format!(r#"{{"data":{{"code":0,"text":"{}"}},"code":4101}}"#, "x".repeat(5_000));
    assert_eq!(ask(200, &body), rejected(4101, FORBIDDEN, 200));
}

#[test]
fn deep_nesting_overflows_no_stack_and_hides_no_code() {
    let depth = 100_000;
    let deep = format!(r#"{{"a":{}{},"code":4101}}"#, "[".repeat(depth), "]".repeat(depth));
    assert_eq!(ask(200, &deep), rejected(4101, FORBIDDEN, 200));
    assert_eq!(
        ask(200, format!(r#"{{"code":4101,"a":{}"#, "{\"a\":".repeat(depth))),
        rejected(4101, FORBIDDEN, 200)
    );
}

#[test]
fn further_success_codes_leave_it_to_the_status() {
    let classifier = JsonCodeClassifier::new("code").accept(200).reject(7, FORBIDDEN);
    for (status, expected) in [
        (200, Decision::Accept),
        (401, rejected_by_status(UNAUTHENTICATED, 401)),
        (404, Decision::Inconclusive),
    ] {
        for body in [r#"{"code":200}"#, r#"{"code":0}"#] {
            assert_eq!(ask_of(&classifier, &head(status, "text/json"), body.as_bytes()), expected, "{body}");
        }
    }
}

#[test]
fn the_last_setting_for_a_code_counts() {
    let head = head(200, "application/json");
    let rejects_zero = JsonCodeClassifier::new("code").reject(0, FORBIDDEN);
    assert_eq!(ask_of(&rejects_zero, &head, br#"{"code":0}"#), rejected(0, FORBIDDEN, 200));
    let accepts_again = rejects_zero.accept(0);
    assert_eq!(ask_of(&accepts_again, &head, br#"{"code":0}"#), Decision::Accept);
    let other_kind = JsonCodeClassifier::new("code").reject(7, FORBIDDEN).reject(7, UNAUTHENTICATED);
    assert_eq!(ask_of(&other_kind, &head, br#"{"code":7}"#), rejected(7, UNAUTHENTICATED, 200));
}

#[test]
fn other_statuses_can_decide_where_no_code_does() {
    let statuses = StatusClassifier::none().reject(StatusCode::NOT_FOUND, RejectionKind::NotFound);
    let classifier = classifier().with_statuses(statuses);
    let not_found = rejected_by_status(RejectionKind::NotFound, 404);
    assert_eq!(ask_of(&classifier, &head(404, "application/json"), b"{}"), not_found);
    assert_eq!(ask_of(&classifier, &head(404, "text/plain"), b""), not_found);
    assert_eq!(ask_of(&classifier, &head(401, "application/json"), b"{}"), Decision::Inconclusive);
}
