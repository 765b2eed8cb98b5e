//! Authorisation by users: the consent page, codes, refresh tokens and devices.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::grants::{Asked, Challenge, Consent, Device};
use super::server::Shared;
use super::token::{Refused, refusal, refused, unix};
use super::world::{AccountId, Holder, World, random};
use super::{auth, reply};
use crate::hex::hex;

/// As documented: 15 minutes.
const ACCESS_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Where users enter devices' codes.
pub(super) const DEVICE_PAGE: &str = "/open/oauth/device";

const DEVICE_LIFETIME: Duration = Duration::from_secs(300);

/// What an app posts, whatever its grant.
#[derive(Deserialize)]
pub(super) struct Posted {
    client_id: Option<String>,
    code: Option<String>,
    redirect_uri: Option<String>,
    code_verifier: Option<String>,
    refresh_token: Option<String>,
    device_code: Option<String>,
}

fn values(query: &[u8]) -> impl Fn(&str) -> Option<String> + use<> {
    let pairs: Vec<_> = form_urlencoded::parse(query).into_owned().collect();
    move |name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

fn page(status: u16, text: &str) -> Response {
    reply::raw(status, "text/html; charset=utf-8", format!("<!doctype html><title>Coze</title>{text}"))
}

fn redirect(to: &str) -> Response {
    let mut response = page(302, "");
    match HeaderValue::from_str(to) {
        Ok(to) => response.headers_mut().insert(header::LOCATION, to),
        Err(_) => return page(400, "<p>not a URL"),
    };
    response
}

/// `GET …/authorize`: to the consent page.
pub(super) async fn authorize(
    State(shared): State<Arc<Shared>>,
    workspace: Option<Path<String>>,
    RawQuery(query): RawQuery,
) -> Response {
    let value = values(query.unwrap_or_default().as_bytes());
    let now = shared.now();
    let mut world = shared.world();
    match asked(&world, workspace.map(|Path(id)| id), value) {
        Ok(asked) => redirect(&format!("/oauth/consent?authorize_key={}", world.grants.ask(asked, now))),
        Err(why) => page(400, &format!("<p>{why}")),
    }
}

/// What an app asks for, if it may. Whatever is wrong is told to the user, and not to the app: that is what has to be for
/// a redirect URI that is not the app's, and is plainest for the rest.
fn asked(
    world: &World,
    workspace: Option<String>,
    value: impl Fn(&str) -> Option<String>,
) -> Result<Asked, &'static str> {
    let (Some(client_id), Some(redirect_uri)) = (value("client_id"), value("redirect_uri")) else {
        return Err("client_id or redirect_uri is missing");
    };
    let app = world.grants.app(&client_id).ok_or("no such app")?;
    if !world.grants.may_redirect(&client_id, &redirect_uri) {
        return Err("redirect_uri is not one that is registered with the app");
    }
    if value("response_type").as_deref() != Some("code") {
        return Err("response_type has to be code");
    }
    let method = value("code_challenge_method");
    let challenge = match (value("code_challenge"), method.as_deref()) {
        (Some(challenge), Some("S256")) => Some(Challenge::S256(challenge)),
        // RFC 7636, 4.3: the default.
        (Some(challenge), Some("plain") | None) => Some(Challenge::Plain(challenge)),
        (Some(_), Some(_)) => return Err("code_challenge_method has to be S256 or plain"),
        (None, _) if app.client_secret.is_none() => {
            return Err("code_challenge is missing: an app without a secret has to prove its logins");
        }
        (None, _) => None,
    };
    if workspace.as_deref().is_some_and(|id| !world.has_workspace(id)) {
        return Err("no such workspace");
    }
    let state = value("state").unwrap_or_default();
    Ok(Asked { client_id, redirect_uri, state, challenge, workspace })
}

/// `GET /oauth/consent`: a form that asks who consents. A real page knows that from the user's session.
pub(super) async fn consent_page(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let key = values(query.unwrap_or_default().as_bytes())("authorize_key").unwrap_or_default();
    let now = shared.now();
    if !shared.world().grants.is_asked(&key, now) {
        return page(400, "<p>login session invalid");
    }
    // The key is one of ours: digits and letters.
    page(
        200,
        &format!(
            "<form method=post action=/oauth/consent><input type=hidden name=authorize_key value={key}>\
             <label>Account <input name=account></label><button name=decision value=allow>Allow</button>\
             <button name=decision value=deny>Deny</button></form>"
        ),
    )
}

/// `POST /oauth/consent`: back to the app.
pub(super) async fn consent(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let value = values(&body);
    let now = shared.now();
    let mut world = shared.world();
    let Some(asked) = world.grants.take_asked(&value("authorize_key").unwrap_or_default(), now) else {
        return page(400, "<p>login session invalid");
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    let account = value("account").and_then(|account| world.account(&account));
    let account = account.filter(|account| world.is_member(account, asked.workspace.as_deref()));
    match account.filter(|_| value("decision").as_deref() != Some("deny")) {
        Some(account) => {
            let code = world.grants.create_code(asked.clone(), account, now);
            query.append_pair("code", &code);
        }
        None => {
            query.append_pair("error", "access_denied");
        }
    }
    query.append_pair("state", &asked.state);
    let separator = if asked.redirect_uri.contains('?') { '&' } else { '?' };
    redirect(&format!("{}{separator}{}", asked.redirect_uri, query.finish()))
}

/// The token endpoint, for the grants of users.
pub(super) fn exchange(
    shared: &Shared,
    headers: &HeaderMap,
    grant_type: &str,
    posted: &Posted,
) -> Result<Value, Refused> {
    let now = shared.now();
    let client_id = posted.client_id.as_deref().unwrap_or_default();
    let mut world = shared.world();
    let Some(app) = world.grants.app(client_id) else {
        return refused("invalid_client", "no such app");
    };
    // An empty bearer is as good as none: some SDKs send it.
    let secret = auth::bearer(headers).filter(|secret| !secret.is_empty());
    let is_device = grant_type == super::token::DEVICE_GRANT;
    if app.client_secret.as_deref() != secret && !is_device {
        return refused("invalid_client", "the client secret is not the app's");
    }
    let holder = match grant_type {
        "authorization_code" => {
            let code = posted.code.as_deref().unwrap_or_default();
            let Some((asked, account)) = world.grants.take_code(code, now) else {
                return refused("invalid_grant", "the code is not valid, or was used before");
            };
            if asked.client_id != client_id
                || posted.redirect_uri.as_deref() != Some(asked.redirect_uri.as_str())
            {
                return refused("invalid_grant", "the code is another app's, or for another redirect_uri");
            }
            if let Some(challenge) = &asked.challenge
                && !challenge.is_answered(posted.code_verifier.as_deref().unwrap_or_default())
            {
                return refused("invalid_grant", "the code_verifier does not fit");
            }
            Holder { account, workspace: asked.workspace }
        }
        "refresh_token" => {
            let token = posted.refresh_token.as_deref().unwrap_or_default();
            let Some(holder) = world.grants.spend(token, client_id, now) else {
                let code = shared.settings().dead_refresh_token.clone();
                return refused(code, "the refresh token is not valid, or was used before");
            };
            holder
        }
        _ => {
            let code = posted.device_code.as_deref().unwrap_or_default();
            match world.grants.devices.get_mut(code).filter(|device| device.client_id == client_id) {
                None => return refused("invalid_grant", "no such device code"),
                Some(device) => Holder { account: poll(device, now)?, workspace: device.workspace.clone() },
            }
        }
    };
    world.grants.devices.retain(|code, _| Some(code) != posted.device_code.as_ref());
    let ends = now + shared.settings().token_lifetime.unwrap_or(ACCESS_LIFETIME);
    let refresh_token = world.grants.create_refresh_token(client_id, &holder, now);
    let access_token = world.create_token(&holder, "czu_", Some(ends));
    Ok(json!({
        "access_token": access_token,
        "refresh_token": refresh_token,
        "expires_in": unix(ends).as_secs(),
        "token_type": "Bearer",
    }))
}

fn poll(device: &mut Device, now: SystemTime) -> Result<AccountId, Refused> {
    let is_too_soon = device
        .asked_last
        .is_some_and(|last| now.duration_since(last).unwrap_or_default() < device.interval.mul_f64(0.9));
    device.asked_last = Some(now);
    if now >= device.ends {
        return refused("expired_token", "the device code has expired");
    }
    match &device.consent {
        Consent::Given(account) => Ok(account.clone()),
        Consent::Refused => refused("access_denied", "the user has refused"),
        Consent::Waiting if is_too_soon => {
            device.interval += Duration::from_secs(5);
            refused("slow_down", "asked too often")
        }
        Consent::Waiting => refused("authorization_pending", "the user has not entered the code yet"),
    }
}

impl Challenge {
    fn is_answered(&self, verifier: &str) -> bool {
        match self {
            Self::S256(hash) => BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes())) == *hash,
            Self::Plain(challenge) => verifier == challenge,
        }
    }
}

/// `POST …/device/code`.
pub(super) async fn device_code(
    State(shared): State<Arc<Shared>>,
    workspace: Option<Path<String>>,
    body: Bytes,
) -> Response {
    let posted: Option<Posted> = serde_json::from_slice(&body).ok();
    let client_id = posted.and_then(|posted| posted.client_id).unwrap_or_default();
    let now = shared.now();
    let mut world = shared.world();
    if world.grants.app(&client_id).is_none() {
        return refusal(&shared, Refused("invalid_client".into(), "no such app".to_owned()));
    }
    let workspace = workspace.map(|Path(id)| id);
    if workspace.as_deref().is_some_and(|id| !world.has_workspace(id)) {
        return refusal(&shared, Refused("invalid_request".into(), "no such workspace".to_owned()));
    }
    let device_code = hex(&random::<24>());
    let digits = hex(&random::<4>()).to_uppercase();
    let user_code = format!("{}-{}", &digits[..4], &digits[4..]);
    let interval = shared.settings().device_interval;
    let device = Device {
        client_id,
        user_code: user_code.clone(),
        workspace,
        ends: now + DEVICE_LIFETIME,
        interval,
        asked_last: None,
        consent: Consent::Waiting,
    };
    world.grants.devices.insert(device_code.clone(), device);
    reply::bare(
        200,
        &json!({
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": format!("{}{DEVICE_PAGE}", shared.base_url()),
            "expires_in": DEVICE_LIFETIME.as_secs(),
            "interval": interval.as_secs(),
        }),
    )
}

/// `GET` of [`DEVICE_PAGE`]: a form for a device's code.
pub(super) async fn device_page() -> Response {
    page(
        200,
        "<form method=post><label>Code <input name=user_code></label><label>Account <input name=account></label>\
         <button name=decision value=allow>Allow</button><button name=decision value=deny>Deny</button></form>",
    )
}

/// `POST` to [`DEVICE_PAGE`].
pub(super) async fn enter_device_code(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let value = values(&body);
    let mut world = shared.world();
    let account = value("account").and_then(|account| world.account(&account));
    let allow = value("decision").as_deref() != Some("deny");
    let user_code = value("user_code").unwrap_or_default();
    match account {
        Some(account) if world.enter_device_code(&user_code, &account, allow) => page(200, "<p>done"),
        _ => page(400, "<p>no such code, or not for this account"),
    }
}
