//! [`Outcome`]: what the layer did for an answer, read off the answer.

use std::fmt;

use http::{Extensions, Response};

use crate::body::CannotRewind;
use crate::classify::Rejection;
use crate::preference::Slot;
use crate::provider::CredentialError;

/// What happened on the way to an answer.
///
/// If nothing is stored, the primary was accepted at once: the most frequent case costs nothing. Ask only answers that
/// came through the layer.
///
/// ```
/// # use http::Response;
/// use tower_credential_fallback::{Outcome, Slot};
///
/// # let response = Response::new(());
/// let outcome = Outcome::of(&response);
/// // Not `answered_by`: the fallback's answer may be a 404 or a 503, which says nothing of the resource.
/// if outcome.served_by() == Some(Slot::Fallback) {
///     println!("this resource has moved: {outcome}");
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Outcome {
    attempts: [Option<Attempt>; 2],
    unavailable: Option<(Slot, CredentialError)>,
    no_replay: Option<NoReplay>,
    has_started_afresh: bool,
}

/// One request that was sent, and the verdict on its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The slot of its credential.
    pub slot: Slot,
    /// What its answer says of that credential.
    pub verdict: Verdict,
}

impl Attempt {
    /// Why its credential was rejected; `None` if it was not.
    pub fn rejection(&self) -> Option<Rejection> {
        match self.verdict {
            Verdict::Rejected(rejection) => Some(rejection),
            Verdict::Accepted | Verdict::Inconclusive => None,
        }
    }
}

/// What an answer says of the credential that its request carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The credential served the request.
    Accepted,
    /// Nothing: an overload, a failure of the server, a rate limit, a bad request, a redirect. The answer is passed on, and
    /// nothing is learnt from it.
    Inconclusive,
    /// The server rejected the credential.
    Rejected(Rejection),
}

impl Verdict {
    /// A short name, the same for ever: fit for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Inconclusive => "inconclusive",
            Self::Rejected(_) => "refused",
        }
    }
}

/// Why a refused request was not sent again with the other credential.
#[derive(Clone)]
#[non_exhaustive]
pub enum NoReplay {
    /// The request's body is a stream of which more had been sent than
    /// [`with_replay_limit`](crate::CredentialFallbackLayer::with_replay_limit) keeps.
    BodyTooLarge,
    /// The request's body failed while it was sent, or had a frame that cannot be kept.
    BodyFailed,
    /// The other provider had no credential.
    ProviderUnavailable(CredentialError),
    /// The other credential needs the user's consent first.
    InteractionRequired {
        /// Where the user gives it.
        authorize_url: String,
    },
    /// The request's origin is not one that credentials may be sent to; it went out without any.
    OutOfScope,
    /// The refusal came from another origin, where a redirect inside had led. The other credential is
    /// not shown to it.
    Redirected,
    /// Both slots hold the same secret.
    SameCredential,
    /// Both credentials were rejected for the same request a moment ago.
    CoolingDown,
    /// The order, or the request's own [`CredentialChoice`](crate::CredentialChoice), allows only one.
    OnlyOne,
    /// The inner service failed when it was asked to get ready for the second attempt. (If it was not ready at first
    /// and the refusal had not been read whole, its error is returned in place of that.)
    InnerNotReady,
}

impl NoReplay {
    /// Every [`as_str`](Self::as_str).
    pub(crate) const NAMES: [&'static str; 10] = [
        "body_too_large",
        "body_failed",
        "provider_unavailable",
        "interaction_required",
        "out_of_scope",
        "redirected",
        "same_credential",
        "cooling_down",
        "only_one",
        "inner_not_ready",
    ];

    /// A short name, the same for ever: fit for a metric's label.
    pub fn as_str(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// The place of its name in [`NAMES`](Self::NAMES).
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::BodyTooLarge => 0,
            Self::BodyFailed => 1,
            Self::ProviderUnavailable(_) => 2,
            Self::InteractionRequired { .. } => 3,
            Self::OutOfScope => 4,
            Self::Redirected => 5,
            Self::SameCredential => 6,
            Self::CoolingDown => 7,
            Self::OnlyOne => 8,
            Self::InnerNotReady => 9,
        }
    }
}

impl fmt::Debug for NoReplay {
    /// Without the URL: its `state` is the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProviderUnavailable(error) => f.debug_tuple("ProviderUnavailable").field(error).finish(),
            other => f.write_str(other.as_str()),
        }
    }
}

impl From<CredentialError> for NoReplay {
    fn from(error: CredentialError) -> Self {
        match error.authorize_url() {
            Some(url) => Self::InteractionRequired { authorize_url: url.to_owned() },
            None => Self::ProviderUnavailable(error),
        }
    }
}

impl From<CannotRewind> for NoReplay {
    fn from(cause: CannotRewind) -> Self {
        match cause {
            CannotRewind::TooLarge => Self::BodyTooLarge,
            _ => Self::BodyFailed,
        }
    }
}

/// Says "the fallback was tried first and accepted" without a byte on the heap.
#[derive(Clone, Copy)]
struct AcceptedFallback;

impl Outcome {
    /// What happened on the way to `response`.
    pub fn of<B>(response: &Response<B>) -> &Self {
        Self::of_extensions(response.extensions())
    }

    /// The same for a response of another type, such as reqwest's, that has these extensions.
    pub fn of_extensions(extensions: &Extensions) -> &Self {
        match extensions.get::<Self>() {
            Some(outcome) => outcome,
            None if extensions.get::<AcceptedFallback>().is_some() => Self::at_once(Slot::Fallback),
            None => Self::at_once(Slot::Primary),
        }
    }

    fn at_once(slot: Slot) -> &'static Self {
        static PRIMARY: Outcome = Outcome::accepted(Slot::Primary);
        static FALLBACK: Outcome = Outcome::accepted(Slot::Fallback);

        match slot {
            Slot::Primary => &PRIMARY,
            Slot::Fallback => &FALLBACK,
        }
    }

    /// The slot whose credential served the request; `None` if this answer is a rejection, or says nothing of the
    /// credential.
    pub fn served_by(&self) -> Option<Slot> {
        self.attempts()
            .last()
            .filter(|attempt| attempt.verdict == Verdict::Accepted)
            .map(|attempt| attempt.slot)
    }

    /// The slot of the credential that this is the answer to, accepted or not; `None` if the request carried none.
    ///
    /// Whether that credential *served* the request, [`served_by`](Self::served_by) tells.
    pub fn answered_by(&self) -> Option<Slot> {
        self.attempts().last().map(|attempt| attempt.slot)
    }

    /// The requests that were sent, in order: one or two; none if it went out without a credential.
    pub fn attempts(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.attempts.iter().flatten()
    }

    /// Whether this answer is still a refusal.
    pub fn is_refused(&self) -> bool {
        self.attempts().last().is_some_and(|attempt| attempt.rejection().is_some())
    }

    /// Why a refused request was not sent again, if it was not.
    pub fn no_replay(&self) -> Option<&NoReplay> {
        self.no_replay.as_ref()
    }

    /// The slot whose turn it was first, and why its provider had no credential, if it had none.
    pub fn unavailable(&self) -> Option<(Slot, &CredentialError)> {
        self.unavailable.as_ref().map(|(slot, error)| (*slot, error))
    }

    /// Whether the last attempt was sent without something that the request refers to, since that is not its
    /// account's: see [`LeftBehind`](crate::LeftBehind). At Coze: the answer names a fresh conversation.
    pub fn started_afresh(&self) -> bool {
        self.has_started_afresh
    }

    const fn new() -> Self {
        Self { attempts: [None, None], unavailable: None, no_replay: None, has_started_afresh: false }
    }

    const fn accepted(slot: Slot) -> Self {
        let attempts = [Some(Attempt { slot, verdict: Verdict::Accepted }), None];
        Self { attempts, unavailable: None, no_replay: None, has_started_afresh: false }
    }

    fn record(&mut self, slot: Slot, verdict: Verdict) {
        if let Some(free) = self.attempts.iter_mut().find(|attempt| attempt.is_none()) {
            *free = Some(Attempt { slot, verdict });
        }
    }

    pub(crate) fn record_no_replay(&mut self, reason: NoReplay) {
        self.no_replay = Some(reason);
    }

    pub(crate) fn record_started_afresh(&mut self) {
        self.has_started_afresh = true;
    }

    pub(crate) fn record_unavailable(&mut self, slot: Slot, error: CredentialError) {
        self.unavailable = Some((slot, error));
    }

    /// Stores it where [`of`](Self::of) finds it.
    fn store(self, extensions: &mut Extensions) {
        let has_inner =
            || extensions.get::<Self>().is_some() || extensions.get::<AcceptedFallback>().is_some();
        if self.attempts().next().is_none() && has_inner() {
            // This layer had no part in it, and one inside of it did.
            return;
        }
        Self::forget(extensions);
        extensions.insert(self);
    }

    /// Takes out what a layer inside of this one has said.
    fn forget(extensions: &mut Extensions) {
        if !extensions.is_empty() {
            extensions.remove::<Self>();
            extensions.remove::<AcceptedFallback>();
        }
    }
}

/// The outcome of a call that goes on. Most calls never come to have one of their own.
#[derive(Default)]
pub(crate) enum SoFar {
    #[default]
    Nothing,
    /// The first attempt was accepted.
    AtOnce(Slot),
    More(Box<Outcome>),
}

impl SoFar {
    #[inline]
    pub(crate) fn record(&mut self, slot: Slot, verdict: Verdict) {
        match self {
            Self::Nothing if verdict == Verdict::Accepted => *self = Self::AtOnce(slot),
            _ => self.edit().record(slot, verdict),
        }
    }

    /// Whether all that has happened is that the first attempt was accepted.
    #[inline]
    pub(crate) fn is_at_once(&self) -> bool {
        matches!(self, Self::AtOnce(_))
    }

    pub(crate) fn read(&self) -> &Outcome {
        static NOTHING: Outcome = Outcome::new();

        match self {
            Self::Nothing => &NOTHING,
            Self::AtOnce(slot) => Outcome::at_once(*slot),
            Self::More(outcome) => outcome,
        }
    }

    #[cold]
    pub(crate) fn edit(&mut self) -> &mut Outcome {
        if !matches!(self, Self::More(_)) {
            *self = Self::More(Box::new(self.read().clone()));
        }
        match self {
            Self::More(outcome) => outcome,
            Self::Nothing | Self::AtOnce(_) => unreachable!("it was made to be more"),
        }
    }

    /// Stores it where [`Outcome::of`] finds it; the plainest is told by absence.
    #[inline]
    pub(crate) fn store(self, extensions: &mut Extensions) {
        match self {
            Self::AtOnce(slot) => {
                Outcome::forget(extensions);
                if slot == Slot::Fallback {
                    extensions.insert(AcceptedFallback);
                }
            }
            Self::Nothing => {}
            Self::More(outcome) => outcome.store(extensions),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((slot, error)) = &self.unavailable {
            write!(f, "{slot} unavailable ({error}); ")?;
        }
        if self.attempts().next().is_none() {
            f.write_str("sent without a credential")?;
        }
        for (nth, attempt) in self.attempts().enumerate() {
            let separator = if nth == 0 { "" } else { ", then " };
            write!(f, "{separator}{} {}", attempt.slot, attempt.verdict.as_str())?;
            if let Some(rejection) = attempt.rejection() {
                write!(f, ": {rejection}")?;
            }
        }
        if self.has_started_afresh {
            f.write_str(", afresh")?;
        }
        match &self.no_replay {
            Some(reason) => write!(f, "; not replayed: {}", reason.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::classify::RejectionKind;

    #[test]
    fn a_plain_success_stores_nothing_and_reads_as_the_primary() {
        let mut response = Response::new(());
        let mut outcome = SoFar::default();
        outcome.record(Slot::Primary, Verdict::Accepted);
        outcome.store(response.extensions_mut());
        assert!(response.extensions().is_empty());
        assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Primary));
        assert!(!Outcome::of(&response).is_refused());
    }

    #[test]
    fn an_outcome_reads_as_a_sentence() {
        let mut outcome = SoFar::default();
        let rejection = Rejection::new(RejectionKind::Forbidden, StatusCode::OK).with_code(4101);
        outcome.record(Slot::Primary, Verdict::Rejected(rejection));
        outcome.record(Slot::Fallback, Verdict::Accepted);
        assert_eq!(
            outcome.read().to_string(),
            "primary refused: forbidden (HTTP 200, code 4101), then fallback accepted"
        );
        let mut response = Response::new(());
        outcome.store(response.extensions_mut());
        assert_eq!(Outcome::of(&response).served_by(), Some(Slot::Fallback));
        assert_eq!(Outcome::of(&response).attempts().count(), 2);
    }

    #[test]
    fn an_inconclusive_answer_was_served_by_nobody() {
        let mut outcome = SoFar::default();
        outcome.record(Slot::Fallback, Verdict::Inconclusive);
        let mut response = Response::new(());
        outcome.store(response.extensions_mut());
        let outcome = Outcome::of(&response);
        assert_eq!((outcome.answered_by(), outcome.served_by()), (Some(Slot::Fallback), None));
        assert!(!outcome.is_refused());
        assert_eq!(outcome.to_string(), "fallback inconclusive");
    }
}
