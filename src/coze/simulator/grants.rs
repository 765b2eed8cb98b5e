//! [`Grants`]: what users have granted to apps: pending consents, codes, refresh tokens, devices.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime};

use super::AccountId;
use super::world::{Holder, random};
use crate::hex::hex;

/// An app that acts for users, as its owner knows it.
#[derive(Clone)]
#[non_exhaustive]
pub struct UserApp {
    /// The app's ID.
    pub client_id: String,
    /// Its secret; an app that cannot keep one (PKCE, device) has none.
    pub client_secret: Option<String>,
}

impl fmt::Debug for UserApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserApp").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// How long a code may wait to be exchanged, and a user to consent.
const CODE_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// As documented: 30 days.
const REFRESH_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// What an app has asked a user for.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) state: String,
    pub(super) challenge: Option<Challenge>,
    /// The one workspace that it is about; `None`: all.
    pub(super) workspace: Option<String>,
}

/// Of PKCE.
#[derive(Clone)]
pub(super) enum Challenge {
    Plain(String),
    S256(String),
}

/// An app, and where its users may be sent back to.
struct Registered {
    app: UserApp,
    redirect_uris: BTreeSet<String>,
}

pub(super) struct Refresh {
    client_id: String,
    holder: Holder,
    ends: SystemTime,
    is_spent: bool,
}

/// What came of a device's request so far.
#[derive(Clone, PartialEq)]
pub(super) enum Consent {
    Waiting,
    Given(AccountId),
    Refused,
}

pub(super) struct Device {
    pub(super) client_id: String,
    pub(super) user_code: String,
    pub(super) workspace: Option<String>,
    pub(super) ends: SystemTime,
    pub(super) interval: Duration,
    pub(super) asked_last: Option<SystemTime>,
    pub(super) consent: Consent,
}

#[derive(Default)]
pub(super) struct Grants {
    apps: HashMap<String, Registered>,
    consents: HashMap<String, (Asked, SystemTime)>,
    codes: HashMap<String, (Asked, AccountId, SystemTime)>,
    refresh_tokens: HashMap<String, Refresh>,
    pub(super) devices: HashMap<String, Device>,
    refreshes: HashMap<AccountId, u64>,
    pub(super) spent_again: u64,
}

impl Grants {
    pub(super) fn create_app(&mut self, has_secret: bool) -> UserApp {
        let client_id = format!("{:020}.app.coze", u32::from_be_bytes(random()));
        let client_secret = has_secret.then(|| hex(&random::<24>()));
        let app = UserApp { client_id: client_id.clone(), client_secret };
        self.apps.insert(client_id, Registered { app: app.clone(), redirect_uris: BTreeSet::new() });
        app
    }

    pub(super) fn register_redirect_uri(&mut self, client_id: &str, uri: String) {
        if let Some(registered) = self.apps.get_mut(client_id) {
            registered.redirect_uris.insert(uri);
        }
    }

    /// Compared as text, every character of it ([RFC 9700, 2.1](https://www.rfc-editor.org/rfc/rfc9700#section-2.1)).
    pub(super) fn may_redirect(&self, client_id: &str, uri: &str) -> bool {
        self.apps.get(client_id).is_some_and(|registered| registered.redirect_uris.contains(uri))
    }

    pub(super) fn app(&self, client_id: &str) -> Option<&UserApp> {
        self.apps.get(client_id).map(|registered| &registered.app)
    }

    pub(super) fn ask(&mut self, asked: Asked, now: SystemTime) -> String {
        let key = hex(&random::<16>());
        self.consents.insert(key.clone(), (asked, now + CODE_LIFETIME));
        key
    }

    pub(super) fn is_asked(&self, key: &str, now: SystemTime) -> bool {
        self.consents.get(key).is_some_and(|(_, ends)| now < *ends)
    }

    pub(super) fn take_asked(&mut self, key: &str, now: SystemTime) -> Option<Asked> {
        self.consents.remove(key).filter(|(_, ends)| now < *ends).map(|(asked, _)| asked)
    }

    pub(super) fn create_code(&mut self, asked: Asked, account: AccountId, now: SystemTime) -> String {
        let code = format!("code_{}", hex(&random::<24>()));
        self.codes.insert(code.clone(), (asked, account, now + CODE_LIFETIME));
        code
    }

    /// A code is good once.
    pub(super) fn take_code(&mut self, code: &str, now: SystemTime) -> Option<(Asked, AccountId)> {
        let (asked, account, ends) = self.codes.remove(code)?;
        (now < ends).then_some((asked, account))
    }

    pub(super) fn create_refresh_token(
        &mut self,
        client_id: &str,
        holder: &Holder,
        now: SystemTime,
    ) -> String {
        let token = hex(&random::<32>());
        let refresh = Refresh {
            client_id: client_id.to_owned(),
            holder: holder.clone(),
            ends: now + REFRESH_LIFETIME,
            is_spent: false,
        };
        self.refresh_tokens.insert(token.clone(), refresh);
        token
    }

    /// Spends the token, and says whose it was.
    pub(super) fn spend(&mut self, token: &str, client_id: &str, now: SystemTime) -> Option<Holder> {
        let known = self.refresh_tokens.get_mut(token)?;
        if known.is_spent {
            self.spent_again += 1;
        }
        if known.is_spent || known.client_id != client_id || now >= known.ends {
            return None;
        }
        known.is_spent = true;
        *self.refreshes.entry(known.holder.account.clone()).or_default() += 1;
        Some(known.holder.clone())
    }

    /// Whether this is a refresh token that was used.
    pub(super) fn is_spent(&self, token: &str) -> bool {
        self.refresh_tokens.get(token).is_some_and(|known| known.is_spent)
    }

    /// The device that shows this code.
    pub(super) fn device_of(&mut self, user_code: &str) -> Option<&mut Device> {
        self.devices.values_mut().find(|device| device.user_code == user_code)
    }

    pub(super) fn revoke(&mut self, account: &AccountId) {
        self.refresh_tokens.retain(|_, token| token.holder.account != *account);
    }

    pub(super) fn refreshes(&self, account: &AccountId) -> u64 {
        self.refreshes.get(account).copied().unwrap_or(0)
    }
}
