//! [`Replica`]: one process of the application, which makes calls for every user, and lets users log in.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_credential_fallback::Credential;
use tower_credential_fallback::oauth::{OAuthClient, UserId, UserTokens};

use crate::identity::client;
use crate::record::{Call, Ending, Span};
use crate::store::Store;
use crate::world::{Life, World, between};
use crate::{LEASE, LOAD_TIMEOUT, USERS};

pub(crate) struct Replica {
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
        let tokens = UserTokens::new(client.clone(), Arc::new(store), |user| {
            format!("https://app.example.com/login?user={}", user.as_str())
        })
        .with_load_timeout(LOAD_TIMEOUT)
        .unwrap()
        .with_lease(LEASE)
        .unwrap();
        let mut calls = JoinSet::new();
        for n in 0..USERS {
            calls.spawn(call_on_and_on(Arc::clone(world), number, life.number, tokens.clone(), n));
        }
        Self { life, client, tokens, calls }
    }

    /// From now on it does nothing to the world. What it has sent is on its way.
    pub(crate) fn kill(&mut self) {
        self.life.die();
        self.calls.abort_all();
    }

    /// The end of a deployment: no more calls.
    pub(crate) fn end_calls(&mut self) {
        self.calls.abort_all();
    }
}

async fn call_on_and_on(world: Arc<World>, replica: usize, life: usize, tokens: UserTokens, n: usize) {
    loop {
        sleep(between(200, 2_800)).await;
        let from = world.now();
        let ending = match tokens.get(&user(n)).await {
            Ok(credential) => {
                sleep(between(1, 40)).await;
                let served = world.identity.tokens().serve(&secret_of(&credential), n, world.now());
                served.map_or_else(Ending::Rejected, |()| Ending::Answered)
            }
            Err(error) if error.authorize_url().is_some() => {
                world.asked[n].notify_one();
                Ending::ToldToAuthorize
            }
            Err(error) => Ending::Failed(error.to_string()),
        };
        let span = Span { from, to: world.now() };
        let mut record = world.record();
        record.note(&("call", life, n, span.from, span.to));
        record.calls.push(Call { life, replica, user: n, span, ending });
    }
}

fn secret_of(credential: &Credential) -> String {
    let mut headers = http::HeaderMap::new();
    credential.apply(&mut headers);
    headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned()
}
