//! A Coze of your own, on loopback: to rehearse a migration before it happens, and to test against.
//!
//! It has accounts, tokens, OAuth apps, workspaces, bots, conversations and files, with Coze's rules of who may
//! use what, and Coze's answers when somebody may not. [`Simulator::move_workspace`] moves a workspace while
//! traffic flows; [`Simulator::inject`] makes things go wrong; [`Simulator::requests`] tells what arrived.
//!
//! ```
//! use tower_credential_fallback::coze::simulator::Simulator;
//! use tower_credential_fallback::coze::{self, Region};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let coze = Simulator::start().await?;
//! let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
//! let workspace = coze.create_workspace(&person);
//! let bot = coze.create_bot(&workspace);
//!
//! let region = Region::custom(coze.base_url())?;
//! let layer = coze::tokens(&region, coze.create_token(&person), coze.create_token(&enterprise))?;
//! // … send requests for `bot` through a client with that layer …
//! coze.move_workspace(&workspace, &enterprise);
//! // … and they go on being answered.
//! # let _ = (layer, bot);
//! # Ok(())
//! # }
//! ```
//!
//! # Who may use what
//!
//! - A bot or a workflow may be used by the account that its workspace belongs to, and by no other.
//! - A conversation or a file may be used by the account that made it, for ever: it does not move.
//! - An OAuth app gets tokens for its own account, and for an enterprise once [authorised](Simulator::authorise_app)
//!   there.
//! - An app that acts for users sends them back to [registered](Simulator::register_redirect_uri) URIs alone; without a
//!   secret, it has to use PKCE. What it is granted for one workspace is good for the bots and workflows in that.
//!
//! # What is uncertain
//!
//! Nothing here was measured against the live service. Statuses and codes are as publicly reported. Where reports differ or
//! are missing, you choose:
//!
//! | what is not known | chosen with | default |
//! | --- | --- | --- |
//! | what a bot or workflow that has moved answers | [`Settings::with_wrong_account`] | 200 with 4101 |
//! | what another account's conversation or chat answers | [`Settings::with_wrong_conversation`] | 200 with 4101 |
//! | either, or a token that is not valid, from now on | [`Simulator::set_refusal`] | as seen at each endpoint |
//! | the status of OAuth errors | [`Settings::with_oauth_error_status`] | 400 |
//! | the code for a refresh token that is dead | [`Settings::with_dead_refresh_token`] | `invalid_grant` |
//! | whether an assertion's `aud` is checked | [`Settings::with_audience`] | it is not |
//! | where a WebSocket's credential is refused | [`Settings::with_websocket_refusal`] | at the handshake, with 403 |
//!
//! Not known either, and not to be chosen: the body of a 429; whether a bad token or an unknown bot is noticed first (here:
//! the token); what a grant for one workspace may do with conversations and files (here: whatever its account may).
//!
//! Of the WebSocket endpoints there is `/v1/chat`, with the token in the header, up to its first event; of the audio
//! endpoints there is none. Redirect URIs are compared as text.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::task::JoinHandle;

mod auth;
mod chat;
mod faults;
mod grants;
mod record;
mod reply;
mod resources;
mod server;
mod settings;
mod token;
mod upload;
mod user_oauth;
mod websocket;
mod world;

pub use faults::Fault;
pub use grants::UserApp;
pub use record::Recorded;
pub use settings::{Refusal, Settings, WebSocketRefusal};
pub use world::{AccountId, OAuthApp, WorkspaceId};

use server::Shared;

/// A running Coze. It stops, with all its connections, when it is dropped.
pub struct Simulator {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Simulator {
    /// Starts one on a free port of 127.0.0.1, with the default [`Settings`]. It speaks HTTP/1.1 and HTTP/2
    /// (with prior knowledge).
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(Settings::default()).await
    }

    /// Starts one with these settings.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start_with(settings: Settings) -> io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let base_url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared::new(base_url, settings));
        let task = tokio::spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub fn base_url(&self) -> &str {
        self.shared.base_url()
    }

    /// A new personal account.
    pub fn create_account(&self) -> AccountId {
        self.shared.world().create_account(world::AccountKind::Personal)
    }

    /// A new enterprise.
    pub fn create_enterprise(&self) -> AccountId {
        self.shared.world().create_account(world::AccountKind::Enterprise)
    }

    /// A new personal access token of this account.
    pub fn create_token(&self, account: &AccountId) -> String {
        self.shared.world().create_token(&account.clone().into(), "pat_", None)
    }

    /// Makes a token, of whatever kind, worth nothing from now on.
    pub fn revoke_token(&self, token: &str) {
        self.shared.world().revoke_token(token);
    }

    /// Makes all tokens that OAuth apps got for this account worth nothing from now on.
    pub fn revoke_minted_tokens(&self, account: &AccountId) {
        self.shared.world().revoke_minted_tokens(account);
    }

    /// A new OAuth app of this account, with a new RSA key of 2048 bits.
    ///
    /// # Errors
    ///
    /// If no key can be made.
    pub fn create_oauth_app(&self, owner: &AccountId) -> io::Result<OAuthApp> {
        // Made before the world is locked: it takes a while.
        let (app, public_key) = OAuthApp::generate()?;
        self.shared.world().add_app(&app, public_key, owner);
        Ok(app)
    }

    /// An administrator of the enterprise authorises the app: from now on it gets tokens for the enterprise.
    pub fn authorise_app(&self, app: &OAuthApp, enterprise: &AccountId) {
        self.shared.world().authorise_app(&app.client_id, enterprise);
    }

    /// A new app that acts for users, with a secret: it authorises them in a browser, once it has a
    /// [redirect URI](Self::register_redirect_uri).
    pub fn create_web_app(&self) -> UserApp {
        self.shared.world().grants.create_app(true)
    }

    /// A new app that acts for users and cannot keep a secret: it uses PKCE, or device codes.
    pub fn create_public_app(&self) -> UserApp {
        self.shared.world().grants.create_app(false)
    }

    /// From now on, the app may send users back to this URI.
    pub fn register_redirect_uri(&self, app: &UserApp, uri: impl Into<String>) {
        self.shared.world().grants.register_redirect_uri(&app.client_id, uri.into());
    }

    /// A user of this account enters a device's code, and allows the device or not: as at the page that the device names.
    /// `false`: there is no such code, or it is for a workspace that is not the account's.
    pub fn enter_device_code(&self, user_code: &str, account: &AccountId, allow: bool) -> bool {
        self.shared.world().enter_device_code(user_code, account, allow)
    }

    /// Makes all refresh tokens of this account worth nothing from now on.
    pub fn revoke_refresh_tokens(&self, account: &AccountId) {
        self.shared.world().grants.revoke(account);
    }

    /// How many refresh tokens of this account were redeemed.
    pub fn refreshes(&self, account: &AccountId) -> u64 {
        self.shared.world().grants.refreshes(account)
    }

    /// Whether this is a refresh token that was redeemed.
    pub fn is_spent(&self, refresh_token: &str) -> bool {
        self.shared.world().grants.is_spent(refresh_token)
    }

    /// How often a refresh token came that had been redeemed before.
    pub fn refresh_tokens_seen_again(&self) -> u64 {
        self.shared.world().grants.spent_again
    }

    /// A new workspace of this account.
    pub fn create_workspace(&self, owner: &AccountId) -> WorkspaceId {
        self.shared.world().create_workspace(owner)
    }

    /// Moves a workspace, with its bots and workflows, to another account. It takes effect between two
    /// requests, and may be undone in the same way.
    pub fn move_workspace(&self, workspace: &WorkspaceId, to: &AccountId) {
        self.shared.world().move_workspace(workspace, to);
    }

    /// The ID of a new bot in this workspace.
    pub fn create_bot(&self, workspace: &WorkspaceId) -> String {
        self.shared.world().create_in(workspace, world::ResourceKind::Bot)
    }

    /// The ID of a new workflow in this workspace.
    pub fn create_workflow(&self, workspace: &WorkspaceId) -> String {
        self.shared.world().create_in(workspace, world::ResourceKind::Workflow)
    }

    /// Answers every refusal of a credential in this way from now on; `None`: as the settings say.
    pub fn set_refusal(&self, refusal: Option<Refusal>) {
        self.shared.set_refusal(refusal);
    }

    /// Makes something go wrong from now on. Several faults add up.
    pub fn inject(&self, fault: Fault) {
        self.shared.faults().push(fault);
    }

    /// Lets everything go right again.
    pub fn clear_faults(&self) {
        self.shared.faults().clear();
    }

    /// The last requests that were answered, up to [`Settings::with_record_capacity`], oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.record().list()
    }

    /// How many requests have been answered, those to the token endpoints included.
    pub fn request_count(&self) -> u64 {
        self.shared.record().count()
    }

    /// How many connections have been accepted.
    pub fn connection_count(&self) -> u64 {
        self.shared.connection_count()
    }

    /// How many tokens OAuth apps have got for this account.
    pub fn minted(&self, account: &AccountId) -> u64 {
        self.shared.world().minted(account)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // The connections' tasks are owned by this one, but for those that became WebSockets.
        self.task.abort();
        self.shared.close_sockets();
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("base_url", &self.base_url()).finish_non_exhaustive()
    }
}
