//! [`Replica`]: one process of the application, which makes calls for users, and lets them log in.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_credential_fallback::Credential;
use tower_credential_fallback::oauth::{OAuthClient, UserId, UserTokens};

use crate::identity::client;
use crate::record::{Call, Ending, Span};
use crate::store::Store;
use crate::world::{Life, World, between};
use crate::{LEASE, LOAD_TIMEOUT};

pub(crate) struct Replica {
    number: usize,
    pub(crate) life: Arc<Life>,
    pub(crate) client: OAuthClient,
    pub(crate) tokens: UserTokens,
    /// Gone with it.
    calls: JoinSet<()>,
}

pub(crate) fn user(n: usize) -> UserId {
    UserId::new(format!("user-{n}"))
}

impl Replica {
    pub(crate) fn start(world: &Arc<World>, number: usize, life: usize) -> Self {
        let life = Arc::new(Life::new(life));
        let client = client(world, &life);
        let store = Store { world: Arc::clone(world), life: Arc::clone(&life) };
        let tokens = UserTokens::builder(client.clone(), Arc::new(store), |user| {
            format!("https://app.example.com/login?user={}", user.as_str())
        })
        .with_load_timeout(LOAD_TIMEOUT)
        .with_lease(LEASE)
        .build()
        .unwrap();
        Self { number, life, client, tokens, calls: JoinSet::new() }
    }

    /// From now on it does nothing to the world. What it has sent is on its way.
    pub(crate) fn kill(&mut self) {
        self.life.die();
        self.calls.abort_all();
    }

    /// Its callers go away.
    pub(crate) fn end_calls(&mut self) {
        self.calls.abort_all();
    }

    /// Makes a call for a user. What is returned is closed once the call has ended, or the replica has died.
    pub(crate) fn call(&mut self, world: &Arc<World>, n: usize) -> oneshot::Receiver<()> {
        while self.calls.try_join_next().is_some() {}
        let (over, is_over) = oneshot::channel();
        let (world, tokens) = (Arc::clone(world), self.tokens.clone());
        let (replica, life) = (self.number, self.life.number);
        self.calls.spawn(async move {
            let from = world.now();
            let ending = ending(&world, &tokens, n).await;
            let span = Span { from, to: world.now() };
            let mut record = world.record();
            record.note(&("call", life, n, span.from, span.to));
            record.calls.push(Call { life, replica, user: n, span, ending });
            drop(over);
        });
        is_over
    }
}

async fn ending(world: &World, tokens: &UserTokens, n: usize) -> Ending {
    match tokens.get(&user(n)).await {
        Ok(credential) => {
            sleep(between(1, 40)).await;
            let served = world.identity.tokens().serve(&secret_of(&credential), n, world.now());
            served.map_or_else(Ending::Rejected, |()| Ending::Answered)
        }
        Err(error) if error.authorize_url().is_some() => {
            world.asked[n].notify_one();
            Ending::ToldToAuthorize
        }
        Err(error) => {
            // What follows differs from call to call.
            let reason = error.to_string();
            Ending::Failed(reason.split(": ").next().unwrap_or_default().to_owned())
        }
    }
}

fn secret_of(credential: &Credential) -> String {
    let mut headers = http::HeaderMap::new();
    credential.apply(&mut headers);
    headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned()
}
