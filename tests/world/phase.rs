//! The phases that every world goes through.

use tower_credential_fallback::{Order, Slot};

#[derive(Clone, Copy)]
pub(crate) enum Moves {
    None,
    ThereAndBack,
    /// Resources move to this slot. At the end all of them have.
    To(Slot),
}

/// What befalls the world now and then.
#[derive(Clone, Copy)]
pub(crate) enum Trouble {
    /// A provider has no credential, for one user or for all.
    Outage,
    /// A call that a hint is for finds the hint's slot without a credential, and its resource with the other slot.
    HintedOutage,
    /// The log fails, or takes nothing from one replica.
    LogOutage,
    /// A slot's tokens are renewed.
    NewTokens,
    /// A replica's order changes.
    NewOrder,
}

#[derive(Clone, Copy)]
pub(crate) struct Phase {
    /// The part of all calls, in percent.
    pub(crate) share: usize,
    /// Between two calls of one caller, in milliseconds at the most.
    pub(crate) pause: u64,
    pub(crate) moves: Moves,
    /// Between two moves, in milliseconds at the most.
    pub(crate) move_pause: u64,
    /// How many of 100 answers are not what the truth asks for.
    pub(crate) disturbance: u8,
    pub(crate) troubles: &'static [Trouble],
    /// How many of the resources that are seldom asked for have no clear answer in this phase.
    pub(crate) sick: usize,
    /// Whether the primary answers nothing clear.
    pub(crate) is_primary_sick: bool,
    /// Whether callers do nothing but ask plainly for resources, and choose the primary now and then if that is sick.
    pub(crate) is_plain: bool,
    /// The resources behind so many are seldom asked for, and move as seldom.
    pub(crate) often_asked: usize,
    /// Whether the replicas start anew before it, after a rest that is longer than a report looks back.
    pub(crate) starts_anew: bool,
    /// It begins with the first.
    pub(crate) orders: &'static [Order],
}

/// Everything is as usual.
const USUAL: Phase = Phase {
    share: 5,
    pause: 2_000,
    moves: Moves::None,
    move_pause: 2_000,
    disturbance: 1,
    troubles: &[],
    sick: 0,
    is_primary_sick: false,
    is_plain: false,
    often_asked: 24,
    starts_anew: false,
    orders: &[Order::Adaptive],
};

/// Resources move there and back, and everything goes wrong that can.
const BUSY: Phase = Phase {
    share: 20,
    pause: 400,
    moves: Moves::ThereAndBack,
    disturbance: 5,
    troubles: &[Outage, Outage, HintedOutage, HintedOutage, HintedOutage, LogOutage, LogOutage, NewTokens],
    ..USUAL
};

/// The same in slow motion.
const SLOW: Phase = Phase {
    share: 10,
    pause: 8_000,
    moves: Moves::ThereAndBack,
    move_pause: 60_000,
    disturbance: 25,
    ..USUAL
};

const ALL_ORDERS: Phase = Phase {
    share: 15,
    moves: Moves::ThereAndBack,
    disturbance: 10,
    troubles: &[Outage, HintedOutage, HintedOutage, LogOutage, NewTokens, NewOrder, NewOrder, NewOrder],
    orders: &[
        Order::Adaptive,
        Order::Adaptive,
        Order::PrimaryFirst,
        Order::FallbackFirst,
        Order::PrimaryOnly,
        Order::FallbackOnly,
    ],
    ..USUAL
};

const MOVE: Phase =
    Phase { share: 10, moves: Moves::To(Slot::Fallback), move_pause: 5_000, disturbance: 5, ..USUAL };

/// All has moved. Somebody tries whether the old account is needed, which is not well.
const TRIAL: Phase = Phase {
    share: 10,
    pause: 30_000,
    troubles: &[NewOrder],
    disturbance: 0,
    is_primary_sick: true,
    is_plain: true,
    orders: &[Order::Adaptive, Order::FallbackFirst],
    ..USUAL
};

/// The fallback goes first, but not all is well with it.
const RETIREMENT: Phase = Phase {
    share: 5,
    pause: 20_000,
    disturbance: 2,
    troubles: &[Outage, LogOutage, NewTokens, NewOrder],
    sick: 1,
    orders: &[Order::FallbackFirst, Order::FallbackFirst, Order::FallbackOnly],
    ..USUAL
};

/// All is well with it, but for its provider.
const OUTAGES: Phase = Phase {
    share: 5,
    pause: 20_000,
    disturbance: 0,
    troubles: &[Outage, NewOrder],
    is_plain: true,
    orders: &[Order::FallbackFirst, Order::FallbackOnly],
    ..USUAL
};

/// The same with replicas that know of the fallback from the log alone.
const NEWCOMERS: Phase = Phase {
    share: 5,
    pause: 20_000,
    disturbance: 0,
    sick: 6,
    is_plain: true,
    starts_anew: true,
    orders: &[Order::FallbackFirst],
    ..USUAL
};

const BACK: Phase = Phase { pause: 8_000, moves: Moves::To(Slot::Primary), disturbance: 10, ..USUAL };

/// A few resources move faster than answers come.
const HECTIC: Phase = Phase {
    share: 10,
    pause: 200,
    moves: Moves::ThereAndBack,
    move_pause: 500,
    disturbance: 2,
    often_asked: 4,
    ..USUAL
};

use Trouble::{HintedOutage, LogOutage, NewOrder, NewTokens, Outage};

pub(crate) const PHASES: [Phase; 11] =
    [USUAL, BUSY, SLOW, ALL_ORDERS, MOVE, TRIAL, RETIREMENT, OUTAGES, NEWCOMERS, BACK, HECTIC];
