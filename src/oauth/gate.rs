//! [`Gate`]: counts the refreshes under way, and lets no more begin once the process is about to end.

use tokio::sync::watch;

pub(super) struct Gate {
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    /// Leases that are held, or asked for.
    under_way: usize,
    is_closed: bool,
}

/// One refresh under way, while it lives.
pub(super) struct Pass(watch::Sender<State>);

impl Gate {
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::default() }
    }

    /// `None` once it was closed.
    pub(super) fn enter(&self) -> Option<Pass> {
        let is_open = self.state.send_if_modified(|state| {
            if !state.is_closed {
                state.under_way += 1;
            }
            !state.is_closed
        });
        is_open.then(|| Pass(self.state.clone()))
    }

    /// Closes it for ever, and waits until nothing is under way.
    pub(super) async fn settle(&self) {
        self.state.send_modify(|state| state.is_closed = true);
        // The sender is ours: it cannot be gone.
        let _ = self.state.subscribe().wait_for(|state| state.under_way == 0).await;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.under_way -= 1);
    }
}
