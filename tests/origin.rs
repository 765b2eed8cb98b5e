//! Origins agree with the `url` crate, or are stricter.

use std::cell::Cell;
use std::net::Ipv6Addr;

use http::Uri;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use tower_credential_fallback::Origin;
use url::Url;

/// Host and port as the URL standard has them.
#[derive(Debug, PartialEq)]
struct Place {
    host: String,
    port: Option<u16>,
}

/// `None` if `text` is no URL with a host.
fn standard(text: &str) -> Option<Place> {
    let url = Url::parse(text).ok()?;
    let host = url.host_str()?.to_owned();
    Some(Place { host: shortest(&host), port: url.port_or_known_default() })
}

/// The standard library and `url` write some IPv6 addresses in different ways.
fn shortest(host: &str) -> String {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    literal.map_or(host.to_owned(), |literal| literal.parse::<Ipv6Addr>().unwrap().to_string())
}

fn ours(origin: &Origin) -> Place {
    let text = origin.to_string();
    let rest = text.split_once("://").unwrap().1.strip_prefix(origin.host()).unwrap();
    let default = if text.starts_with("https") { 443 } else { 80 };
    let port = rest.strip_prefix(':').map_or(default, |port| port.parse().unwrap());
    Place { host: shortest(origin.host()), port: Some(port) }
}

/// `url` checks what an `xn--` label stands for, which takes tables that this crate does not have.
fn is_international(host: &str) -> bool {
    host.split('.').any(|label| label.starts_with("xn--"))
}

/// One of `good` most often, and one of `bad` now and then.
fn mostly(good: impl Pieces, bad: impl Pieces) -> BoxedStrategy<String> {
    prop_oneof![4 => piece(good), 1 => piece(bad)].boxed()
}

fn piece(pieces: impl Pieces) -> BoxedStrategy<String> {
    let pieces: Vec<_> = pieces.into_iter().collect();
    select(pieces).prop_map(str::to_owned).boxed()
}

trait Pieces: IntoIterator<Item = &'static str> {}

impl<T: IntoIterator<Item = &'static str>> Pieces for T {}

/// Text as a URL is written, of pieces that are valid and pieces that are not.
fn texts() -> impl Strategy<Value = String> {
    let scheme = mostly(
        ["https://", "https://", "http://", "wss://", "ws://", "HTTPS://"],
        ["ftp://", "https:", "https:/", "https:///", "//", "", "x://", " https://", "ht\ttps://"],
    );
    let user = mostly([""], ["u@", "u:p@", "@", "a@b@", "a.example:443@", "a%40b@", "[@"]);
    let label = prop_oneof![
        12 => mostly(
            ["a", "A", "api", "example", "a_b", "-a", "a-", "a--b", "xn--fiqs8s", "1a", "localhost"],
            [
                "1", "127", "256", "0x7f", "0X1", "0x", "0xg", "08", "*", "", "xn--a", "xn--", "XN--FIQS8S", "中文", "ß",
                "ａ", "a%2eb", "%41", "a b", "a\u{ad}b", "!", "$", "&", "'", "(", "+", ",", ";", "=", "~", "|", "^", "<",
                "\"", "`", "{", "\\", "]", "[", "\u{7f}",
            ],
        ),
        3 => "[a-z0-9_-]{1,5}",
        1 => "[ -~]{1,3}",
    ];
    let name = prop::collection::vec(label, 1..4).prop_map(|labels| labels.join("."));
    let dot = mostly([""], [".", ".."]);
    let literal = mostly(
        ["[::1]", "[0:0:0:0:0:0:0:1]", "[::FFFF:1.2.3.4]", "[1:2:3:4:5:6:7::]", "[2001:DB8::0:1]"],
        [
            "[::1",
            "::1",
            "[::1]]",
            "[]",
            "[::1]x",
            "[1::2::3]",
            "[v1.a]",
            "[::1%25eth0]",
            "[::12345]",
            "[1:2:3:4:5:6:7:8:9]",
            "[::1.2.3]",
            "[::01.2.3.4]",
            "[127.0.0.1]",
            "[a]",
        ],
    );
    let address = mostly(
        ["127.0.0.1", "192.168.1.1", "0.0.0.0", "1.a"],
        [
            "127.1",
            "2130706433",
            "0x7f000001",
            "127.0.0.01",
            "1.2.3.4.",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.3.0x4",
            "1.2.3.",
            "4294967296",
            "a.0",
            "a.0x",
            "a.1.",
            "0300.1.1.1",
        ],
    );
    let host = prop_oneof![
        6 => (name, dot).prop_map(|(name, dot)| name + &dot),
        2 => literal,
        2 => address,
        1 => "\\[[0-9a-f:.]{1,12}\\]",
        1 => "[0-9x.]{1,9}",
    ];
    let port = prop_oneof![
        5 => mostly(
            ["", "", ":443", ":80", ":8443", ":0", ":00443", ":65535", ":", ":000000000000443"],
            [
                ":65536", ":84433", ":+443", ":-1", ":1e3", ": 443", ":443 ", ":４", ":0x1", ":4 4", ":443:", "::443",
                ":443:80", ":99999999999",
            ],
        ),
        1 => (0..100_000_u32).prop_map(|port| format!(":{port}")),
    ];
    let rest = mostly(
        ["", "", "/"],
        ["//", "/x", "/.", "?", "?q", "/?", "#", "#x", "/#x", " ", "\n", "\\", "%2f", "\t"],
    );
    (scheme, user, host, port, rest)
        .prop_map(|(scheme, user, host, port, rest)| format!("{scheme}{user}{host}{port}{rest}"))
}

#[test]
fn what_is_an_origin_has_the_host_and_port_of_the_url_crate() {
    let config = Config { cases: 60_000, failure_persistence: None, ..Config::default() };
    let seen = Cell::new(0);
    TestRunner::new(config)
        .run(&texts(), |text| {
            let Ok(origin) = text.parse::<Origin>() else { return Ok(()) };
            seen.set(seen.get() + 1);
            let Some(standard) = standard(&text) else {
                prop_assert!(is_international(origin.host()), "{origin} is no URL: {text:?}");
                return Ok(());
            };
            prop_assert_eq!(ours(&origin), standard, "{:?}", text);
            let url = Url::parse(&text).unwrap();
            prop_assert!(url.path() == "/" && url.query().is_none() && url.fragment().is_none(), "{text:?}");
            prop_assert!(url.username().is_empty() && url.password().is_none(), "{text:?}");
            let again = origin.to_string().parse::<Origin>();
            prop_assert_eq!(again.unwrap(), origin);
            Ok(())
        })
        .unwrap();
    assert!(seen.get() > 3_000, "only {} of the texts are origins", seen.get());
}

#[test]
fn a_request_in_an_origin_goes_to_its_host_and_port() {
    let config = Config { cases: 60_000, failure_persistence: None, ..Config::default() };
    let seen = Cell::new(0);
    TestRunner::new(config)
        .run(&(texts(), texts(), any::<bool>()), |(origin, other, is_own)| {
            let Ok(known) = origin.parse::<Origin>() else { return Ok(()) };
            let request = if is_own { origin + "/v3/chat?x=1" } else { other };
            let Ok(uri) = request.parse::<Uri>() else { return Ok(()) };
            if Origin::of(&uri).as_ref() == Some(&known) {
                prop_assert!(known.contains(&uri), "{known} {request:?}");
            }
            if known.contains(&uri) {
                seen.set(seen.get() + 1);
                match standard(&request) {
                    Some(standard) => prop_assert_eq!(ours(&known), standard, "{:?}", request),
                    None => prop_assert!(is_international(known.host()), "{request:?} is no URL"),
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(seen.get() > 1_000, "only {} requests are in an origin", seen.get());
}

#[test]
fn a_text_with_a_wrong_host_or_port_or_with_more_is_no_origin() {
    for text in [
        "https://api.example:84433",
        "https://api.example:65536",
        "https://api.example:+443",
        "https://api.example:-1",
        "https://api.example:4 4",
        "https://api.example:443:443",
        "https://*.example",
        "https://*",
        "https://a#x",
        "https://a/#",
        "https://a?",
        "https://a//",
        "https://u@a",
        "https://@a",
        "https://[::1",
        "https://[::1]x",
        "https://[::12345]",
        "https://[127.0.0.1]",
        "https://127.1",
        "https://0x7f.0.0.1",
        "https://127.0.0.01",
        "https://256.0.0.1",
        "https://a.1",
        "https://a%2eb",
        "https://a..b",
        "https://.",
        "https://中文.example",
        "https://a b",
        " https://a",
        "https://a\n",
        "https:a",
        "ftp://a",
        "unix://a",
    ] {
        assert!(text.parse::<Origin>().is_err(), "{text:?} is an origin");
    }
    for (text, shown) in [
        ("https://a", "https://a"),
        ("https://a/", "https://a"),
        ("https://a:", "https://a"),
        ("https://a:0443", "https://a"),
        ("https://a:0", "https://a:0"),
        ("HTTPS://A_b.Example:65535", "https://a_b.example:65535"),
        ("https://a.", "https://a."),
        ("https://xn--fiqs8s.example", "https://xn--fiqs8s.example"),
        ("wss://a", "https://a"),
        ("ws://a", "http://a"),
        ("http://[0:0:0:0:0:0:0:1]:443", "http://[::1]:443"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
    ] {
        assert_eq!(text.parse::<Origin>().unwrap().to_string(), shown);
    }
}

#[test]
fn a_request_with_a_wrong_port_is_in_no_origin() {
    let origin: Origin = "https://api.example".parse().unwrap();
    for port in ["84433", "65536", "+443", "-1", "1e3"] {
        let uri: Uri = format!("https://api.example:{port}/").parse().unwrap();
        assert!(!origin.contains(&uri) && Origin::of(&uri).is_none(), "{uri}");
    }
    for uri in [
        "https://api.example:443/",
        "https://u:p@api.example/",
        "https://api.example:/",
        "wss://API.example/x",
    ] {
        assert!(origin.contains(&uri.parse().unwrap()), "{uri}");
    }
}

#[test]
fn wss_and_https_are_one_origin_as_are_ws_and_http() {
    for (one, other) in
        [("wss://ws.coze.cn", "https://ws.coze.cn"), ("ws://127.0.0.1:8080", "http://127.0.0.1:8080")]
    {
        let origins: [Origin; 2] = [one, other].map(|text| text.parse().unwrap());
        assert_eq!(origins[0], origins[1]);
        for uri in [one, other] {
            let uri: Uri = format!("{uri}/v1/audio/speech").parse().unwrap();
            assert!(origins.iter().all(|origin| origin.contains(&uri)), "{uri}");
        }
    }
    let plain: Origin = "ws://ws.coze.cn".parse().unwrap();
    assert!(!plain.contains(&Uri::from_static("wss://ws.coze.cn/")), "one is encrypted");
}
