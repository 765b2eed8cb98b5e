//! What was seen, and whether it is what has to hold.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};

use crate::LEASE;

/// How long after its cause something may still be felt: the machine is busy, and calls wait for each other.
const MARGIN: u64 = 2_000;

/// Of all calls, so many of a hundred may fail with no cause that was seen. Tokens live for one second at the least, since
/// the server tells their end in whole seconds: of those that this machine hands on too late, a call is told. All other
/// endings need a cause, each.
const UNEXPLAINED_PERCENT: usize = 2;

/// Of all calls while Redis was there, so many of a hundred have to be answered. Most of the others' users were being
/// refreshed by a replica that was killed: they wait for the lease to end, or for the user. On a busy machine that takes
/// its time.
const ANSWERED_PERCENT: usize = 90;

/// A time, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Span {
    fn meets(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }

    fn and(self, longer: u64) -> Self {
        Self { from: self.from, to: self.to + longer }
    }
}

pub(crate) struct Call {
    pub(crate) user: usize,
    pub(crate) span: Span,
    pub(crate) ending: String,
}

/// A refresh that ended with its replica, and left its mark in the store.
pub(crate) struct Cut {
    pub(crate) user: usize,
    pub(crate) at: u64,
    /// The marked one.
    pub(crate) token: String,
    /// Whether the replica had the server's answer.
    pub(crate) has_answer: bool,
}

/// A grant that was given up, from then to the user's new login.
pub(crate) struct Loss {
    pub(crate) user: usize,
    pub(crate) absent: Span,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) calls: Vec<Call>,
    pub(crate) kills: u64,
    /// … of replicas that held a lease, or were asking for one.
    pub(crate) kills_in_refresh: u64,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) losses: Vec<Loss>,
    /// When which user's lease was a dead replica's.
    pub(crate) held_by_the_dead: Vec<(usize, Span)>,
    pub(crate) outages: Vec<Span>,
}

/// What the identity server saw.
pub(crate) struct Server<'a> {
    pub(crate) refreshes: u64,
    pub(crate) tokens_seen_again: u64,
    pub(crate) is_spent: &'a dyn Fn(&str) -> bool,
}

impl Seen {
    pub(crate) fn answered(&self) -> usize {
        self.calls.iter().filter(|call| call.is_answered()).count()
    }

    /// Prints it, and returns what is wrong.
    pub(crate) fn judge(&self, server: &Server<'_>) -> Vec<String> {
        self.print(server);
        let mut wrong = Vec::new();

        // By the server's own record of tokens, so it holds whatever replicas tell.
        if server.tokens_seen_again > 0 {
            wrong.push("a refresh token was sent twice".to_owned());
        }

        // Each grant that is given up needs a kill of its own, before it, that left this user's mark in the store. A kill
        // between two refreshes, or after the save, is no cause, nor is one of another user's refresh.
        for (n, loss) in self.losses.iter().enumerate() {
            let cuts =
                self.cuts.iter().filter(|cut| cut.user == loss.user && cut.at <= loss.absent.from).count();
            let losses = self.losses[..=n].iter().filter(|other| other.user == loss.user).count();
            if losses > cuts {
                wrong.push(format!("user {} was given up {losses} times, after {cuts} cuts", loss.user));
            }
        }

        // Each call has its own cause. The grant of whoever is told to authorise has been given up (see above) and not been
        // replaced; the store is out of reach while it is.
        for call in &self.calls {
            let is_known =
                call.is_answered() || call.is_token_ended() || call.ending.starts_with("no token: ");
            let needs_cause = call.is_told_to_authorise() || call.is_store_out_of_reach();
            if !is_known || needs_cause && self.cause(call).is_none() {
                wrong.push(format!("user {}: a call without cause ended in: {}", call.user, call.ending));
            }
        }
        let unexplained = self.calls.iter().filter(|call| self.cause(call).is_none()).count();
        if unexplained * 100 > self.calls.len() * UNEXPLAINED_PERCENT {
            wrong.push(format!("{unexplained} of {} calls failed without cause", self.calls.len()));
        }

        // Errors with a cause are no excuse for many of them.
        let outages: Vec<Span> = self.outages.iter().map(|outage| outage.and(MARGIN)).collect();
        let is_outside = |call: &&Call| !outages.iter().any(|outage| outage.meets(call.span));
        let outside: Vec<&Call> = self.calls.iter().filter(is_outside).collect();
        let answered = outside.iter().filter(|call| call.is_answered()).count();
        println!(
            "{answered} of {} calls were answered while Redis was there; {unexplained} failed with no cause\n",
            outside.len()
        );
        if outside.is_empty() || answered * 100 < outside.len() * ANSWERED_PERCENT {
            wrong.push("too few calls were answered while Redis was there".to_owned());
        }

        // Or the run has proved nothing.
        if self.cuts.is_empty() || self.losses.is_empty() || self.outages.len() != crate::REDIS_RESTARTS {
            wrong.push("no kill cut a refresh off, or Redis did not restart: run it for longer".to_owned());
        }
        wrong
    }

    /// Why a call ended as it did.
    fn cause(&self, call: &Call) -> Option<&'static str> {
        let meets = |span: &Span| span.meets(call.span);
        let is_redis_away = |longer: u64| self.outages.iter().any(|outage| meets(&outage.and(longer)));
        let was_held = || {
            self.held_by_the_dead.iter().any(|(user, span)| *user == call.user && meets(&span.and(MARGIN)))
        };
        let was_lost =
            || self.losses.iter().any(|loss| loss.user == call.user && meets(&loss.absent.and(MARGIN)));
        if call.is_answered() {
            Some("")
        } else if call.is_told_to_authorise() {
            was_lost().then_some("the grant was lost with a replica")
        } else if call.is_store_out_of_reach() {
            is_redis_away(MARGIN).then_some("Redis was away")
        } else if was_held() {
            Some("a killed replica held the lease")
        } else {
            // A refresh that could not be finished keeps its lease.
            is_redis_away(LEASE.as_millis() as u64 + MARGIN).then_some("Redis was away")
        }
    }

    fn print(&self, server: &Server<'_>) {
        let spent = |cut: &&Cut| (server.is_spent)(&cut.token);
        let unspent = self.cuts.iter().filter(|cut| !spent(cut)).count();
        let answered = self.cuts.iter().filter(spent).filter(|cut| cut.has_answer).count();
        let away: u64 = self.outages.iter().map(|outage| outage.to - outage.from).sum();
        let rows = [
            ("replicas killed", self.kills),
            ("… while they held a lease, or asked for one", self.kills_in_refresh),
            ("Redis killed", self.outages.len() as u64),
            ("… and away, in milliseconds", away),
            ("refreshes", server.refreshes),
            ("refreshes that a kill cut off, with the mark in the store", self.cuts.len() as u64),
            ("… before the server took the token, which nobody can tell", unspent as u64),
            (
                "… after it did, before the replica had its answer",
                (self.cuts.len() - unspent - answered) as u64,
            ),
            ("… after the answer, before it was saved", answered as u64),
            ("users sent to authorise again", self.losses.len() as u64),
            ("refresh tokens that the server saw twice", server.tokens_seen_again),
        ];
        let mut table = table(["what", "count"]);
        for (what, count) in rows {
            table.add_row([what.to_owned(), count.to_string()]);
        }
        println!("\n{table}\n");

        let mut endings: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for call in &self.calls {
            *endings.entry((&call.ending, self.cause(call).unwrap_or("none that was seen"))).or_default() +=
                1;
        }
        let mut table = self::table(["a call ended in", "because", "calls"]);
        for ((ending, cause), count) in endings {
            table.add_row([ending.to_owned(), cause.to_owned(), count.to_string()]);
        }
        println!("{table}\n");
    }
}

impl Call {
    /// Bots are their owners': another's token would be refused.
    fn is_answered(&self) -> bool {
        self.ending == "answered: code 0"
    }

    /// On its way to the server.
    fn is_token_ended(&self) -> bool {
        self.ending == "refused: code 700012006"
    }

    fn is_told_to_authorise(&self) -> bool {
        self.ending == "no token: the user has to authorise again"
    }

    fn is_store_out_of_reach(&self) -> bool {
        self.ending == "no token: the token store cannot be reached"
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    table
}
