//! [`Settings`], [`Refusal`] and [`WebSocketRefusal`]: what can be chosen, mostly because nobody knows.

use std::time::Duration;

/// How a credential is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub(super) status: u16,
    /// `None`: the body is plain text.
    pub(super) code: Option<i64>,
}

impl Refusal {
    /// A JSON answer with this status and code, such as 200 and 4101.
    pub fn json(status: u16, code: i64) -> Self {
        Self { status, code: Some(code) }
    }

    /// An answer of this status whose body is plain text, with no code to read.
    pub fn plain(status: u16) -> Self {
        Self { status, code: None }
    }
}

/// Where a WebSocket's credential is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WebSocketRefusal {
    /// At the handshake, with this status. A client can still try another credential.
    Handshake(u16),
    /// By an event, after a handshake that is accepted. The connection then is open, and no HTTP layer sees more of it.
    Event,
}

/// What a [`Simulator`](super::Simulator) is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) wrong_account: Refusal,
    pub(super) wrong_conversation: Refusal,
    pub(super) token_lifetime: Option<Duration>,
    pub(super) device_interval: Duration,
    pub(super) audience: Option<String>,
    pub(super) oauth_error_status: u16,
    pub(super) dead_refresh_token: String,
    pub(super) websocket_refusal: WebSocketRefusal,
    pub(super) record_capacity: usize,
    pub(super) clock_offset: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            wrong_account: Refusal::json(200, 4101),
            wrong_conversation: Refusal::json(200, 4101),
            token_lifetime: None,
            device_interval: Duration::from_secs(5),
            audience: None,
            oauth_error_status: 400,
            dead_refresh_token: "invalid_grant".to_owned(),
            websocket_refusal: WebSocketRefusal::Handshake(403),
            record_capacity: 100_000,
            clock_offset: 0,
        }
    }
}

impl Settings {
    /// What a valid token of the wrong account gets for a bot or workflow. Default: 200 with 4101, as reported
    /// for missing permissions; 4200 is as likely.
    #[must_use]
    pub fn with_wrong_account(mut self, refusal: Refusal) -> Self {
        self.wrong_account = refusal;
        self
    }

    /// What a valid token gets for another account's conversation. Default: 200 with 4101; the true code is
    /// not known, and may be 4002.
    #[must_use]
    pub fn with_wrong_conversation(mut self, refusal: Refusal) -> Self {
        self.wrong_conversation = refusal;
        self
    }

    /// How long minted tokens live, whatever was asked for. Default: as asked.
    #[must_use]
    pub fn with_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = Some(lifetime);
        self
    }

    /// How often a device may ask, in whole seconds. Default: 5.
    #[must_use]
    pub fn with_device_interval(mut self, seconds: u64) -> Self {
        self.device_interval = Duration::from_secs(seconds);
        self
    }

    /// Accepts assertions with this `aud` alone. Default: any, since SDKs that are pointed at another host
    /// sign with that host's name.
    #[must_use]
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// The status of every error of the OAuth endpoints. Default: 400, as the standard and the SDKs' tests have it; Coze's
    /// own is not known.
    #[must_use]
    pub fn with_oauth_error_status(mut self, status: u16) -> Self {
        self.oauth_error_status = status;
        self
    }

    /// The error code that a refresh token gets which was used before, has ended or was revoked. Default:
    /// `invalid_grant`, as the standard has it; Coze's own is not known.
    #[must_use]
    pub fn with_dead_refresh_token(mut self, code: impl Into<String>) -> Self {
        self.dead_refresh_token = code.into();
        self
    }

    /// How a WebSocket's credential is refused. Default: at the handshake, with 403, which was seen for a missing
    /// permission. What a bad token gets is not known.
    #[must_use]
    pub fn with_websocket_refusal(mut self, refusal: WebSocketRefusal) -> Self {
        self.websocket_refusal = refusal;
        self
    }

    /// How many requests are remembered in full. Default: 100,000. Counts stay exact beyond it.
    #[must_use]
    pub fn with_record_capacity(mut self, requests: usize) -> Self {
        self.record_capacity = requests;
        self
    }

    /// Sets the simulator's clock ahead of this machine's by so many seconds (behind, if negative). Default: 0.
    #[must_use]
    pub fn with_clock_offset(mut self, seconds: i64) -> Self {
        self.clock_offset = seconds;
        self
    }
}
