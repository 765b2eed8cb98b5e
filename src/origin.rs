//! [`Origin`]: where a credential may go. [`is_plaintext_to_another_host`] tells where it may not.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::{Extensions, Uri};

use crate::error::Error;

/// A scheme, host and port ([RFC 6454](https://www.rfc-editor.org/rfc/rfc6454)).
///
/// ```
/// use tower_credential_fallback::Origin;
///
/// let origin: Origin = "https://api.coze.cn".parse()?;
/// assert_eq!(origin, "HTTPS://API.coze.cn:443".parse()?);
/// # Ok::<(), tower_credential_fallback::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// In lower case, as is `host`.
    scheme: String,
    host: String,
    /// `None` if the scheme has no known default and none is given.
    port: Option<u16>,
}

impl FromStr for Origin {
    type Err = Error;

    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `origin`, if it has no scheme or no
    /// host, or has a path, a query or user information.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::config("origin", "expected scheme, host and optional port, such as `https://api.coze.cn`")
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let has_more = uri.path_and_query().is_some_and(|rest| rest.as_str() != "/")
            || uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_more {
            return Err(wrong());
        }
        Self::of(&uri).ok_or_else(wrong)
    }
}

impl Origin {
    /// The origin of an absolute URI; `None` for one without scheme or host.
    pub fn of(uri: &Uri) -> Option<Self> {
        let parts = View::of(uri)?;
        Some(Self {
            scheme: parts.scheme.to_ascii_lowercase(),
            host: parts.host.to_ascii_lowercase(),
            port: parts.port,
        })
    }

    /// The host alone, in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether `uri` lies in this origin.
    pub fn contains(&self, uri: &Uri) -> bool {
        View::of(uri).is_some_and(|view| {
            view.is_same(&View { scheme: &self.scheme, host: &self.host, port: self.port })
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match self.port {
            Some(port) if Some(port) != default_port(&self.scheme) => write!(f, ":{port}"),
            _ => Ok(()),
        }
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
    let plaintext = uri
        .scheme_str()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("ws"));
    plaintext
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
/// If that lies in another origin than the request, a refusal is final: the other credential is not shown
/// to whoever the redirect led to.
#[derive(Clone, Debug)]
pub struct FinalUri(pub Uri);

/// Whether the answer is known to come from another origin than the one that was asked.
pub(crate) fn led_to_another_origin(asked: impl FnOnce() -> Uri, response: &Extensions) -> bool {
    let ours = response.get().map(|FinalUri(uri)| uri);
    #[cfg(feature = "follow-redirect")]
    let ours = ours.or_else(|| response.get().map(|tower_http::follow_redirect::RequestUri(uri)| uri));
    ours.is_some_and(|answered| {
        let asked = asked();
        *answered != asked && !is_same_origin(answered, &asked)
    })
}

/// A URI's origin, borrowed.
struct View<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> View<'a> {
    fn of(uri: &'a Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?;
        let host = uri.host().filter(|host| !host.is_empty())?;
        Some(Self { scheme, host, port: uri.port_u16().or_else(|| default_port(scheme)) })
    }

    fn is_same(&self, other: &View<'_>) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme)
            && self.host.eq_ignore_ascii_case(other.host)
            && self.port == other.port
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("ws") {
        Some(80)
    } else if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss") {
        Some(443)
    } else {
        None
    }
}

/// `localhost` and below ([RFC 6761, 6.3](https://www.rfc-editor.org/rfc/rfc6761#section-6.3)), 127.0.0.0/8, ::1.
fn is_loopback(host: &str) -> bool {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some(address) = literal {
        return address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback());
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
        for wrong in
            ["", "api.coze.cn", "/v3", "https://", "https://api.coze.cn/v3", "https://a?b", "https://u:p@a"]
        {
            let error = wrong.parse::<Origin>().unwrap_err();
            assert_eq!(error.field(), Some("origin"), "{wrong}");
            assert!(error.to_string().contains("https://api.coze.cn"), "{error}");
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
