//! [`Verdict`]: whether a run kept the [`Rule`]s, by the records of the identity server and the store.
//!
//! There are no rates in it, and no margins for a busy machine: time is virtual.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use comfy_table::{Table, presets};

use crate::record::{Call, Ending, Felt, Record, Span, Trouble};
use crate::store::SLOW;
use crate::world::World;
use crate::{CHAOS, LEASE, LOAD_TIMEOUT, QUIET, REPLICAS, USERS};

/// What must hold, whatever is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The identity server sees no refresh token twice.
    TokenSentOnce,
    /// A grant is given up only if it bears the mark of a replica that died before it gave its lease back. A user is told to authorize only while
    /// there is no grant.
    OnlyWhoWasCutOffIsAsked,
    /// What a living replica was given for a refresh token is stored, unless a login came first.
    AnswersAreSaved,
    /// Each call is answered, or ends in an error that the world has a cause for. None waits for long.
    EndingsHaveCauses,
    /// The API sees each user's own tokens, and none that has ended.
    TokensAreTheUsers,
    /// After the last fault, everyone is served everywhere, and nothing is left behind.
    EveryoneIsServedAgain,
    /// Each kind of kill and fault has happened. Or the run proves nothing.
    MuchHappened,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) rule: Rule,
    what: String,
}

/// What the store holds in the end for a user.
pub(crate) struct Final {
    pub(crate) is_marked: bool,
    pub(crate) token: Option<String>,
}

pub(crate) struct Verdict {
    seed: u64,
    pub(crate) broken: Vec<Broken>,
    pub(crate) counts: Vec<(&'static str, usize)>,
    /// How calls ended, and why.
    endings: BTreeMap<(Ending, &'static str), usize>,
    /// Of every event, in its order, at its time.
    pub(crate) digest: u64,
}

/// An undisturbed refresh holds its lease for less.
const LONG: Duration = Duration::from_millis(700);

/// A failed attempt is repeated after half a second, then a second, and so on: after the longest outage, eight, and a
/// quarter at random. Meanwhile calls end in the same error, at once or after a look in the store.
const BACKOFF: Duration = Duration::from_secs(10);

/// One call waits for two tokens at the most, and for a store.
const LONGEST_CALL: Duration = Duration::from_secs(2 * LOAD_TIMEOUT.as_secs() + 2);

impl Verdict {
    pub(crate) fn of(seed: u64, world: &World, record: &Record, last: &[Final]) -> Self {
        let (mut verdict, causes) = (
            Self {
                seed,
                broken: Vec::new(),
                counts: Vec::new(),
                endings: BTreeMap::new(),
                digest: record.digest(),
            },
            Causes::of(record),
        );
        verdict.judge_tokens(world, record);
        verdict.judge_deletions(record);
        verdict.judge_calls(record, &causes);
        verdict.judge_end(world, record, last);
        verdict.count(world, record);
        verdict
    }

    fn breaks(&mut self, rule: Rule, what: String) {
        self.broken.push(Broken { rule, what });
    }

    fn judge_tokens(&mut self, world: &World, record: &Record) {
        for (name, token) in &world.identity.tokens().refresh {
            if token.seen > 1 {
                self.breaks(Rule::TokenSentOnce, format!("{name} was seen {} times", token.seen));
            }
            let Some(life) = token.given_to.filter(|_| !record.stored.contains(name)) else { continue };
            let is_alive = !record.deaths.contains_key(&life);
            let around = Span { from: token.given_at.saturating_sub(LEASE), to: token.given_at + LEASE };
            let is_login_of_user = |(user, at): &(usize, Duration)| {
                *user == token.user && around.meets(Span { from: *at, to: *at })
            };
            let is_overtaken = record.logins.iter().any(is_login_of_user);
            if is_alive && !is_overtaken {
                self.breaks(Rule::AnswersAreSaved, format!("{name} was never stored, and {life} lives"));
            }
        }
    }

    fn judge_deletions(&mut self, record: &Record) {
        for deletion in &record.deletions {
            let lease = deletion.marked_by.as_ref().and_then(|owner| record.leases.get(owner));
            let is_cut_off = lease.is_some_and(|(life, given_back)| {
                let death = record.deaths.get(life).filter(|death| **death <= deletion.at);
                death.is_some_and(|death| given_back.is_none_or(|at| at > *death))
            });
            if !is_cut_off {
                let what = format!("user {} was given up at {:?}", deletion.user, deletion.at);
                self.breaks(Rule::OnlyWhoWasCutOffIsAsked, what);
            }
        }
        for user in 0..USERS {
            let logins = record.welcomed.iter().filter(|welcomed| **welcomed == user).count();
            let losses = record.deletions.iter().filter(|deletion| deletion.user == user).count();
            if logins > 1 + losses {
                let what = format!("user {user} was given up {losses} times, and logged in {logins} times");
                self.breaks(Rule::OnlyWhoWasCutOffIsAsked, what);
            }
        }
    }

    fn judge_calls(&mut self, record: &Record, causes: &Causes) {
        for call in &record.calls {
            let cause = causes.of_call(call);
            let what =
                || format!("user {} at life {}, {:?}: {:?}", call.user, call.life, call.span, call.ending);
            match &call.ending {
                Ending::Answered => {}
                Ending::Rejected(_) => self.breaks(Rule::TokensAreTheUsers, what()),
                Ending::ToldToAuthorize if cause.is_none() => {
                    self.breaks(Rule::OnlyWhoWasCutOffIsAsked, what());
                }
                Ending::Failed(_) if cause.is_none() => self.breaks(Rule::EndingsHaveCauses, what()),
                _ => {}
            }
            if call.span.length() > LONGEST_CALL {
                self.breaks(Rule::EndingsHaveCauses, what());
            }
            let cause = cause.unwrap_or("nothing that was seen");
            *self.endings.entry((call.ending.clone(), cause)).or_default() += 1;
        }
    }

    fn judge_end(&mut self, world: &World, record: &Record, last: &[Final]) {
        let mut served = BTreeSet::new();
        for call in record.calls.iter().filter(|call| call.span.from >= CHAOS + QUIET * 2 / 3) {
            served.insert((call.replica, call.user));
            if call.ending != Ending::Answered {
                let what = format!("user {} at {:?}: {:?}", call.user, call.span, call.ending);
                self.breaks(Rule::EveryoneIsServedAgain, what);
            }
        }
        if served.len() != REPLICAS * USERS {
            let what = format!("{} of {} pairs of replica and user", served.len(), REPLICAS * USERS);
            self.breaks(Rule::EveryoneIsServedAgain, what);
        }
        let tokens = world.identity.tokens();
        for (user, last) in last.iter().enumerate() {
            let token = last.token.as_ref().and_then(|token| tokens.refresh.get(token));
            if last.is_marked || token.is_none_or(|token| token.seen > 0 || token.user != user) {
                self.breaks(Rule::EveryoneIsServedAgain, format!("user {user}'s grant is of no use"));
            }
        }
    }

    fn count(&mut self, world: &World, record: &Record) {
        let tokens = world.identity.tokens();
        let is_spent = |token: &&str| tokens.refresh[*token].next.is_some();
        let cut: Vec<&str> = record.deletions.iter().map(|deletion| deletion.token.as_str()).collect();
        let spent: Vec<&str> = cut.iter().copied().filter(is_spent).collect();
        let has_arrived = |token: &&&str| {
            let next = tokens.refresh[**token].next.as_ref().expect("it is spent");
            tokens.refresh[next].has_arrived
        };
        let arrived = spent.iter().filter(has_arrived).count();
        let answered = record.calls.iter().filter(|call| call.ending == Ending::Answered).count();
        let last =
            record.calls.iter().filter(|call| call.ending != Ending::Answered).map(|call| call.span.to).max();
        let restless = last.unwrap_or_default().saturating_sub(CHAOS);
        self.counts.extend(record.kills_at.iter().map(|(what, count)| (*what, *count)));
        self.counts.extend([
            ("… of all, while they held a lease", record.kills_in_refresh),
            ("outages of the store", world.outages.len()),
            ("store operations that failed, for all that the replica knew", record.operations_failed),
            ("… that were applied, and their answers lost", record.answers_lost),
            ("connections that the identity server rejected", record.connections_rejected),
            ("refreshes", tokens.exchanges),
            ("grants given up, since a dead replica had marked them", cut.len()),
            ("… before the server took the token, which nobody can tell", cut.len() - spent.len()),
            ("… after it did, before the replica had its answer", spent.len() - arrived),
            ("… after the answer, before it was saved", arrived),
            ("logins after the first", record.welcomed.len() - USERS),
            (
                "refresh tokens that the server saw twice",
                tokens.refresh.values().filter(|t| t.seen > 1).count(),
            ),
            (
                "milliseconds from the last fault to the last call that was not answered",
                restless.as_millis() as usize,
            ),
            ("calls", record.calls.len()),
            ("… answered", answered),
        ]);
        if let Some((what, _)) =
            self.counts.iter().take(record.kills_at.len() + 7).find(|(_, count)| *count == 0)
        {
            self.broken.push(Broken { rule: Rule::MuchHappened, what: format!("no {what}") });
        }
    }
}

/// What users' calls may fail for.
struct Causes(Vec<Vec<Felt>>);

impl Causes {
    fn of(record: &Record) -> Self {
        let mut causes = vec![Vec::new(); USERS];
        for (user, felt) in &record.troubles {
            causes[*user].push(*felt);
        }
        for holding in record.holdings.iter().filter(|holding| holding.span.length() > LONG) {
            causes[holding.user].push(Felt { trouble: Trouble::Held, life: None, span: holding.span });
        }
        Self(causes)
    }

    fn of_call(&self, call: &Call) -> Option<&'static str> {
        let find = |span: Span, fits: &dyn Fn(Trouble) -> bool| {
            self.0[call.user].iter().rev().find(|felt| {
                let is_here = felt.life.is_none_or(|life| life == call.life);
                is_here && felt.span.meets(span) && fits(felt.trouble)
            })
        };
        let is_slow = |trouble| matches!(trouble, Trouble::StoreSlow | Trouble::StoreFailed);
        let is_quick = call.span.length() <= SLOW || find(call.span, &is_slow).is_some();
        let backoff = if is_quick { BACKOFF } else { Duration::ZERO };
        let lately = Span { from: call.span.from.saturating_sub(backoff), to: call.span.to };
        let cause = match &call.ending {
            Ending::Answered | Ending::Rejected(_) => return Some(""),
            Ending::ToldToAuthorize => find(call.span, &|trouble| trouble == Trouble::Absent),
            Ending::Failed(reason) if reason == "the token store cannot be reached" => {
                find(lately, &|trouble| trouble == Trouble::StoreFailed)
            }
            Ending::Failed(reason) if reason == "the token endpoint could not be reached" => {
                find(lately, &|trouble| trouble == Trouble::Unconnected)
            }
            Ending::Failed(_) => find(lately, &|_| true),
        };
        Some(match cause?.trouble {
            Trouble::Absent => "the user had no grant",
            Trouble::StoreFailed => "the store did not answer",
            Trouble::StoreSlow => "the store was slow",
            Trouble::Unconnected => "the identity server rejected a connection",
            Trouble::Held => "the lease was held for long",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = table(["what", "count"]);
        for (what, count) in &self.counts {
            counts.add_row([(*what).to_owned(), count.to_string()]);
        }
        let mut endings = table(["a call ended in", "because", "calls"]);
        for ((ending, cause), count) in &self.endings {
            let ending = match ending {
                Ending::Answered => "an answer",
                Ending::ToldToAuthorize => "a login page",
                Ending::Failed(reason) => reason,
                Ending::Rejected(reason) => reason,
            };
            endings.add_row([ending.to_owned(), (*cause).to_owned(), count.to_string()]);
        }
        writeln!(f, "seed {}, digest {:016x}: {REPLICAS} replicas, {USERS} users", self.seed, self.digest)?;
        writeln!(f, "\n{counts}\n\n{endings}\n")?;
        for Broken { rule, what } in self.broken.iter().take(20) {
            writeln!(f, "BROKEN {rule:?}: {what}")?;
        }
        Ok(())
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    table
}
