//! What was seen, and whether it was safe.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};

use crate::LEASE;
use crate::replica::TOLD_TO_AUTHORIZE;

/// How long after its cause something may still be felt: the machine is busy, and calls wait for each other. For the
/// printed tables alone.
const MARGIN: u64 = 2_000;

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
        self.print_rates();
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

        // Whoever is told to authorize has lost a grant before, and nobody is served with another's token.
        for call in &self.calls {
            let is_lost = |loss: &Loss| loss.user == call.user && loss.absent.from <= call.span.to;
            let is_told_too_early = call.is_told_to_authorize() && !self.losses.iter().any(is_lost);
            let is_anothers = call.ending.starts_with("refused: ") && !call.is_token_ended();
            if is_told_too_early || is_anothers {
                wrong.push(format!("user {}: a call ended in: {}", call.user, call.ending));
            }
        }
        wrong
    }

    /// What depends on the machine.
    fn print_rates(&self) {
        let unexplained = self.calls.iter().filter(|call| self.cause(call).is_none()).count();
        let outages: Vec<Span> = self.outages.iter().map(|outage| outage.and(MARGIN)).collect();
        let is_outside = |call: &&Call| !outages.iter().any(|outage| outage.meets(call.span));
        let outside: Vec<&Call> = self.calls.iter().filter(is_outside).collect();
        let answered = outside.iter().filter(|call| call.is_answered()).count();
        println!(
            "{answered} of {} calls were answered while Redis was there; {unexplained} failed with no cause\n",
            outside.len()
        );
        if self.cuts.is_empty() || self.losses.is_empty() || self.outages.is_empty() {
            println!("NOTE: no kill cut a refresh off, or Redis did not restart. A longer run proves more\n");
        }
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
        } else if call.is_told_to_authorize() {
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
            ("users told to authorize again", self.losses.len() as u64),
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

    fn is_told_to_authorize(&self) -> bool {
        self.ending == TOLD_TO_AUTHORIZE
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
