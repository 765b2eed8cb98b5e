//! [`Store`]: the way of one replica to the store that all share. Operations take time and meet [`Fault`]s.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tower_credential_fallback::oauth::Grant;
use tower_credential_fallback::store::{Lease, StoreError, StoreFuture, Stored, TokenStore, Version};

use crate::record::{Deletion, Trouble, user_of};
use crate::run::Marks;
use crate::world::{Fate, Fault, Life, Step, World, between};

/// As a Redis has it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// An answer takes no longer, if all is well.
pub(crate) const SLOW: Duration = Duration::from_millis(20);

pub(crate) struct Store {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
}

impl Store {
    /// Has `operation` carried out, or not.
    async fn ask<T: Send + 'static>(
        &self,
        step: Step,
        key: &str,
        operation: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Self { world, life } = self;
        life.go_on().await;
        world.passes(step, life);
        let from = world.now();
        let (answer, answered) = oneshot::channel();
        // The network and the store. They go on whatever becomes of the replica.
        tokio::spawn(carry(Arc::clone(world), Arc::clone(life), operation, answer));
        let answered = answered.await.unwrap_or_else(|_| Err(StoreError::unavailable("no answer")));
        life.go_on().await;
        let to = world.now();
        let mut record = world.record();
        if answered.is_err() {
            record.operations_failed += 1;
            record.trouble(user_of(key), Some(life.number), Trouble::StoreFailed, from, to);
        } else if to - from > SLOW {
            record.trouble(user_of(key), Some(life.number), Trouble::StoreSlow, from, to);
        }
        record.note(&(step, life.number, key, answered.is_ok(), to));
        answered
    }
}

/// Drops `answer` if none comes back.
async fn carry<T>(
    world: Arc<World>,
    life: Arc<Life>,
    operation: impl Future<Output = Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
) {
    sleep(between(1, 10)).await;
    // What a process has sent when it dies may arrive or not.
    if life.is_dead() && fastrand::bool() {
        return;
    }
    match world.outage().map(|outage| (outage.fault, outage.to)) {
        None => match world.fate() {
            Fate::Answered => {
                let applied = operation.await;
                sleep(between(1, 10)).await;
                let _ = answer.send(applied);
            }
            Fate::AnswerLost => apply_unheard(&world, operation).await,
            Fate::NotApplied => {}
        },
        Some((Fault::Down, _)) => {}
        Some((Fault::Silent, _)) => {
            if fastrand::bool() {
                apply_unheard(&world, operation).await;
            }
            sleep(TIMEOUT).await;
        }
        Some((Fault::Frozen, to)) => {
            let wait = to - world.now() + between(0, 5);
            sleep(wait.min(TIMEOUT)).await;
            if wait < TIMEOUT {
                let _ = answer.send(operation.await);
                return;
            }
            drop(answer);
            sleep(wait - TIMEOUT).await;
            apply_unheard(&world, operation).await;
        }
    }
}

async fn apply_unheard<T>(world: &World, operation: impl Future<Output = Result<T, StoreError>>) {
    let _ = operation.await;
    world.record().answers_lost += 1;
}

/// The lease under which its refresh token is being sent, if so.
pub(crate) fn marked_by(grant: &Grant) -> Option<String> {
    let grant: Value = serde_json::from_slice(&grant.to_bytes()).unwrap();
    grant.get("being_spent_by").map(|owner| owner.as_str().unwrap().to_owned())
}

/// The same grant without its mark.
fn unmarked(grant: &Grant) -> Grant {
    let mut grant: Value = serde_json::from_slice(&grant.to_bytes()).unwrap();
    grant.as_object_mut().unwrap().retain(|name, _| !name.starts_with("being_spent"));
    Grant::from_bytes(grant.to_string().as_bytes()).unwrap()
}

impl TokenStore for Store {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stored>> {
        let (world, name) = (Arc::clone(&self.world), key.to_owned());
        let operation = async move {
            let mut stored = world.memory.load(&name).await?;
            if let (Marks::Ignored, Some(stored)) = (world.marks, &mut stored) {
                stored.grant = unmarked(&stored.grant);
            }
            Ok(stored)
        };
        Box::pin(self.ask(Step::Load, key, operation))
    }

    fn save<'a>(
        &'a self,
        key: &'a str,
        grant: &'a Grant,
        expected: Version,
    ) -> StoreFuture<'a, Option<Version>> {
        let (world, name, grant) = (Arc::clone(&self.world), key.to_owned(), grant.clone());
        let is_mark = marked_by(&grant).is_some();
        let operation = async move {
            let saved = world.memory.save(&name, &grant, expected).await?;
            if saved.is_some() && !is_mark {
                let (now, token) = (world.now(), grant.refresh_token().expect("all have one").secret());
                let is_login = world.identity.tokens().refresh[token].given_to.is_none();
                world.record().saved(user_of(&name), token, is_login, now);
            }
            Ok(saved)
        };
        Box::pin(self.ask(if is_mark { Step::Mark } else { Step::Save }, key, operation))
    }

    fn lease<'a>(&'a self, key: &'a str, time: Duration) -> StoreFuture<'a, Option<Lease>> {
        let (world, life, name) = (Arc::clone(&self.world), self.life.number, key.to_owned());
        let operation = async move {
            let lease = world.memory.lease(&name, time).await?;
            if let Some(lease) = &lease {
                let now = world.now();
                world.record().leased(user_of(&name), lease, life, now, now + time);
            }
            Ok(lease)
        };
        Box::pin(self.ask(Step::Lease, key, operation))
    }

    fn release<'a>(&'a self, key: &'a str, lease: Lease) -> StoreFuture<'a, ()> {
        let (world, name) = (Arc::clone(&self.world), key.to_owned());
        let operation = async move {
            let now = world.now();
            world.record().released(user_of(&name), &lease, now);
            world.memory.release(&name, lease).await
        };
        Box::pin(self.ask(Step::Release, key, operation))
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> StoreFuture<'a, bool> {
        let (world, name) = (Arc::clone(&self.world), key.to_owned());
        let operation = async move {
            let before = world.memory.load(&name).await?;
            let deleted = world.memory.delete(&name, expected).await?;
            if let (true, Some(Stored { grant, .. })) = (deleted, before) {
                let at = world.now();
                let token = grant.refresh_token().expect("all have one").secret().clone();
                let deletion = Deletion { user: user_of(&name), at, token, marked_by: marked_by(&grant) };
                world.record().deleted(deletion);
            }
            Ok(deleted)
        };
        Box::pin(self.ask(Step::Delete, key, operation))
    }
}
