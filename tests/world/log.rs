//! The log that replicas share. What is appended has to be what the model has learnt; what is read, it learns.

use std::collections::BTreeMap;

use tower_credential_fallback::{Learnt, LogFuture, PreferenceLog};

use crate::server::World;
use crate::state::State;

#[derive(Default)]
pub(crate) struct Entries {
    seed: Option<u64>,
    learnt: Vec<Learnt>,
    /// The resource that each hash stands for.
    names: BTreeMap<u64, usize>,
}

pub(crate) struct Log {
    pub(crate) world: World,
    pub(crate) replica: usize,
}

impl Log {
    fn ask<T>(&self, answer: impl FnOnce(&mut State) -> T) -> LogFuture<'static, T>
    where
        T: Send + 'static,
    {
        let mut state = self.world.lock();
        let answer = if state.log_is_down { Err("the log is down".into()) } else { Ok(answer(&mut state)) };
        Box::pin(std::future::ready(answer))
    }
}

impl PreferenceLog for Log {
    fn seed(&self, proposed: u64) -> LogFuture<'_, u64> {
        self.ask(|state| *state.log.seed.get_or_insert(proposed))
    }

    fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()> {
        self.ask(|state| {
            for entry in learnt {
                let expected = state.replicas[self.replica].model.untold.pop_front();
                let name = expected.map(|(resource, _)| resource);
                let known = name.map(|name| *state.log.names.entry(entry.resource).or_insert(name));
                let told = (known, entry.slot);
                state.expect_eq(
                    self.replica,
                    "what it tells the others",
                    told,
                    (name, expected.map_or(entry.slot.other(), |(_, slot)| slot)),
                );
            }
            state.log.learnt.extend_from_slice(learnt);
        })
    }

    fn read<'a>(&'a self, after: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)> {
        self.ask(|state| {
            let from = after.map_or(0, |after| after.parse().unwrap());
            // In pieces, as a real one.
            let found: Vec<Learnt> = state.log.learnt.iter().skip(from).take(5).copied().collect();
            for entry in &found {
                let (resource, now) = (state.log.names[&entry.resource], state.next_seq());
                let model = &mut state.replicas[self.replica].model;
                let before = model.known(resource).preference;
                model.adopt(resource, entry.slot, now);
                state.summary.adopted += u64::from(before != model.known(resource).preference);
            }
            let after = (!found.is_empty()).then(|| (from + found.len()).to_string());
            (found, after)
        })
    }
}
