//! [`Origin`]: where a credential may go. [`is_plaintext_to_another_host`] tells where it may not.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::uri::Scheme;
use http::{Extensions, Uri};

use crate::error::Error;

/// A scheme, host and port ([RFC 6454](https://www.rfc-editor.org/rfc/rfc6454)).
///
/// A WebSocket handshake is an HTTP request to the same server, so `wss` is the origin of `https`, and `ws` of `http`. No
/// other scheme has origins here.
///
/// Host and port mean what the [URL standard](https://url.spec.whatwg.org/#host-parsing) says, or the text is rejected. A
/// host is a name of letters, digits, `-` and `_`, an IPv4 address of four decimal numbers, or an IPv6 address in brackets.
/// An internationalized name is written in its ASCII form (`xn--…`), which is compared as text.
///
/// ```
/// use tower_credential_fallback::Origin;
///
/// let origin: Origin = "https://api.coze.cn".parse()?;
/// assert_eq!(origin, "HTTPS://API.coze.cn:443".parse()?);
/// assert_eq!(origin, "wss://api.coze.cn".parse()?);
/// # Ok::<(), tower_credential_fallback::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    is_tls: bool,
    /// In lower case; an IPv6 address in its shortest form.
    host: String,
    port: u16,
}

impl FromStr for Origin {
    type Err = Error;

    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `origin`, if it has no scheme or no
    /// host, a host or a port that is not valid, or a path, a query, a fragment or user information.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            let expected = "expected `http`, `https`, `ws` or `wss`, a host and an optional port, such as \
                            `https://api.coze.cn`";
            Error::config("origin", expected)
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        // `Uri` drops a fragment.
        let has_more = text.contains('#')
            || uri.path_and_query().is_some_and(|rest| rest.as_str() != "/")
            || uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_more {
            return Err(wrong());
        }
        Self::of(&uri).ok_or_else(wrong)
    }
}

impl Origin {
    /// The origin of an absolute URI. `None`: it has no scheme or host, a scheme without origins, or a host or port that is
    /// not valid.
    pub fn of(uri: &Uri) -> Option<Self> {
        let View { is_tls, host, port } = View::of(uri)?;
        Some(Self { is_tls, host: canonical_host(host)?, port })
    }

    /// The host alone, in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether `uri` lies in this origin.
    pub fn contains(&self, uri: &Uri) -> bool {
        View::of(uri).is_some_and(|view| view.is_same(&self.view()))
    }

    fn view(&self) -> View<'_> {
        View { is_tls: self.is_tls, host: &self.host, port: self.port }
    }
}

impl fmt::Display for Origin {
    /// With `http` or `https`, and the port if it is not the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == default_port(self.is_tls) {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

/// Whether both lie in one origin. Without scheme or host on either side: not known, so no.
fn is_same_origin(a: &Uri, b: &Uri) -> bool {
    View::of(a).zip(View::of(b)).is_some_and(|(a, b)| a.is_same(&b))
}

/// Whether a header sent there could be read on the way.
///
/// Loopback is exempt, as in the W3C's
/// [potentially trustworthy origins](https://www.w3.org/TR/secure-contexts/#is-origin-trustworthy).
/// A URI without a scheme (origin form) says nothing of the transport: whoever made the connection knows.
pub(crate) fn is_plaintext_to_another_host(uri: &Uri) -> bool {
    // Nearly every URI's scheme, which is known without looking at its letters.
    if uri.scheme() == Some(&Scheme::HTTPS) {
        return false;
    }
    let is_plaintext = uri.scheme_str().and_then(is_tls) == Some(false);
    is_plaintext
        && !uri.authority().is_some_and(|authority| is_plain_loopback(authority.as_str()))
        && !uri.host().is_some_and(is_loopback)
}

/// Loopback as it is mostly written, which spares taking the authority apart: a host and at most a port, nothing else.
fn is_plain_loopback(authority: &str) -> bool {
    let Some(rest) = ["127.0.0.1", "localhost"].into_iter().find_map(|host| authority.strip_prefix(host))
    else {
        return false;
    };
    let port = rest.strip_prefix(':');
    rest.is_empty() || port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Put into a *response's* extensions by an inner service that follows redirects: the URI that answered.
///
/// If that lies in another origin than the request, a rejection is final: the other credential is not shown
/// to whoever the redirect led to. An acceptance from there is inconclusive: it may be a login page.
///
/// A request whose URI names another scheme, host or port than it is sent to, since an inner layer rewrites that, looks
/// like redirected if an inner layer reports the rewritten URI. Rewrite it outside of the layer.
///
/// With the feature `follow-redirect`, tower-http's `RequestUri` (0.6 and 0.7) says the same. Of several, each counts: a
/// rejection is final if any of them lies in another origin.
#[derive(Clone, Debug)]
pub struct FinalUri(pub Uri);

/// Whether the answer is known to come from another origin than the one that was asked.
///
/// `is_near` says of a URI, without much ado, whether it surely lies in the origin that was asked.
pub(crate) fn led_to_another_origin(
    is_near: impl Fn(&Uri) -> bool,
    asked: impl FnOnce() -> Uri,
    response: &Extensions,
) -> bool {
    // Each of several middlewares, one inside of the other, knows only of the redirects that it has followed.
    let mut answered = [
        response.get().map(|FinalUri(uri)| uri),
        #[cfg(feature = "follow-redirect")]
        response.get().map(|tower_http::follow_redirect::RequestUri(uri)| uri),
        #[cfg(feature = "follow-redirect")]
        response.get().map(|tower_http_06::follow_redirect::RequestUri(uri)| uri),
    ]
    .into_iter()
    .flatten()
    .filter(|answered| !is_near(answered))
    .peekable();
    if answered.peek().is_none() {
        return false;
    }
    let asked = asked();
    answered.any(|answered| *answered != asked && !is_same_origin(answered, &asked))
}

/// A URI's origin, borrowed.
struct View<'a> {
    is_tls: bool,
    host: &'a str,
    port: u16,
}

impl<'a> View<'a> {
    fn of(uri: &'a Uri) -> Option<Self> {
        let is_tls = is_tls(uri.scheme_str()?)?;
        let authority = uri.authority()?;
        let host = authority.host();
        let port = port(authority.as_str(), host)?.unwrap_or(default_port(is_tls));
        (!host.is_empty()).then_some(Self { is_tls, host, port })
    }

    fn is_same(&self, other: &View<'_>) -> bool {
        self.is_tls == other.is_tls && self.port == other.port && is_same_host(self.host, other.host)
    }
}

/// `None`: not HTTP.
fn is_tls(scheme: &str) -> Option<bool> {
    let is_one_of = |names: [&str; 2]| names.iter().any(|name| scheme.eq_ignore_ascii_case(name));
    if is_one_of(["https", "wss"]) {
        Some(true)
    } else if is_one_of(["http", "ws"]) {
        Some(false)
    } else {
        None
    }
}

fn default_port(is_tls: bool) -> u16 {
    if is_tls { 443 } else { 80 }
}

/// The port behind the authority's `host`: `Some(None)` if there is none, `None` if it is not valid.
///
/// `Uri::port_u16` gives no port for one that is not valid, and takes `+443` for 443.
fn port(authority: &str, host: &str) -> Option<Option<u16>> {
    let without_user = authority.rsplit('@').next()?;
    let rest = without_user.strip_prefix(host)?;
    if rest.is_empty() || rest == ":" {
        return Some(None);
    }
    let digits = rest.strip_prefix(':')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten().map(Some)
}

fn is_same_host(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || ipv6(a).is_some_and(|address| Some(address) == ipv6(b))
}

/// The address of a literal such as `[::1]`.
fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// The host as every spelling of it is written; `None` if it is not valid.
fn canonical_host(host: &str) -> Option<String> {
    if host.starts_with('[') {
        return ipv6(host).map(|address| format!("[{address}]"));
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_name = labels.clone().all(is_label) && !labels.next_back().is_some_and(is_number);
    (is_name || host.parse::<Ipv4Addr>().is_ok()).then(|| host.to_ascii_lowercase())
}

/// A name that ends in a number is an IPv4 address to [the URL standard](https://url.spec.whatwg.org/#ends-in-a-number-checker),
/// in one of many spellings: `127.1`, `0x7f.1`.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// `localhost` and below ([RFC 6761, 6.3](https://www.rfc-editor.org/rfc/rfc6761#section-6.3)), 127.0.0.0/8, ::1.
fn is_loopback(host: &str) -> bool {
    if let Some(address) = ipv6(host) {
        return address.is_loopback();
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return address.is_loopback();
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn scheme_host_and_port_make_the_origin_and_letter_case_does_not() {
        let origin: Origin = "https://api.coze.cn".parse().unwrap();
        assert!(origin.contains(&uri("https://API.COZE.CN:443/v3/chat?x=1")));
        for other in [
            "http://api.coze.cn/",
            "https://api.coze.cn:8443/",
            "https://coze.cn/",
            "https://api.coze.cn.evil.example/",
            "https://evil.example/?https://api.coze.cn",
            "/v3/chat",
        ] {
            assert!(!origin.contains(&uri(other)), "{other}");
        }
        assert_eq!(origin.to_string(), "https://api.coze.cn");
        assert_eq!("http://[::1]:8080".parse::<Origin>().unwrap().to_string(), "http://[::1]:8080");
    }

    #[test]
    fn a_wrong_origin_is_refused_with_the_field_and_what_was_expected() {
        for wrong in [
            "",
            "api.coze.cn",
            "/v3",
            "https://",
            "https://api.coze.cn/v3",
            "https://a?b",
            "https://u:s3cret@a",
        ] {
            let error = wrong.parse::<Origin>().unwrap_err();
            assert_eq!(error.field(), Some("origin"), "{wrong}");
            assert!(error.to_string().contains("https://api.coze.cn"), "{error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn plaintext_is_only_harmless_on_loopback() {
        for harmless in [
            "https://api.coze.cn/",
            "wss://ws.coze.cn/",
            "http://localhost/",
            "http://LOCALHOST:80/",
            "http://sim.localhost/",
            "http://127.0.0.1:1/",
            "http://127.9.9.9/",
            "ws://[::1]:9/",
            "/v3/chat",
        ] {
            assert!(!is_plaintext_to_another_host(&uri(harmless)), "{harmless}");
        }
        for harmful in [
            "http://api.coze.cn/",
            "HTTP://api.coze.cn/",
            "ws://ws.coze.cn/",
            "http://localhost.evil.example/",
            "http://notlocalhost/",
            "http://localhost5/",
            "http://localhost:80@evil.example/",
            "http://127.0.0.1:80@evil.example/",
            "http://127.0.0.1@evil.example:80/",
            "http://127.0.0.1:80:80@evil.example/",
            "http://127.0.0.1.evil.example/",
            "http://10.0.0.1/",
            "http://[::2]/",
            "http://0.0.0.0/",
        ] {
            assert!(is_plaintext_to_another_host(&uri(harmful)), "{harmful}");
        }
    }
}
