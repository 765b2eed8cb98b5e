//! [`run`]: one run of one seed. Starts replicas, kills them, and lets users log in who are told to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_credential_fallback::store::TokenStore;

use crate::identity::CLIENT_ID;
use crate::record::Record;
use crate::replica::{Replica, user};
use crate::store::marked_by;
use crate::verdict::{Final, Verdict};
use crate::world::{Step, World, between};
use crate::{CHAOS, LEASE, QUIET, REPLICAS, USERS};

/// Whether replicas see each other's marks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Marks {
    Kept,
    Ignored,
}

/// Each user has so many calls under way at a time. No two of them are at one replica: who of several waiters goes on
/// first is tokio's choice, and not the seed's.
const TABS: usize = 2;

/// How long a user looks at a page that does not load.
const PATIENCE: Duration = Duration::from_secs(5);

type Fleet = Arc<Mutex<Vec<Replica>>>;

pub(crate) fn run(seed: u64, marks: Marks) -> Verdict {
    // This thread's: the crate's jitters are drawn from it too.
    fastrand::seed(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(marks);
        let fleet: Fleet = Arc::new(Mutex::new(
            (0..REPLICAS).map(|number| Replica::start(&world, number, number)).collect(),
        ));
        let mut users = JoinSet::new();
        for n in 0..USERS {
            // They have not logged in yet.
            world.asked[n].notify_one();
            users.spawn(log_in_when_asked(Arc::clone(&world), Arc::clone(&fleet), n));
            for tab in 0..TABS {
                users.spawn(call_on_and_on(Arc::clone(&world), Arc::clone(&fleet), n, tab));
            }
        }
        kill_until_it_is_quiet(&world, &fleet).await;
        sleep(CHAOS + QUIET - world.now()).await;
        users.shutdown().await;
        settle(&fleet).await;
        let last = look(&world).await;
        let mut record = std::mem::replace(&mut *world.record(), Record::new());
        record.close(world.now());
        Verdict::of(seed, &world, &record, &last)
    })
}

async fn kill_until_it_is_quiet(world: &Arc<World>, fleet: &Fleet) {
    let mut lives = REPLICAS;
    loop {
        sleep(between(50, 240)).await;
        let steps = [Step::Lease, Step::Mark, Step::Exchange, Step::Save, Step::Delete];
        let step = fastrand::choice(&steps).copied().filter(|_| fastrand::u8(0..3) > 0);
        let mut victim = None;
        if let Some(step) = step {
            world.lie_in_wait(step);
            let _ = timeout(between(200, 600), world.ambushed.notified()).await;
            victim = world.victim();
            sleep(between(0, if step == Step::Exchange { 250 } else { 25 })).await;
        }
        if world.is_quiet() {
            return;
        }
        if world.outage().is_some_and(|outage| outage.to - outage.from > LEASE) {
            continue;
        }
        let mut fleet = lock(fleet);
        let ambushed = fleet.iter().position(|replica| Some(replica.life.number) == victim);
        let number = ambushed.unwrap_or_else(|| fastrand::usize(0..REPLICAS));
        world.record().killed(fleet[number].life.number, ambushed.and(step), world.now());
        fleet[number].kill();
        fleet[number] = Replica::start(world, number, lives);
        lives += 1;
    }
}

fn lock(fleet: &Fleet) -> std::sync::MutexGuard<'_, Vec<Replica>> {
    fleet.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn call_on_and_on(world: Arc<World>, fleet: Fleet, n: usize, tab: usize) {
    for number in (0..REPLICAS).filter(|number| number % TABS == tab).cycle() {
        // A session stays for a while where it is. In the end, each replica is seen.
        let (calls, pause) = if world.is_quiet() { (1, 1_000) } else { (3, 2_000) };
        for _ in 0..calls {
            sleep(between(100, pause)).await;
            let is_over = lock(&fleet)[number].call(&world, n);
            let _ = is_over.await;
        }
    }
}

/// Each time that an application tells this user to.
async fn log_in_when_asked(world: Arc<World>, fleet: Fleet, n: usize) {
    loop {
        world.asked[n].notified().await;
        // Several replicas have asked, and the user has been at one.
        if !world.record().is_absent(n) {
            continue;
        }
        // A login is begun anew if it fails: its grant may be in use by then, and its refresh token spent.
        loop {
            sleep(between(100, 1_500)).await;
            let (client, tokens) = {
                let fleet = lock(&fleet);
                let replica = &fleet[fastrand::usize(0..REPLICAS)];
                (replica.client.clone(), replica.tokens.clone())
            };
            let log_in = async {
                let (url, login) = client.authorize().unwrap();
                let state = url.split_once("state=").unwrap().1.split('&').next().unwrap();
                let grant = client.finish(login, state, &n.to_string()).await.ok()?;
                tokens.sign_in(&user(n), &grant).await.ok()
            };
            if let Ok(Some(())) = timeout(PATIENCE, log_in).await {
                world.record().welcomed.push(n);
                break;
            }
        }
    }
}

/// The end of a deployment: each replica finishes what it has begun.
async fn settle(fleet: &Fleet) {
    lock(fleet).iter_mut().for_each(Replica::end_calls);
    let tokens: Vec<_> = lock(fleet).iter().map(|replica| replica.tokens.clone()).collect();
    for tokens in tokens {
        timeout(LEASE, tokens.settle()).await.expect("all is well, and nothing takes long");
    }
}

/// What the store holds in the end.
async fn look(world: &World) -> Vec<Final> {
    let mut last = Vec::new();
    for n in 0..USERS {
        let stored = world.memory.load(&format!("{CLIENT_ID}::user-{n}")).await.unwrap();
        last.push(Final {
            is_marked: stored.as_ref().is_some_and(|stored| marked_by(&stored.grant).is_some()),
            token: stored.and_then(|stored| Some(stored.grant.refresh_token()?.secret().clone())),
        });
    }
    last
}
