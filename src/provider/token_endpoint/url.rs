//! Which URLs a secret may be sent to.

use http::Uri;

use crate::error::Error;
use crate::origin::{Origin, is_plaintext_to_another_host};

/// The URL without its query, where some servers want a key.
pub(crate) fn shown(url: &Uri) -> String {
    let host = url.authority().map_or("", |authority| authority.as_str());
    format!("{}://{host}{}", url.scheme_str().unwrap_or_default(), url.path())
}

pub(crate) fn check_url(field: &'static str, url: &str, plaintext_allowed: bool) -> Result<Uri, Error> {
    let refused = |expected: &'static str| Err(Error::config(field, expected));
    // RFC 6749, 3.2: no fragment. `Uri` would drop it without a word.
    if url.contains('#') {
        return refused("expected a URL without a fragment (`#…`)");
    }
    let absolute = "expected an absolute URL, such as `https://identity.example.com/oauth2/token`";
    let Ok(uri) = url.parse::<Uri>() else {
        return refused(absolute);
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return refused(absolute);
    };
    if authority.as_str().contains('@') {
        return refused("expected a URL without a user name or a password");
    }
    // Without an origin, the host or the port is not valid: a client would take the default port in its place.
    if !matches!(scheme, "https" | "http") || Origin::of(&uri).is_none() {
        return refused(absolute);
    }
    if is_plaintext_to_another_host(&uri) && !plaintext_allowed {
        return refused(
            "expected `https`: plain `http` shows secrets to everybody on the way; allow it \
             with `with_plaintext_allowed`",
        );
    }
    Ok(uri)
}

/// Where a browser comes back to: a URL of the web, or, for an app on a device, of a scheme of its own
/// ([RFC 8252, 7.1](https://www.rfc-editor.org/rfc/rfc8252#section-7.1)), which has a dot, as its reversed domain does.
#[cfg(feature = "oauth")]
pub(crate) fn check_redirect_uri(uri: &str, plaintext_allowed: bool) -> Result<(), Error> {
    let field = "redirect_uri";
    let scheme = uri.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_private = scheme.contains('.')
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    if !is_private {
        return check_url(field, uri, plaintext_allowed).map(drop);
    }
    let rest = &uri[scheme.len() + 1..];
    if rest.starts_with('/') && rest.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Ok(());
    }
    Err(Error::config(field, "expected a URI such as `com.example.app:/callback`, without a fragment (`#…`)"))
}
