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
    Custom(Origin),
}

impl Region {
    /// Another host, such as a gateway or the simulator: `http://127.0.0.1:8080`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `origin`, if `base_url` is more or less
    /// than scheme, host and port.
    pub fn custom(base_url: &str) -> Result<Self, Error> {
        base_url.parse().map(Self::Custom)
    }

    /// The API's base URL, without a slash at its end.
    pub fn base_url(&self) -> String {
        match self {
            Self::Com => "https://api.coze.com".to_owned(),
            Self::Cn => "https://api.coze.cn".to_owned(),
            Self::Custom(origin) => origin.to_string(),
        }
    }

    /// Where users consent. A host of your own is taken to serve that page too.
    #[cfg(feature = "oauth")]
    pub(crate) fn www_url(&self) -> String {
        match self {
            Self::Com => "https://www.coze.com".to_owned(),
            Self::Cn => "https://www.coze.cn".to_owned(),
            Self::Custom(origin) => origin.to_string(),
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

    /// Where a credential of this region may be sent: the API and its WebSocket host.
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
    fn every_region_has_its_origins() {
        for region in [Region::Com, Region::Cn, Region::custom("http://127.0.0.1:8080").unwrap()] {
            let api: Origin = region.base_url().parse().unwrap();
            assert!(region.origins().contains(&api));
        }
    }
}
