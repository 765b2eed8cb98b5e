//! [`Region`]: where the API lives.

use crate::error::Error;
use crate::origin::Origin;

/// One of the two Coze clouds, or a host of your own that speaks the same API.
///
/// The clouds share nothing: a token of one is refused by the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Region {
    /// `api.coze.com`.
    Com,
    /// `api.coze.cn` (扣子).
    Cn,
    /// Another host; made by [`Region::custom`].
    #[non_exhaustive]
    Custom(Origin),
}

impl Region {
    /// The region whose API is found there: [`Com`](Self::Com) or [`Cn`](Self::Cn) for the clouds' own origins; otherwise
    /// another host, such as the simulator (`http://127.0.0.1:8080`) or a gateway in front of a cloud.
    ///
    /// # Gateways
    ///
    /// What a host of your own cannot know has to be said:
    ///
    /// - Apps of the JWT type sign for the API's host: that would be the gateway's, which the cloud behind it
    ///   presumably refuses. [`OAuthApp::with_audience`](super::OAuthApp::with_audience) names the cloud's.
    /// - Users consent at a page. It is looked for where the clouds have theirs: at `www.` in place of `api.`; a host
    ///   that does not begin like that is taken to serve it itself. If that is wrong, say where it is with
    ///   [`OAuthConfig::with_authorize_url`](crate::oauth::OAuthConfig::with_authorize_url).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `origin`, if `base_url` is more or less
    /// than scheme, host and port.
    pub fn custom(base_url: &str) -> Result<Self, Error> {
        let origin = base_url.parse()?;
        let known = [Self::Com, Self::Cn].into_iter().find(|cloud| cloud.origins().first() == Some(&origin));
        Ok(known.unwrap_or(Self::Custom(origin)))
    }

    /// The API's base URL, without a slash at its end.
    pub fn base_url(&self) -> String {
        match self {
            Self::Com => "https://api.coze.com".to_owned(),
            Self::Cn => "https://api.coze.cn".to_owned(),
            Self::Custom(origin) => origin.to_string(),
        }
    }

    /// Where users consent.
    #[cfg(feature = "oauth")]
    pub(crate) fn www_url(&self) -> String {
        let url = self.base_url();
        match url.split_once("://api.") {
            Some((scheme, rest)) => format!("{scheme}://www.{rest}"),
            None => url,
        }
    }

    /// The API's host alone, which is what an assertion's `aud` names.
    #[cfg(feature = "jwt")]
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Com => "api.coze.com",
            Self::Cn => "api.coze.cn",
            Self::Custom(origin) => origin.host(),
        }
    }

    /// Where a credential of this region may be sent: the API, first, and its WebSocket host.
    pub(crate) fn origins(&self) -> Vec<Origin> {
        let fixed = |origins: [&str; 2]| {
            origins.into_iter().map(|origin| origin.parse().expect("it is an origin, see the test")).collect()
        };
        match self {
            Self::Com => fixed(["https://api.coze.com", "wss://ws.coze.com"]),
            Self::Cn => fixed(["https://api.coze.cn", "wss://ws.coze.cn"]),
            Self::Custom(origin) => vec![origin.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_has_its_origins_the_api_first() {
        for region in [Region::Com, Region::Cn, Region::custom("http://127.0.0.1:8080").unwrap()] {
            let api: Origin = region.base_url().parse().unwrap();
            assert_eq!(region.origins().first(), Some(&api));
        }
    }

    #[test]
    fn a_cloud_is_known_by_its_origin_and_by_nothing_less() {
        for (url, region) in [
            ("https://api.coze.com", Region::Com),
            ("https://api.coze.cn/", Region::Cn),
            ("HTTPS://API.coze.cn:443", Region::Cn),
        ] {
            assert_eq!(Region::custom(url).unwrap(), region, "{url}");
        }
        for url in
            ["http://api.coze.cn", "https://api.coze.cn:8443", "https://www.coze.cn", "https://api.coze.cn.x"]
        {
            assert!(matches!(Region::custom(url).unwrap(), Region::Custom(_)), "{url}");
        }
    }

    #[cfg(feature = "oauth")]
    #[test]
    fn users_consent_at_www_where_the_api_is_at_api() {
        for (url, www) in [
            ("https://api.coze.com", "https://www.coze.com"),
            ("https://api.coze.cn", "https://www.coze.cn"),
            ("https://api.example.com:8443", "https://www.example.com:8443"),
            ("https://gateway.example.com", "https://gateway.example.com"),
            ("https://coze.api.example.com", "https://coze.api.example.com"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(Region::custom(url).unwrap().www_url(), www);
        }
    }
}
