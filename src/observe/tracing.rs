//! [`Traces`]: the facts as spans and events of the `tracing` crate.

use ::tracing::field::Empty;
use ::tracing::{Span, debug, info, info_span, warn};
use http::{Method, Uri};

use super::{CallEvent, Ending, Observe, ObserveCall, TokenEvent};
use crate::outcome::Verdict;
use crate::preference::Slot;

/// A span `credential_fallback` for each call, with an event in it for each fact.
///
/// The inner service runs within the span, so its own spans are children of it. Names follow OpenTelemetry's
/// [semantic conventions for HTTP](https://opentelemetry.io/docs/specs/semconv/http/http-spans/); what these
/// do not know begins with `credential.`. Path, query and headers are left out.
///
/// | field of the span | holds |
/// | --- | --- |
/// | `http.request.method` | the method |
/// | `url.scheme`, `server.address`, `server.port` | where the request goes; the port if the URI names it |
/// | `http.request.resend_count` | 1 after a replay |
/// | `http.response.status_code` | the last answer's status |
/// | `credential.slot` | the last attempt's slot |
/// | `credential.ending` | how the call ended |
/// | `error.type` | `refused`, `failed` or `abandoned`, if it ended so |
///
/// Levels: attempts and new tokens are `DEBUG`; refusals, and what is done about them, are `INFO`; what
/// somebody should look at (no replay, no credential, a mint that failed) is `WARN`.
///
/// ```
/// use tower_credential_fallback::observe::Traces;
/// # use tower_credential_fallback::{Credential, CredentialFallbackLayer};
///
/// # fn main() -> Result<(), tower_credential_fallback::Error> {
/// # let (old, new) = (Credential::bearer("old")?, Credential::bearer("new")?);
/// let layer = CredentialFallbackLayer::new(old, new)?.with_observer(Traces::new());
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Traces;

impl Traces {
    /// The observer. It has no settings: filter by level, or by the target `tower_credential_fallback`.
    pub fn new() -> Self {
        Self
    }
}

impl Observe for Traces {
    fn call(&self, method: &Method, uri: &Uri) -> Box<dyn ObserveCall> {
        let span = info_span!(
            "credential_fallback",
            "http.request.method" = known_method(method),
            "url.scheme" = uri.scheme_str(),
            "server.address" = uri.host(),
            "server.port" = uri.port_u16(),
            "http.request.resend_count" = Empty,
            "http.response.status_code" = Empty,
            "credential.slot" = Empty,
            "credential.ending" = Empty,
            "error.type" = Empty,
        );
        Box::new(Traced { span })
    }

    fn token(&self, slot: Slot, event: &TokenEvent<'_>) {
        let slot = slot.as_str();
        match event {
            TokenEvent::Minted { is_renewal, took } => {
                debug!(credential.slot = slot, is_renewal, took_ms = took.as_millis() as u64, "token minted")
            }
            TokenEvent::MintFailed { is_renewal, error, .. } => warn!(
                credential.slot = slot, is_renewal, %error, "no token could be minted"
            ),
            TokenEvent::Dropped => info!(credential.slot = slot, "a refused token is not used any more"),
            #[cfg(feature = "oauth")]
            TokenEvent::NotSaved { error } => warn!(
                credential.slot = slot, %error, "a user's new grant is not saved yet"
            ),
            #[cfg(feature = "oauth")]
            TokenEvent::GrantLost => {
                warn!(credential.slot = slot, "a user's grant is lost: the user has to authorise again")
            }
            #[cfg(feature = "oauth")]
            TokenEvent::GrantUnreadable { error } => warn!(
                credential.slot = slot, %error, "a user's grant cannot be read: the user has to authorise again"
            ),
        }
    }
}

/// Unknown methods are one value, `_OTHER`, as the conventions say: anybody may invent one.
fn known_method(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::HEAD
        | Method::OPTIONS
        | Method::CONNECT
        | Method::PATCH
        | Method::TRACE => method.as_str(),
        _ => "_OTHER",
    }
}

struct Traced {
    span: Span,
}

impl ObserveCall for Traced {
    fn event(&mut self, event: &CallEvent<'_>) {
        let _entered = self.span.enter();
        match event {
            CallEvent::Unavailable { slot, error } => warn!(
                credential.slot = slot.as_str(), %error, "no credential"
            ),
            CallEvent::Attempt { slot, is_replay } => {
                self.span.record("credential.slot", slot.as_str());
                if *is_replay {
                    self.span.record("http.request.resend_count", 1);
                }
                debug!(credential.slot = slot.as_str(), is_replay, "request sent");
            }
            CallEvent::Answered { slot, status, verdict } => {
                self.span.record("http.response.status_code", status.as_u16());
                if let Verdict::Rejected(rejection) = verdict {
                    info!(
                        credential.slot = slot.as_str(),
                        http.response.status_code = status.as_u16(),
                        reason = rejection.kind().as_str(),
                        code = rejection.code(),
                        "credential refused"
                    );
                }
            }
            CallEvent::Failed { slot } => {
                debug!(credential.slot = slot.as_str(), "no answer: the inner service failed")
            }
            CallEvent::NotReplayed { reason } => {
                warn!(cause = reason.as_str(), "a refused request is not sent again")
            }
            CallEvent::End { ending, .. } => {
                self.span.record("credential.ending", ending.as_str());
                match ending {
                    Ending::Refused(_) | Ending::Failed | Ending::Abandoned => {
                        self.span.record("error.type", ending.as_str());
                    }
                    Ending::Accepted(_) | Ending::Inconclusive(_) | Ending::Unsigned => {}
                }
            }
        }
    }

    fn enter(&mut self, inner: &mut dyn FnMut()) {
        self.span.in_scope(inner);
    }
}
