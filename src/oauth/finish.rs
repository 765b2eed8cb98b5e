//! [`Unfinished`]: what the store has not taken, done behind the caller's back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Grant;
use super::refresh::{Held, Refresher};
use crate::store::{StoreError, Stored, Version};

/// The wait before a change is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// … and for how long, in leases.
const LEASES: u32 = 10;

pub(super) enum Unfinished {
    /// The mark, perhaps, in place of this version: the store did not say. The token was not sent.
    Unmark(Version),
    /// This grant, in place of the mark, which has this version.
    Save(Grant, Version),
    /// The mark, which has this version: the server has refused the token.
    Forget(Version),
}

impl Refresher {
    /// Until the store answers. It cannot come too late for anything but its own use: it replaces nothing but the mark of
    /// this very lease.
    pub(super) async fn finish_later(self: Arc<Self>, held: Held, unfinished: Unfinished) {
        let until = Instant::now() + self.settings.lease * LEASES;
        loop {
            sleep(AGAIN).await;
            let Err(error) = self.finish(&held, &unfinished).await else { break };
            if Instant::now() >= until {
                if let Unfinished::Save(..) = unfinished {
                    self.report.not_saved(&error);
                }
                break;
            }
        }
        self.give_back(held).await;
    }

    async fn finish(&self, held: &Held, unfinished: &Unfinished) -> Result<(), StoreError> {
        match unfinished {
            Unfinished::Unmark(before) => self.unmark(held, *before).await,
            Unfinished::Save(grant, marked) => {
                self.settings.store.save(held.key(), grant, *marked).await.map(drop)
            }
            Unfinished::Forget(marked) => self.settings.store.delete(held.key(), *marked).await.map(drop),
        }
    }

    /// If the mark is not there, it may still be on its way: a new version of the same grant keeps it out for ever.
    async fn unmark(&self, held: &Held, before: Version) -> Result<(), StoreError> {
        loop {
            let stored = match self.settings.store.load(held.key()).await {
                // Nobody's mark can be read in it.
                Err(error) if error.unreadable_version().is_some() => return Ok(()),
                stored => stored?,
            };
            let Some(Stored { grant, version, .. }) = stored else { return Ok(()) };
            if version != before && !grant.is_being_spent_by(&held.lease) {
                return Ok(());
            }
            let grant = grant.not_being_spent();
            if self.settings.store.save(held.key(), &grant, version).await?.is_some() {
                return Ok(());
            }
        }
    }
}
