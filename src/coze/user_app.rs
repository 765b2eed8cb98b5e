//! Apps that act for users: where Coze authorises them, and how it wants to be asked.

use super::{Region, is_digits};
use crate::error::Error;
use crate::oauth::OAuthConfig;
use crate::provider::{ExpiresIn, RequestStyle};

/// How an app of Coze's acts for users: by login in a browser
/// ([web apps](https://www.coze.cn/open/docs/developer_guides/oauth_code),
/// [PKCE](https://www.coze.cn/open/docs/developer_guides/oauth_pkce)), or by
/// [device codes](https://www.coze.cn/open/docs/developer_guides/oauth_device_code).
///
/// What comes back is a config for an [`OAuthClient`](crate::oauth::OAuthClient):
///
/// - with a secret ([`OAuthConfig::with_client_secret`]) it is a web app's; without one, PKCE is used;
/// - a login in a browser needs [`OAuthConfig::with_redirect_uri`].
///
/// Coze's access tokens for users live 15 minutes; its refresh tokens live 30 days and are spent by their use.
///
/// ```
/// use tower_credential_fallback::coze::{self, Region};
///
/// let config = coze::user_app(&Region::Cn, "7380000000000000000.app.coze")
///     .with_client_secret("the app's secret")
///     .with_redirect_uri("https://app.example.com/callback");
/// # let _ = config;
/// ```
pub fn user_app(region: &Region, client_id: impl Into<String>) -> OAuthConfig {
    config(region, client_id.into(), None)
}

/// As [`user_app`], for one workspace alone, which the user has to be a member of.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `workspace_id`, if it is not made of digits.
pub fn workspace_user_app(
    region: &Region,
    client_id: impl Into<String>,
    workspace_id: &str,
) -> Result<OAuthConfig, Error> {
    if !is_digits(workspace_id) {
        return Err(Error::config("workspace_id", "expected the workspace's ID, which is made of digits"));
    }
    Ok(config(region, client_id.into(), Some(workspace_id))
        .with_realm(format!("workspace_id/{workspace_id}")))
}

/// Only the pages where users consent differ by workspace.
fn config(region: &Region, client_id: String, workspace_id: Option<&str>) -> OAuthConfig {
    let workspace = workspace_id.map_or_else(String::new, |id| format!("/workspace_id/{id}"));
    let path = "/api/permission/oauth2";
    let (api, www) = (region.base_url(), region.www_url());
    OAuthConfig::new(client_id, format!("{api}{path}/token"))
        .with_authorize_url(format!("{www}{path}{workspace}/authorize"))
        .with_device_url(format!("{api}{path}{workspace}/device/code"))
        .with_request_style(RequestStyle::BearerJson)
        .with_expires_in(ExpiresIn::Absolute)
        // A web app's and a PKCE app's logins are documented as two flows.
        .with_pkce_without_secret()
}
