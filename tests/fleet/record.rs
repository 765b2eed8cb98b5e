//! [`Record`]: what happened, as the store and the callers saw it. The world knows, the replicas are not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tower_credential_fallback::store::Lease;

use crate::USERS;
use crate::world::Step;

pub(crate) struct Record {
    pub(crate) calls: Vec<Call>,
    pub(crate) troubles: Vec<(usize, Felt)>,
    /// Those that are over.
    pub(crate) holdings: Vec<Holding>,
    held: BTreeMap<usize, (String, Holding)>,
    pub(crate) deletions: Vec<Deletion>,
    /// Users who have no grant, and since when.
    absent: BTreeMap<usize, Duration>,
    /// By their owners' names: whose lease it is, and when it was given back.
    pub(crate) leases: BTreeMap<String, (usize, Option<Duration>)>,
    /// When a life ended.
    pub(crate) deaths: BTreeMap<usize, Duration>,
    /// Refresh tokens that were stored at some time.
    pub(crate) stored: BTreeSet<String>,
    /// Logins that were stored.
    pub(crate) logins: Vec<(usize, Duration)>,
    /// Users who have logged in, for all that they know.
    pub(crate) welcomed: Vec<usize>,
    pub(crate) kills_in_refresh: usize,
    pub(crate) kills_at: BTreeMap<&'static str, usize>,
    pub(crate) operations_failed: usize,
    pub(crate) answers_lost: usize,
    pub(crate) connections_rejected: usize,
    digest: DefaultHasher,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

pub(crate) struct Call {
    pub(crate) life: usize,
    pub(crate) replica: usize,
    pub(crate) user: usize,
    pub(crate) span: Span,
    pub(crate) ending: Ending,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// By the API, with this user's token.
    Answered,
    ToldToAuthorize,
    /// There was no token, for this reason.
    Failed(String),
    /// The API rejected the token, for this reason.
    Rejected(&'static str),
}

/// What a call of this user may fail for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The user has no grant.
    Absent,
    /// The store did not answer.
    StoreFailed,
    /// The store took its time.
    StoreSlow,
    /// The identity server rejected a connection.
    Unconnected,
    /// Somebody held the lease for longer than a refresh takes.
    Held,
}

#[derive(Clone, Copy)]
pub(crate) struct Felt {
    pub(crate) trouble: Trouble,
    /// Where; `None`: everywhere.
    pub(crate) life: Option<usize>,
    pub(crate) span: Span,
}

/// A lease, from its start until it was given back or ran out.
pub(crate) struct Holding {
    pub(crate) user: usize,
    pub(crate) life: usize,
    pub(crate) span: Span,
}

/// A grant that was given up.
pub(crate) struct Deletion {
    pub(crate) user: usize,
    pub(crate) at: Duration,
    pub(crate) token: String,
    /// The lease whose mark it bore.
    pub(crate) marked_by: Option<String>,
}

impl Span {
    pub(crate) fn meets(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }

    pub(crate) fn length(self) -> Duration {
        self.to - self.from
    }
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            calls: Vec::new(),
            troubles: Vec::new(),
            holdings: Vec::new(),
            held: BTreeMap::new(),
            deletions: Vec::new(),
            absent: (0..USERS).map(|user| (user, Duration::ZERO)).collect(),
            leases: BTreeMap::new(),
            deaths: BTreeMap::new(),
            stored: BTreeSet::new(),
            logins: Vec::new(),
            welcomed: Vec::new(),
            kills_in_refresh: 0,
            kills_at: BTreeMap::new(),
            operations_failed: 0,
            answers_lost: 0,
            connections_rejected: 0,
            digest: DefaultHasher::new(),
        }
    }

    /// Into the digest, by which two runs are compared event by event.
    pub(crate) fn note(&mut self, event: &impl Hash) {
        event.hash(&mut self.digest);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub(crate) fn trouble(
        &mut self,
        user: usize,
        life: Option<usize>,
        trouble: Trouble,
        from: Duration,
        to: Duration,
    ) {
        self.troubles.push((user, Felt { trouble, life, span: Span { from, to } }));
    }

    pub(crate) fn is_absent(&self, user: usize) -> bool {
        self.absent.contains_key(&user)
    }

    /// A grant was stored that is not marked.
    pub(crate) fn saved(&mut self, user: usize, token: &str, is_login: bool, now: Duration) {
        if self.stored.insert(token.to_owned()) && is_login {
            self.logins.push((user, now));
        }
        if let Some(since) = self.absent.remove(&user) {
            self.trouble(user, None, Trouble::Absent, since, now);
        }
        self.note(&("saved", user, now));
    }

    pub(crate) fn deleted(&mut self, deletion: Deletion) {
        self.note(&("deleted", deletion.user, deletion.at));
        self.absent.insert(deletion.user, deletion.at);
        self.deletions.push(deletion);
    }

    pub(crate) fn leased(
        &mut self,
        user: usize,
        lease: &Lease,
        life: usize,
        from: Duration,
        until: Duration,
    ) {
        self.note(&("leased", user, life, from));
        self.leases.insert(lease.owner().to_owned(), (life, None));
        let holding = Holding { user, life, span: Span { from, to: until } };
        // The one before ran out.
        let before = self.held.insert(user, (lease.owner().to_owned(), holding));
        self.holdings.extend(before.map(|(_, holding)| holding));
    }

    pub(crate) fn released(&mut self, user: usize, lease: &Lease, now: Duration) {
        if let Some((_, given_back)) = self.leases.get_mut(lease.owner()) {
            given_back.get_or_insert(now);
        }
        if self.held.get(&user).is_some_and(|(owner, _)| owner == lease.owner()) {
            let (_, mut holding) = self.held.remove(&user).expect("seen above");
            holding.span.to = holding.span.to.min(now);
            self.holdings.push(holding);
        }
    }

    pub(crate) fn killed(&mut self, life: usize, at: Option<Step>, now: Duration) {
        self.note(&("killed", life, now));
        self.deaths.insert(life, now);
        let is_held = |(_, holding): &&(String, Holding)| holding.life == life && holding.span.to > now;
        self.kills_in_refresh += usize::from(self.held.values().any(|held| is_held(&held)));
        let at = match at {
            Some(Step::Lease) => "replicas killed that asked for a lease",
            Some(Step::Mark) => "replicas killed that stored a mark",
            Some(Step::Exchange) => "replicas killed that sent a refresh token",
            Some(Step::Save) => "replicas killed that saved a new grant",
            Some(Step::Delete) => "replicas killed that deleted a grant",
            _ => "replicas killed at any time",
        };
        *self.kills_at.entry(at).or_default() += 1;
    }

    /// What is still open ends now.
    pub(crate) fn close(&mut self, now: Duration) {
        for (user, since) in std::mem::take(&mut self.absent) {
            self.trouble(user, None, Trouble::Absent, since, now);
        }
        self.holdings.extend(std::mem::take(&mut self.held).into_values().map(|(_, holding)| holding));
    }
}

/// Keys end in the user's name.
pub(crate) fn user_of(key: &str) -> usize {
    key.rsplit_once("user-").unwrap().1.parse().unwrap()
}
