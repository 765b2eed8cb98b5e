//! The world: accounts, tokens, apps, workspaces and what is in them, and who may use what.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::grants::{Consent, Grants};
use crate::hex::hex;

/// Chats, conversations, files and used assertions kept at the most, each; the oldest go first. A rehearsal
/// may run for days.
const KEPT: usize = 100_000;

/// An account's ID: digits for a person, a text such as `volcano_2105850001` for an enterprise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(String);

impl AccountId {
    /// The ID as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workspace's ID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkspaceId(String);

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An OAuth app of the JWT type, as its owner knows it.
#[derive(Clone)]
#[non_exhaustive]
pub struct OAuthApp {
    /// The app's ID: an assertion's `iss`.
    pub client_id: String,
    /// The public key's fingerprint: an assertion's `kid`.
    pub key_id: String,
    /// The private key: PEM, PKCS#8.
    pub private_key_pem: String,
}

impl OAuthApp {
    /// A new app, and its public key in PKCS#1 DER.
    pub(super) fn generate() -> io::Result<(Self, Vec<u8>)> {
        let failed = |_| io::Error::other("no RSA key could be made");
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
        let private: Pkcs8V1Der<'_> = key.as_der().map_err(failed)?;
        let public = key.public_key().as_ref().to_vec();
        let app = Self {
            client_id: format!("113700{:010}", u32::from_be_bytes(random())),
            key_id: hex(digest(&SHA256, &public).as_ref()),
            private_key_pem: pem("PRIVATE KEY", private.as_ref()),
        };
        Ok((app, public))
    }
}

impl fmt::Debug for OAuthApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthApp")
            .field("client_id", &self.client_id)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// Whose a token is, and what it is good for.
#[derive(Clone)]
pub(super) struct Holder {
    pub(super) account: AccountId,
    /// The one workspace that it is for; `None`: all of the account's.
    pub(super) workspace: Option<String>,
}

impl From<AccountId> for Holder {
    fn from(account: AccountId) -> Self {
        Self { account, workspace: None }
    }
}

#[derive(Clone, Copy)]
pub(super) enum AccountKind {
    Personal,
    Enterprise,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum ResourceKind {
    Bot,
    Workflow,
}

struct Token {
    holder: Holder,
    is_minted: bool,
    /// By the simulator's clock; `None`: never.
    ends: Option<SystemTime>,
}

pub(super) struct App {
    pub(super) client_id: String,
    /// PKCS#1 DER.
    pub(super) public_key: Vec<u8>,
    pub(super) owner: AccountId,
    pub(super) enterprises: BTreeSet<AccountId>,
}

/// One exchange of messages with a bot.
#[derive(Clone)]
pub(super) struct Chat {
    pub(super) conversation: String,
    pub(super) bot: String,
    pub(super) question: String,
    pub(super) is_cancelled: bool,
    /// How often it was asked for; it is completed from the second time on.
    pub(super) polls: u32,
}

#[derive(Clone)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// What was made, under IDs that grow, with the account that made it.
struct Owned<T>(BTreeMap<String, (AccountId, T)>);

impl<T> Owned<T> {
    fn insert(&mut self, id: String, owner: AccountId, value: T) {
        self.0.insert(id, (owner, value));
        if self.0.len() > KEPT {
            self.0.pop_first();
        }
    }
}

/// Why something may not be used.
#[derive(Debug, PartialEq)]
pub(super) enum Denied {
    Unknown,
    WrongAccount,
}

#[derive(Default)]
pub(super) struct World {
    next_id: u64,
    accounts: BTreeMap<AccountId, u64>,
    tokens: HashMap<String, Token>,
    /// By the public key's ID.
    apps: HashMap<String, App>,
    workspaces: BTreeMap<String, AccountId>,
    /// The workspace of a bot or workflow.
    resources: HashMap<String, (ResourceKind, String)>,
    conversations: Owned<()>,
    files: Owned<File>,
    chats: Owned<Chat>,
    /// The assertions that were used, with the time they end.
    used: BTreeMap<String, u64>,
    pub(super) grants: Grants,
}

impl<T> Default for Owned<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl World {
    /// IDs look like Coze's: 19 digits, growing.
    fn new_id(&mut self) -> String {
        self.next_id += 1;
        format!("7380000{:012}", self.next_id)
    }

    pub(super) fn create_account(&mut self, kind: AccountKind) -> AccountId {
        let id = self.new_id();
        let tail = &id[9..];
        let account = match kind {
            AccountKind::Personal => AccountId(format!("247877{tail}")),
            AccountKind::Enterprise => AccountId(format!("volcano_{tail}")),
        };
        self.accounts.insert(account.clone(), 0);
        account
    }

    /// The account of this ID.
    pub(super) fn account(&self, id: &str) -> Option<AccountId> {
        self.accounts.keys().find(|account| account.as_str() == id).cloned()
    }

    /// `ends` is by the simulator's clock, and given for minted tokens alone.
    pub(super) fn create_token(&mut self, holder: &Holder, prefix: &str, ends: Option<SystemTime>) -> String {
        let token = format!("{prefix}{}", hex(&random::<32>()));
        let is_minted = ends.is_some();
        if is_minted {
            *self.accounts.entry(holder.account.clone()).or_default() += 1;
        }
        self.tokens.insert(token.clone(), Token { holder: holder.clone(), is_minted, ends });
        token
    }

    pub(super) fn revoke_token(&mut self, token: &str) {
        self.tokens.remove(token);
    }

    pub(super) fn revoke_minted_tokens(&mut self, account: &AccountId) {
        self.tokens.retain(|_, token| !(token.is_minted && token.holder.account == *account));
    }

    pub(super) fn minted(&self, account: &AccountId) -> u64 {
        self.accounts.get(account).copied().unwrap_or(0)
    }

    /// Whose token this is, if it is a valid one.
    pub(super) fn holder_of(&self, token: &str, now: SystemTime) -> Option<Holder> {
        let token = self.tokens.get(token)?;
        token.ends.is_none_or(|ends| now < ends).then(|| token.holder.clone())
    }

    pub(super) fn add_app(&mut self, app: &OAuthApp, public_key: Vec<u8>, owner: &AccountId) {
        let client_id = app.client_id.clone();
        let registered = App { client_id, public_key, owner: owner.clone(), enterprises: BTreeSet::new() };
        self.apps.insert(app.key_id.clone(), registered);
    }

    pub(super) fn authorise_app(&mut self, client_id: &str, enterprise: &AccountId) {
        for app in self.apps.values_mut().filter(|app| app.client_id == client_id) {
            app.enterprises.insert(enterprise.clone());
        }
    }

    pub(super) fn app_of_key(&self, key_id: &str) -> Option<&App> {
        self.apps.get(key_id)
    }

    /// Marks an assertion as used; `false` if it was already. Those that have ended are forgotten.
    pub(super) fn use_assertion(&mut self, id: String, ends: u64, now: Duration) -> bool {
        if self.used.len() >= KEPT {
            self.used.retain(|_, ends| *ends > now.as_secs());
        }
        self.used.insert(id, ends).is_none()
    }

    pub(super) fn create_workspace(&mut self, owner: &AccountId) -> WorkspaceId {
        let id = self.new_id();
        self.workspaces.insert(id.clone(), owner.clone());
        WorkspaceId(id)
    }

    pub(super) fn move_workspace(&mut self, workspace: &WorkspaceId, to: &AccountId) {
        self.workspaces.insert(workspace.0.clone(), to.clone());
    }

    pub(super) fn has_workspace(&self, id: &str) -> bool {
        self.workspaces.contains_key(id)
    }

    /// Whether the account is in this workspace. `None` stands for all of its own.
    pub(super) fn is_member(&self, account: &AccountId, workspace: Option<&str>) -> bool {
        workspace.is_none_or(|id| self.workspaces.get(id) == Some(account))
    }

    /// The workspaces that the holder may see.
    pub(super) fn workspaces_of(&self, holder: &Holder) -> Vec<String> {
        let owned = self.workspaces.iter().filter(|(_, owner)| **owner == holder.account).map(|(id, _)| id);
        owned.filter(|id| holder.workspace.as_ref().is_none_or(|only| only == *id)).cloned().collect()
    }

    pub(super) fn create_in(&mut self, workspace: &WorkspaceId, kind: ResourceKind) -> String {
        let id = self.new_id();
        self.resources.insert(id.clone(), (kind, workspace.0.clone()));
        id
    }

    /// Whether the holder may use this bot or workflow.
    pub(super) fn use_resource(&self, kind: ResourceKind, id: &str, holder: &Holder) -> Result<(), Denied> {
        let found = self.resources.get(id).filter(|(known, _)| *known == kind);
        let (_, workspace) = found.ok_or(Denied::Unknown)?;
        let is_for_it = holder.workspace.as_ref().is_none_or(|only| only == workspace);
        if is_for_it && self.is_member(&holder.account, Some(workspace)) {
            Ok(())
        } else {
            Err(Denied::WrongAccount)
        }
    }

    /// A user enters a device's code. `false`: there is no such code, or it is for a workspace that is not the account's.
    pub(super) fn enter_device_code(&mut self, user_code: &str, account: &AccountId, allow: bool) -> bool {
        let Some(device) = self.grants.device_of(user_code) else { return false };
        let workspace = device.workspace.clone();
        if allow && !self.is_member(account, workspace.as_deref()) {
            return false;
        }
        let consent = if allow { Consent::Given(account.clone()) } else { Consent::Refused };
        self.grants.device_of(user_code).map(|device| device.consent = consent).is_some()
    }

    pub(super) fn create_conversation(&mut self, owner: &AccountId) -> String {
        let id = self.new_id();
        self.conversations.insert(id.clone(), owner.clone(), ());
        id
    }

    pub(super) fn use_conversation(&self, id: &str, account: &AccountId) -> Result<(), Denied> {
        owned(&self.conversations, id, account).copied()
    }

    pub(super) fn create_chat(&mut self, owner: &AccountId, chat: Chat) -> String {
        let id = self.new_id();
        self.chats.insert(id.clone(), owner.clone(), chat);
        id
    }

    /// The chat as it is now, after `change`.
    pub(super) fn chat(
        &mut self,
        id: &str,
        account: &AccountId,
        change: impl FnOnce(&mut Chat),
    ) -> Result<Chat, Denied> {
        let (owner, chat) = self.chats.0.get_mut(id).ok_or(Denied::Unknown)?;
        if owner != account {
            return Err(Denied::WrongAccount);
        }
        change(chat);
        Ok(chat.clone())
    }

    pub(super) fn create_file(&mut self, owner: &AccountId, file: File) -> String {
        let id = self.new_id();
        self.files.insert(id.clone(), owner.clone(), file);
        id
    }

    pub(super) fn file(&self, id: &str, account: &AccountId) -> Result<&File, Denied> {
        owned(&self.files, id, account)
    }
}

fn owned<'w, T>(all: &'w Owned<T>, id: &str, account: &AccountId) -> Result<&'w T, Denied> {
    let (owner, value) = all.0.get(id).ok_or(Denied::Unknown)?;
    if owner == account { Ok(value) } else { Err(Denied::WrongAccount) }
}

/// Bytes that nobody can guess. Should the system have none, zeroes: this is no place for secrets.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// [RFC 7468](https://www.rfc-editor.org/rfc/rfc7468): lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
