//! [`Settings`] and [`Refusal`]: what can be chosen, mostly because nobody knows.

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

/// What a [`Simulator`](super::Simulator) is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) wrong_account: Refusal,
    pub(super) wrong_conversation: Refusal,
    pub(super) token_lifetime: Option<Duration>,
    pub(super) device_interval: Duration,
    pub(super) audience: Option<String>,
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
