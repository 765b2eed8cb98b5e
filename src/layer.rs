//! [`CredentialFallbackLayer`]: what the two credentials are, and when the second is tried.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::request;
use tower_layer::Layer;

use crate::classify::{Classify, StatusClassifier};
use crate::credential::Credential;
use crate::error::Error;
use crate::handle::{FallbackHandle, Live};
use crate::lane::Lanes;
use crate::observe::Observe;
use crate::origin::Origin;
use crate::policy::Policy;
use crate::preference::{LeftBehind, LeftMemory, Order, ResourceKey, SharedPreferences, Slot};
use crate::provider::{AuthProvider, CredentialFuture};
use crate::service::CredentialFallback;

/// Tries one credential; if the server refuses it, replays the same request with the other.
///
/// `P` gives the primary credential, the one that has always been used; `E` gives the fallback, the one that
/// resources are moving to. Services made by one layer, and by its clones, share what has been learnt
/// about which resource needs which.
///
/// ```
/// use http::Response;
/// use http_body_util::{Empty, Full};
/// use bytes::Bytes;
/// use tower::{ServiceBuilder, service_fn};
/// use tower_credential_fallback::{BoxError, Credential, CredentialFallbackLayer};
///
/// # fn main() -> Result<(), tower_credential_fallback::Error> {
/// let client = ServiceBuilder::new()
///     .layer(CredentialFallbackLayer::new(
///         Credential::bearer("old-token")?,
///         Credential::bearer("new-token")?,
///     )?)
///     // In place of this: a hyper client, or any other service.
///     .service(service_fn(|_request| async {
///         Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
///     }));
/// # fn assert_service<S: tower::Service<http::Request<Full<Bytes>>>>(_: S) {}
/// # assert_service(client);
/// # Ok(())
/// # }
/// ```
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CredentialFallbackLayer<P, E> {
    primary: Arc<P>,
    fallback: Arc<E>,
    fixed: Fixed,
    policy: Policy,
}

/// For each slot, its credential if there is only one: calls take it from here, each thread its own.
type Fixed = [Option<Arc<Lanes<Credential>>>; 2];

/// More than what is under way when a refusal comes back: a connection's buffers, or the usual window of an
/// HTTP/2 stream (64 KiB to 1 MiB).
const REPLAY_LIMIT: usize = 1024 * 1024;

/// Big enough for the error answers of every API we have seen, small enough to hold for each call.
const INSPECT_LIMIT: usize = 8 * 1024;

/// Long enough that a caller's retry loop does not cost twice, short enough that nobody notices after a
/// permission was granted.
const COOLDOWN: Duration = Duration::from_secs(1);

impl<P: AuthProvider, E: AuthProvider> CredentialFallbackLayer<P, E> {
    /// A layer over these two providers, with every setting at its default.
    ///
    /// Its services need a Tokio runtime with the timer enabled, if answers may be slow to come.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for `fallback`, if both providers are
    /// known to give the same secret: then there is nothing to fall back on.
    pub fn new(primary: P, fallback: E) -> Result<Self, Error> {
        let fixed = (primary.fixed(), fallback.fixed());
        if let (Some(primary), Some(fallback)) = fixed
            && primary.is_same_secret(fallback)
        {
            return Err(Error::config("fallback", "expected another credential than the primary one"));
        }
        let (ours, theirs) = (fixed.0.map(Credential::name), fixed.1.map(Credential::name));
        let other = |own, other: Option<&HeaderName>| other.filter(|_| own != other).cloned();
        let replicas = |fixed: Option<&Credential>| fixed.map(|credential| Arc::new(credential.replicas()));
        Ok(Self {
            fixed: [replicas(fixed.0), replicas(fixed.1)],
            policy: Policy {
                classifier: Arc::new(StatusClassifier::new()),
                resource: None,
                left_behind: None,
                replay_limit: REPLAY_LIMIT,
                inspect_limit: INSPECT_LIMIT,
                cooldown: COOLDOWN,
                origins: None,
                plaintext: Arc::new([]),
                others_header: [other(ours, theirs), other(theirs, ours)],
                observers: Vec::new(),
                live: Arc::new(Live::new(Order::default())),
            },
            primary: Arc::new(primary),
            fallback: Arc::new(fallback),
        })
    }
}

impl<P: AuthProvider, E: AuthProvider> CredentialFallbackLayer<P, E> {
    /// Who is told what happens; may be called more than once. Default: nobody, which costs nothing.
    ///
    /// The layer, its clones and its services keep the observer alive. Their providers do not: they tell it of their tokens
    /// for as long. Clones of one layer tell it once of a token; several layers over one provider tell each its own observer.
    pub fn with_observer(mut self, observer: impl Observe + 'static) -> Self {
        let observer: Arc<dyn Observe> = Arc::new(observer);
        self.primary.observed_by(Slot::Primary, &observer);
        self.fallback.observed_by(Slot::Fallback, &observer);
        self.policy.observers.push(observer);
        self
    }
}

impl<P, E> CredentialFallbackLayer<P, E> {
    /// A hand on the clients that this layer makes: it changes their order, and reports.
    pub fn handle(&self) -> FallbackHandle {
        FallbackHandle::new(Arc::clone(&self.policy.live))
    }

    /// What tells a refusal of the credential. Default: [`StatusClassifier::new`], 401 and 403.
    pub fn with_classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.policy.classifier = Arc::new(classifier);
        self
    }

    /// Which credential is tried first. Default: [`Order::Adaptive`].
    ///
    /// It does what [`FallbackHandle::set_order`] does: it also changes the order of this layer's clones, and of the services
    /// that any of them has made. For another order, make another layer.
    pub fn with_order(self, order: Order) -> Self {
        self.policy.live.set_order(order);
        self
    }

    /// Which credential serves which resource is learnt together with other replicas. Default: each learns by itself.
    ///
    /// It also holds for this layer's clones, for the services that any of them has made, and for their handles. What they
    /// have learnt by themselves is forgotten; what they have counted stays.
    ///
    /// A layer that shares *other* preferences already keeps those for its clones, services and handles. The layer returned
    /// begins anew: with the order as it is, with nothing counted, and with handles of its own.
    pub fn with_shared_preferences(mut self, preferences: &SharedPreferences) -> Self {
        if !self.policy.live.share(&preferences.memory) {
            let live = Live::new(self.policy.live.order());
            live.share(&preferences.memory);
            self.policy.live = Arc::new(live);
        }
        self
    }

    /// What names a request's resource, for [`Order::Adaptive`] and the report. Default: the request's origin.
    pub fn with_resource_key(mut self, key: impl ResourceKey + 'static) -> Self {
        self.policy.resource = Some(Arc::new(key));
        self
    }

    /// What requests may refer to that does not move with their resource, such as a bot's conversations: a replay
    /// does without it, if it is not its account's. Default: nothing; requests are replayed as they are.
    pub fn with_left_behind(mut self, rule: impl LeftBehind + 'static) -> Self {
        self.policy.left_behind = Some((Arc::new(rule), Arc::new(LeftMemory::new())));
        self
    }

    /// How many bytes are kept of a *streaming* request body, until its answer is accepted. Default: 1 MiB.
    ///
    /// If the refusal comes before more has been sent, the body is taken over by the second attempt: what was
    /// kept, then the rest. If it comes later, the caller gets the refusal, with
    /// [`NoReplay::BodyTooLarge`](crate::NoReplay::BodyTooLarge). With [`Order::Adaptive`], the next call with the same
    /// method, URI, headers, resource and user then begins with the other credential, once.
    /// Bodies in memory (`Full<Bytes>`, `Empty`) have no limit, since nothing more is kept of them.
    pub fn with_replay_limit(mut self, bytes: usize) -> Self {
        self.policy.replay_limit = bytes;
        self
    }

    /// How many bytes of an answer are looked at, and of a refused answer read to free its connection.
    /// Default: 8 KiB. With 0, answers are judged by status alone.
    pub fn with_inspect_limit(mut self, bytes: usize) -> Self {
        self.policy.inspect_limit = bytes;
        self
    }

    /// How long a request is not sent twice again that both credentials were rejected for. Default: 1 second; zero turns
    /// it off.
    ///
    /// It holds back the *same* request alone: method, URI, headers, user and content are equal, and so are the two
    /// credentials. Headers that name a trace or an attempt, such as `traceparent`, do not count, nor do parameters of
    /// `content-type`. Streaming bodies cannot be compared, so they are never held back. Independent callers that make equal
    /// requests cannot be told from one caller's retries.
    pub fn with_cooldown(mut self, cooldown: Duration) -> Self {
        self.policy.cooldown = cooldown;
        self
    }

    /// The origins that a credential may be sent to. A request to any other is passed on as it is, with no
    /// credential of ours. Default: every origin.
    ///
    /// A URI without scheme or host (origin form) is in none of them.
    pub fn with_origins(mut self, origins: impl IntoIterator<Item = Origin>) -> Self {
        self.policy.origins = Some(origins.into_iter().collect());
        self
    }

    pub(crate) fn shared(&self) -> Arc<Shared<P, E>> {
        Arc::new(Shared {
            primary: Arc::clone(&self.primary),
            fallback: Arc::clone(&self.fallback),
            fixed: self.fixed.clone(),
            policy: self.policy.clone(),
        })
    }

    /// Origins that a credential may be sent to over plaintext, beside loopback. Default: none.
    ///
    /// Anyone on the way can then read it. It is meant for a network that encrypts by itself, such as a
    /// service mesh.
    pub fn with_plaintext_allowed(mut self, origins: impl IntoIterator<Item = Origin>) -> Self {
        self.policy.plaintext = origins.into_iter().collect();
        self
    }
}

/// What the services of one layer have in common.
pub(crate) struct Shared<P, E> {
    primary: Arc<P>,
    fallback: Arc<E>,
    fixed: Fixed,
    pub(crate) policy: Policy,
}

impl<P, E> Shared<P, E> {
    /// The slot's credential, if there is only one.
    #[inline]
    pub(crate) fn fixed(&self, slot: Slot) -> Option<&Credential> {
        self.fixed[slot as usize].as_ref().map(|fixed| fixed.own())
    }
}

impl<P: AuthProvider, E: AuthProvider> Shared<P, E> {
    /// The slot's credential for a request with this head.
    pub(crate) fn credential(&self, slot: Slot, head: &request::Parts) -> CredentialFuture
    where
        P: 'static,
        E: 'static,
    {
        match self.fixed(slot) {
            Some(fixed) => CredentialFuture::ready(Ok(fixed.clone())),
            None => self.provider(slot).credential(head),
        }
    }

    pub(crate) fn provider(&self, slot: Slot) -> &dyn AuthProvider
    where
        P: 'static,
        E: 'static,
    {
        match slot {
            Slot::Primary => &*self.primary,
            Slot::Fallback => &*self.fallback,
        }
    }
}

impl<P: fmt::Debug, E: fmt::Debug> fmt::Debug for Shared<P, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("primary", &self.primary)
            .field("fallback", &self.fallback)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S: Clone, P, E> Layer<S> for CredentialFallbackLayer<P, E> {
    type Service = CredentialFallback<S, P, E>;

    fn layer(&self, inner: S) -> Self::Service {
        CredentialFallback::new(inner, self.shared())
    }
}

impl<P, E> Clone for CredentialFallbackLayer<P, E> {
    fn clone(&self) -> Self {
        Self {
            primary: Arc::clone(&self.primary),
            fallback: Arc::clone(&self.fallback),
            fixed: self.fixed.clone(),
            policy: self.policy.clone(),
        }
    }
}

impl<P: fmt::Debug, E: fmt::Debug> fmt::Debug for CredentialFallbackLayer<P, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialFallbackLayer")
            .field("primary", &self.primary)
            .field("fallback", &self.fallback)
            .field("policy", &self.policy)
            .finish()
    }
}
