//! What is checked when a call has ended, and what follows from it for the model.

use http::Response;
use tokio::time::Instant;
use tower_credential_fallback::{
    BoxError, CredentialChoice, Error, ErrorKind, NoReplay, Order, Outcome, PeekBody, Slot, Verdict,
};

use crate::answer::ScriptBody;
use crate::report::Ending;
use crate::request::REPLAY_LIMIT;
use crate::server::{BodyEnd, fixed_token, slot_of, was_decided};
use crate::state::{Call, State};

/// What a caller got; `None` if it gave up.
pub(crate) type Got<'g> = Option<&'g Result<Response<PeekBody<ScriptBody>>, BoxError>>;

impl Call {
    /// The slot that it began with, if it came that far.
    pub(crate) fn first(&self) -> Option<Slot> {
        self.asks.first().map(|ask| ask.slot).or_else(|| Some(self.exchanges.first()?.slot))
    }

    /// The slot whose provider had no credential.
    pub(crate) fn unavailable(&self) -> Vec<Slot> {
        self.asks.iter().filter(|ask| ask.has_answered && ask.outage.is_some()).map(|ask| ask.slot).collect()
    }

    fn allows_only_one(&self) -> bool {
        match self.spec.choice {
            Some(choice) => matches!(choice, CredentialChoice::Only(_)),
            None => matches!(self.order, Order::PrimaryOnly | Order::FallbackOnly),
        }
    }

    /// The tokens of both attempts, or of the one that was made and the one that was not.
    fn tokens(&self) -> Option<[&str; 2]> {
        let first = &*self.exchanges.first()?.token;
        let other = match (self.exchanges.get(1), self.asks.last()) {
            (Some(second), _) => &second.token,
            (None, Some(ask)) => &ask.token,
            (None, None) => fixed_token(slot_of(first).other()),
        };
        Some([first, other])
    }

    /// The verdicts on its attempts by the server's record; `None` for an attempt that failed or was given up.
    fn verdicts(&self, got: Got<'_>) -> Vec<Option<Verdict>> {
        let now = Instant::now();
        let of = |nth: usize| {
            let exchange = &self.exchanges[nth];
            let verdict = exchange.reply.as_ref().filter(|_| !exchange.has_failed)?.verdict;
            let is_known = nth + 1 < self.exchanges.len() || got.is_some() || was_decided(exchange, now);
            is_known.then_some(verdict)
        };
        (0..self.exchanges.len()).map(of).collect()
    }
}

impl State {
    /// A call has ended: checks it, and learns from it.
    pub(crate) fn end(&mut self, number: usize, got: Got<'_>) {
        let call = &self.calls[&number];
        let verdicts = call.verdicts(got);
        let first = call.first();
        self.expect(number, first.is_none_or(|first| call.allowed.contains(&first)), || {
            format!("it began with {first:?}, expected one of {:?}; verdicts {verdicts:?}", call.allowed)
        });
        if let [Some(first), _] = &verdicts[..] {
            self.expect(number, matches!(first, Verdict::Rejected(_)), || {
                format!("replayed after {first:?}")
            });
            let sent = call.exchanges[0].received.len();
            self.expect(number, sent <= REPLAY_LIMIT || call.spec.is_in_memory(), || {
                format!("replayed although {sent} bytes had been sent")
            });
        }
        match got {
            Some(Ok(response)) => self.check_answer(number, &verdicts, response),
            Some(Err(error)) => self.check_error(number, error),
            None => {
                let was_known =
                    matches!(&verdicts[..], [Some(Verdict::Accepted | Verdict::Inconclusive)] | [_, Some(_)]);
                self.expect(number, !was_known, || {
                    "the caller waited for an answer that was known".to_owned()
                });
            }
        }
        let reason = got.and_then(|got| got.as_ref().ok()).and_then(|got| Outcome::of(got).no_replay());
        self.note(number, got, &verdicts, reason.map(NoReplay::as_str));
    }

    fn check_answer(
        &self,
        number: usize,
        verdicts: &[Option<Verdict>],
        response: &Response<PeekBody<ScriptBody>>,
    ) {
        let call = &self.calls[&number];
        let outcome = Outcome::of(response);
        let expected: Option<Vec<_>> = call
            .exchanges
            .iter()
            .zip(verdicts)
            .map(|(exchange, verdict)| Some((exchange.slot, (*verdict)?)))
            .collect();
        let told: Vec<_> = outcome.attempts().map(|attempt| (attempt.slot, attempt.verdict)).collect();
        self.expect(number, expected.as_ref() == Some(&told), || {
            format!("the outcome is {outcome}, expected {expected:?}")
        });
        let last = call.exchanges.len() - 1;
        let is_same = response.headers()["x-answer"] == *format!("{number}.{last}")
            && call.exchanges[last]
                .reply
                .as_ref()
                .is_some_and(|reply| reply.status == response.status().as_u16());
        self.expect(number, is_same, || format!("another answer came: {:?}", response.headers()));
        let (slot, verdict) = told[last];
        let served_by = (verdict == Verdict::Accepted).then_some(slot);
        self.expect(number, outcome.served_by() == served_by, || {
            format!("served by {:?}", outcome.served_by())
        });
        let unavailable = outcome.unavailable().map(|(slot, _)| slot);
        let first_was_not_to_be_had =
            call.unavailable().first().copied().filter(|slot| *slot != call.exchanges[0].slot);
        let of_first = first_was_not_to_be_had.filter(|slot| call.first() == Some(*slot));
        self.expect(number, unavailable == of_first, || {
            format!("{unavailable:?} is said to be not to be had, expected {of_first:?}")
        });
        let is_rejected = matches!(verdict, Verdict::Rejected(_));
        match (outcome.no_replay(), is_rejected && last == 0) {
            (None, false) => {}
            (Some(reason), true) => {
                let is_true = self.is_true(call, reason);
                self.expect(number, is_true, || {
                    format!("not replayed: {}, which is not so", reason.as_str())
                });
            }
            (reason, _) => {
                self.expect(number, false, || format!("it ends as rejected: {is_rejected}, with {reason:?}"))
            }
        }
    }

    /// Whether the reason for which a rejected call was not replayed is one.
    fn is_true(&self, call: &Call, reason: &NoReplay) -> bool {
        let first = &call.exchanges[0];
        let other = call.asks.iter().rfind(|ask| ask.slot != first.slot && ask.has_answered);
        let outage = other.and_then(|other| other.outage);
        match reason {
            NoReplay::OnlyOne => call.allows_only_one(),
            NoReplay::ProviderUnavailable(_) => outage == Some(false),
            NoReplay::InteractionRequired { authorize_url } => {
                authorize_url == "https://login.example/" && outage == Some(true)
            }
            NoReplay::BodyTooLarge => first.received.len() > REPLAY_LIMIT && !call.spec.is_in_memory(),
            NoReplay::BodyFailed => first.end == BodyEnd::Broken && call.spec.breaks_off(),
            NoReplay::CoolingDown => call.tokens().is_some_and(|tokens| {
                self.replicas[call.spec.replica].model.is_cooling_down(&call.spec, tokens)
            }),
            _ => false,
        }
    }

    fn check_error(&self, number: usize, error: &BoxError) {
        let call = &self.calls[&number];
        match error.downcast_ref::<Error>() {
            Some(error) => {
                let slots = if call.allows_only_one() { 1 } else { 2 };
                let is_so = error.kind() == ErrorKind::NoCredential
                    && call.exchanges.is_empty()
                    && call.unavailable().len() == slots;
                self.expect(number, is_so, || format!("it fails with {error}"));
            }
            None => {
                let has_failed = call.exchanges.last().is_some_and(|exchange| exchange.has_failed);
                self.expect(number, has_failed, || {
                    format!("it fails with {error}, and the server has answered")
                });
            }
        }
    }

    /// What follows from a call.
    fn note(
        &mut self,
        number: usize,
        got: Got<'_>,
        verdicts: &[Option<Verdict>],
        not_replayed: Option<&'static str>,
    ) {
        let now = self.next_seq();
        let call = self.calls.get_mut(&number).expect("it has just ended");
        call.was_abandoned = got.is_none();
        let call = &self.calls[&number];
        let (spec, replica) = (&call.spec, &mut self.replicas[call.spec.replica]);
        let slots: Vec<_> = call.exchanges.iter().map(|exchange| exchange.slot).collect();
        let was_rejected = |slot| {
            slots
                .iter()
                .zip(verdicts)
                .any(|(of, verdict)| *of == slot && matches!(verdict, Some(Verdict::Rejected(_))))
        };
        let ending = match (got, verdicts.last()) {
            (None, _) => Ending::Abandoned,
            (Some(Err(_)), _) => Ending::Failed,
            (_, Some(Some(Verdict::Accepted))) => Ending::Served(slots[slots.len() - 1]),
            (_, Some(Some(Verdict::Inconclusive))) => Ending::Inconclusive,
            _ => Ending::Rejected,
        };
        let summary = &mut self.summary;
        match ending {
            Ending::Served(slot) => {
                summary.served += 1;
                if slot == Slot::Fallback {
                    self.fallback_served.insert(spec.resource, Instant::now());
                }
                let by_hint = slots.len() == 1 && call.hint == Some(slot);
                let is_evidence = slots.len() == 2 || by_hint;
                let sent = if slots.len() == 1 { call.begun } else { call.exchanges[1].seq };
                match spec.resource {
                    Some(resource) => {
                        let is_chance = spec.choice.is_some() || call.first() != Some(slot);
                        let is_learnt =
                            replica.model.served(resource, slot, is_evidence, is_chance, sent, now);
                        summary.evidence += u64::from(is_evidence);
                        summary.stale += u64::from(is_evidence && !is_learnt);
                    }
                    // The hint was right, and stays.
                    None if by_hint => replica.model.hint(spec, slot),
                    None => {}
                }
            }
            Ending::Rejected if slots.len() == 2 => {
                summary.rejected += 1;
                if spec.is_in_memory() {
                    replica.model.cool_down(spec, call.tokens().expect("two were sent"));
                }
            }
            Ending::Rejected => {
                summary.rejected += 1;
                if not_replayed == Some("body_too_large") {
                    replica.model.hint(spec, slots[0].other());
                }
            }
            Ending::Abandoned => {
                summary.abandoned += 1;
                if let Some(first) = slots.first().filter(|first| was_rejected(**first)) {
                    replica.model.hint(spec, first.other());
                }
            }
            Ending::Failed => summary.failed += 1,
            Ending::Inconclusive => summary.inconclusive += 1,
        }
        if let Some(reason) = not_replayed {
            *summary.not_replayed.entry(reason).or_default() += 1;
        }
        let served = self.fallback_served.get(&spec.resource).copied();
        replica.counts.note(call, ending, verdicts, not_replayed, served);
    }

    /// In a time of quiet: all bodies have arrived as they should. The record begins anew.
    pub(crate) fn check_bodies(&mut self) {
        for (number, call) in &self.calls {
            let content = call.spec.content();
            for (nth, exchange) in call.exchanges.iter().enumerate() {
                let is_last = nth + 1 == call.exchanges.len();
                let (received, number) = (&exchange.received, *number);
                self.expect(number, content.starts_with(received), || {
                    format!("attempt {nth} had another body")
                });
                let must_be_all = is_last && exchange.head_at.is_some() && !call.was_abandoned;
                let is_all = exchange.end != BodyEnd::Open && *received == content;
                let is_whole = exchange.end != BodyEnd::Whole || (is_all && !call.spec.breaks_off());
                self.expect(number, is_whole && (is_all || !must_be_all), || {
                    format!("{} of {} bytes came: {:?}", received.len(), content.len(), exchange.end)
                });
            }
        }
        self.calls.clear();
        self.replicas.iter_mut().for_each(|replica| replica.model.sweep());
    }
}
