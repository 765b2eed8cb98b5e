//! The token endpoints: an assertion in, a token out.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::server::Shared;
use super::user_oauth::{self, Posted};
use super::{AccountId, auth, reply};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// How far an assertion may be issued in the future: clocks differ.
const TOLERANCE: Duration = Duration::from_secs(60);

const DURATION_DEFAULT: u64 = 900;
const DURATION_MAX: u64 = 86_399;

pub(super) const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// An error, as `error_code` and message.
pub(super) struct Refused(pub(super) Cow<'static, str>, pub(super) String);

pub(super) fn refused<T>(code: impl Into<Cow<'static, str>>, message: &str) -> Result<T, Refused> {
    Err(Refused(code.into(), message.to_owned()))
}

/// In whose name the token is.
enum Named {
    App,
    Account(String),
    Enterprise(String),
}

pub(super) async fn of_app(shared: State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    answer(&shared, &headers, &body, Named::App)
}

pub(super) async fn of_account(
    shared: State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(&shared, &headers, &body, Named::Account(id))
}

pub(super) async fn of_enterprise(
    shared: State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(&shared, &headers, &body, Named::Enterprise(id))
}

fn answer(shared: &Shared, headers: &HeaderMap, body: &[u8], named: Named) -> Response {
    match exchange(shared, headers, body, named) {
        Ok(token) => reply::bare(200, &token),
        Err(refused) => refusal(shared, refused),
    }
}

/// The documents name one pair of fields for one flow and the other for another, and clients read either.
pub(super) fn refusal(shared: &Shared, Refused(code, message): Refused) -> Response {
    reply::bare(
        shared.settings().oauth_error_status,
        &json!({ "error_code": code, "error_message": message, "error": code, "error_description": message }),
    )
}

fn exchange(shared: &Shared, headers: &HeaderMap, body: &[u8], named: Named) -> Result<Value, Refused> {
    #[derive(Deserialize)]
    struct Asked {
        grant_type: String,
        #[serde(flatten)]
        posted: Posted,
    }
    if let Ok(Asked { grant_type, posted }) = serde_json::from_slice(body)
        && ["authorization_code", "refresh_token", DEVICE_GRANT].contains(&grant_type.as_str())
    {
        return user_oauth::exchange(shared, headers, &grant_type, &posted);
    }
    let duration = asked_duration(body)?;
    let Some(assertion) = auth::bearer(headers) else {
        return refused("invalid_request", "verify jwt empty error");
    };
    let account = verify(shared, assertion, named)?;
    let lifetime = shared.settings().token_lifetime.unwrap_or(Duration::from_secs(duration));
    let ends = shared.now() + lifetime;
    let token = shared.world().create_token(&account.into(), "czs_", Some(ends));
    Ok(json!({ "access_token": token, "expires_in": unix(ends).as_secs() }))
}

fn asked_duration(body: &[u8]) -> Result<u64, Refused> {
    #[derive(Deserialize)]
    struct Asked {
        grant_type: String,
        duration_seconds: Option<u64>,
    }
    let Ok(asked) = serde_json::from_slice::<Asked>(body) else {
        return refused("invalid_request", "the body is not as expected");
    };
    if asked.grant_type != GRANT_TYPE {
        return refused("unsupported_grant_type", "the grant type is not supported here");
    }
    match asked.duration_seconds.unwrap_or(DURATION_DEFAULT) {
        duration @ 1..=DURATION_MAX => Ok(duration),
        _ => refused("invalid_request", "duration_seconds is out of range"),
    }
}

/// Checks the assertion, uses it up, and says whose token is due.
fn verify(shared: &Shared, assertion: &str, named: Named) -> Result<AccountId, Refused> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
        aud: Value,
        exp: u64,
        iat: u64,
        jti: String,
    }
    let Some(key_id) = decode_header(assertion).ok().and_then(|header| header.kid) else {
        return refused("invalid_client", "invalid jwt: no kid");
    };
    let now = unix(shared.now());
    let mut world = shared.world();
    let Some(app) = world.app_of_key(&key_id) else {
        return refused("invalid_client", "invalid jwt: kid not been registred");
    };

    let mut rules = Validation::new(Algorithm::RS256);
    // Times are checked below, by the simulator's clock; the audience, as the settings say.
    (rules.validate_exp, rules.validate_aud) = (false, false);
    let key = DecodingKey::from_rsa_der(&app.public_key);
    let claims = match decode::<Claims>(assertion, &key, &rules) {
        Ok(decoded) => decoded.claims,
        Err(_) => return refused("invalid_client", "invalid jwt: signature or claims are not valid"),
    };
    if claims.iss != app.client_id {
        return refused("invalid_client", "invalid jwt: iss is not the app");
    }
    if shared.settings().audience.as_ref().is_some_and(|audience| claims.aud != **audience) {
        return refused("invalid_client", "invalid jwt: aud is not this host");
    }
    if claims.exp <= now.as_secs() {
        return refused("invalid_client", "invalid jwt: it has expired");
    }
    if claims.iat > (now + TOLERANCE).as_secs() || claims.iat >= claims.exp {
        return refused("invalid_client", "invalid jwt: iat is in the future or not before exp");
    }
    let account = match named {
        Named::App => Some(app.owner.clone()),
        Named::Account(id) => Some(app.owner.clone()).filter(|owner| owner.as_str() == id),
        Named::Enterprise(id) => app.enterprises.iter().find(|enterprise| enterprise.as_str() == id).cloned(),
    };
    let Some(account) = account else {
        return refused("access_deny", "the app has no access to this account");
    };
    if claims.jti.is_empty() || !world.use_assertion(claims.jti, claims.exp, now) {
        return refused("invalid_client", "invalid jwt: jti is missing or was used before");
    }
    Ok(account)
}

pub(super) fn unix(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
