//! Which URLs a secret may be sent to.

use http::Uri;

use crate::error::Error;
use crate::origin::is_plaintext_to_another_host;

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
    if authority.host().is_empty() {
        return refused(absolute);
    }
    if authority.as_str().contains('@') {
        return refused("expected a URL without a user name or a password");
    }
    if !matches!(scheme, "https" | "http") {
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
