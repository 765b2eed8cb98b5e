use http::Response;

use super::*;

fn classifier() -> JsonCodeClassifier {
    JsonCodeClassifier::new("code")
        .reject(4100, RejectionKind::Unauthenticated)
        .reject(4101, RejectionKind::Forbidden)
        .reject(-7, RejectionKind::Forbidden)
}

fn head(status: u16, content_type: &str) -> response::Parts {
    Response::builder().status(status).header(CONTENT_TYPE, content_type).body(()).unwrap().into_parts().0
}

/// The layer's way to ask: with all there is, then, if that leaves it open, by status alone. Whether the end was seen makes
/// no difference to what is asked here.
fn ask(status: u16, body: &str) -> Decision {
    let head = head(status, "application/json");
    if classifier().head(&head) != Decision::Inspect {
        return classifier().head(&head);
    }
    let last_word = |decision| match decision {
        Decision::Inspect => classifier().body(&head, b""),
        decided => decided,
    };
    let verdict = last_word(classifier().body(&head, body.as_bytes()));
    if !body.is_empty() {
        assert_eq!(last_word(classifier().whole(&head, body.as_bytes())), verdict, "{body}");
    }
    verdict
}

fn refused(code: i64, kind: RejectionKind, status: u16) -> Decision {
    Decision::Reject(Rejection::new(kind, StatusCode::from_u16(status).unwrap()).with_code(code))
}

#[test]
fn a_listed_code_is_a_refusal_whatever_the_status() {
    for status in [200, 400, 401, 403, 404] {
        assert_eq!(
            ask(status, r#"{"code":4101,"msg":"no"}"#),
            refused(4101, RejectionKind::Forbidden, status)
        );
    }
}

#[test]
fn a_code_may_be_a_numeric_string_be_negative_and_have_space_around_it() {
    for (body, code) in [
        (r#"{"code":"4101"}"#, 4101),
        ("{ \"msg\" : \"x\" ,\n \"code\" \t:\r\n 4101 }", 4101),
        (r#"{"code":-7}"#, -7),
    ] {
        assert_eq!(ask(200, body), refused(code, RejectionKind::Forbidden, 200), "{body}");
    }
}

#[test]
fn the_code_is_found_after_a_large_data_field() {
    let body = format!(r#"{{"data":{{"code":0,"text":"{}"}},"code":4101}}"#, "x".repeat(5_000));
    assert_eq!(ask(200, &body), refused(4101, RejectionKind::Forbidden, 200));
}

#[test]
fn the_digits_in_a_string_or_a_nested_object_are_not_a_refusal() {
    for body in [
        r#"{"code":0,"msg":"code 4101"}"#,
        r#"{"msg":"\"code\":4101","code":0}"#,
        r#"{"data":{"code":4101},"code":0}"#,
        r#"{"data":[{"code":4101}]}"#,
        r#"{"code":41010}"#,
        r#"{"code":4101.5}"#,
        r#"{"code":"4101x"}"#,
        r#"{"code":"+4101"}"#,
        r#"[{"code":4101}]"#,
        r#""code":4101"#,
    ] {
        assert_eq!(ask(200, body), Decision::Accept, "{body}");
    }
}

#[test]
fn malformed_json_is_not_a_refusal() {
    for body in [r#"{"code":4101,}"#, r#"{"code":4101}}"#, r#"{code:4101}"#, "{\"code\":4101,\"a\":\u{1}}"] {
        assert_eq!(ask(200, body), Decision::Accept, "{body}");
    }
}

#[test]
fn deep_nesting_overflows_no_stack_and_hides_no_code() {
    let deep = format!(r#"{{"code":4101,"a":{}"#, "[".repeat(100_000));
    assert_eq!(ask(200, &deep), refused(4101, RejectionKind::Forbidden, 200));
}

#[test]
fn without_a_readable_code_the_status_decides() {
    let by_status =
        Decision::Reject(Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED));
    for body in ["", "{}", "nonsense", r#"{"code":null}"#, r#"{"code":0}"#, r#"{"msg":"cut o"#] {
        assert_eq!(ask(401, body), by_status, "{body}");
        assert_eq!(ask(200, body), Decision::Accept, "{body}");
    }
    let html = head(401, "text/html");
    assert_eq!(classifier().head(&html), by_status);
}

#[test]
fn another_readable_code_is_no_refusal_even_with_401() {
    assert_eq!(ask(401, r#"{"code":4000,"msg":"bad parameter"}"#), Decision::Accept);
}

#[test]
fn rate_limits_and_server_errors_are_never_a_refusal() {
    for status in [429, 500, 502, 503] {
        assert_eq!(ask(status, r#"{"code":4101}"#), Decision::Accept);
    }
}

#[test]
fn a_prefix_is_judged_as_soon_as_it_can_be_and_never_on_half_a_number() {
    let whole = r#"{"code":4101,"msg":"You have no permission, see 4101"}"#;
    let head = head(200, "application/json");
    let decided = r#"{"code":4101,"#.len();
    for cut in 1..whole.len() {
        let decision = classifier().body(&head, &whole.as_bytes()[..cut]);
        if cut < decided {
            assert_eq!(decision, Decision::Inspect, "{}", &whole[..cut]);
        } else {
            assert_eq!(decision, refused(4101, RejectionKind::Forbidden, 200), "{}", &whole[..cut]);
        }
    }
    assert_eq!(classifier().body(&head, br#"{"code":0"#), Decision::Inspect);
    assert_eq!(classifier().body(&head, br#"{"code":0,"#), Decision::Accept);
}

#[test]
fn only_json_is_looked_into() {
    for content_type in ["application/json", "application/json; charset=utf-8", "application/problem+json"] {
        assert_eq!(classifier().head(&head(200, content_type)), Decision::Inspect, "{content_type}");
    }
    for content_type in ["text/event-stream", "text/html", "application/jsonl", "json", ""] {
        assert_eq!(classifier().head(&head(200, content_type)), Decision::Accept, "{content_type}");
    }
}

mod quick_searches {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn code() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(0)),
            Just(json!(4101)),
            Just(json!("4100")),
            Just(json!(-7)),
            Just(json!(7)),
            Just(json!(41)),
            Just(json!(41010)),
            Just(json!(null)),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        let plain = prop_oneof![code(), "[a-z\" :,{}0-9]{0,12}".prop_map(Value::from)];
        plain.prop_recursive(3, 12, 3, |inner| object(inner.boxed()))
    }

    fn object(value: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
        let field = prop_oneof![Just("code"), Just("msg"), Just("data"), Just("a")];
        proptest::collection::vec((field, value), 0..4).prop_map(|fields| {
            Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        })
    }

    proptest! {
        /// Whatever is passed over without a parse, the verdict is that of a parse.
        #[test]
        fn they_change_no_verdict(answer in object(value().boxed()), spaces in any::<bool>()) {
            let text = if spaces { serde_json::to_string_pretty(&answer) } else { serde_json::to_string(&answer) };
            let code = match &answer["code"] {
                Value::Number(code) => code.as_i64(),
                Value::String(code) => code.parse().ok(),
                _ => None,
            };
            let expected = match code {
                Some(code @ 4100) => refused(code, RejectionKind::Unauthenticated, 200),
                Some(code @ (4101 | -7)) => refused(code, RejectionKind::Forbidden, 200),
                _ => Decision::Accept,
            };
            prop_assert_eq!(ask(200, &text.unwrap()), expected);
        }
    }

    #[test]
    fn the_shortest_answer_that_can_hold_a_code_is_searched() {
        let classifier = JsonCodeClassifier::new("c").reject(1, RejectionKind::Forbidden);
        let head = head(200, "application/json");
        for answer in [r#"{"c":1}"#, r#"{"a":{"c":0},"c":1}"#] {
            assert_eq!(classifier.body(&head, answer.as_bytes()), refused(1, RejectionKind::Forbidden, 200));
        }
        let long = JsonCodeClassifier::new("code").reject(700_012_006, RejectionKind::Unauthenticated);
        assert_eq!(long.body(&head, br#"{"code":0,"#), Decision::Accept, "before the rest has come");
        let none = JsonCodeClassifier::new("c");
        assert_eq!(none.body(&head, br#"{"c":1}"#), Decision::Accept);
    }
}
