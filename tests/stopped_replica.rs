//! Replicas that the system stops (SIGSTOP) or kills in the middle of a refresh, while another one goes on.
//!
//! One replica is a process of its own, on a real Redis. It announces a point and waits there for a word of the test, which
//! stops it meanwhile: no case depends on how long anything takes. The other replica is the test itself.
//!
//! | stopped or killed | the token was sent | the user |
//! | --- | --- | --- |
//! | before the mark is stored | once, by the other | is served by the other |
//! | after the mark | never | is told to authorize, once |
//! | during the exchange, and goes on in time | once | is served by both |
//! | during the exchange, killed | once | is told to authorize, once |
//! | before the save | once | is told to authorize, once |
//! | before a deletion | as often as before | is told to authorize, once |
#![cfg(all(feature = "redis", feature = "simulator", unix))]

#[path = "stopped/identity.rs"]
mod identity;
#[path = "stopped/replica.rs"]
mod replica;
#[path = "support/redis.rs"]
mod servers;
mod support;
#[path = "support/oauth.rs"]
mod users;
#[path = "stopped/world.rs"]
mod world;

use futures::future::join;
use replica::Point;
use tower_credential_fallback::oauth::UserId;
use world::{Ended, Replica, World};

/// What becomes of the replica that is stopped, after the other one is done.
#[derive(Clone, Copy, Debug)]
enum End {
    GoesOn,
    IsKilled,
}

/// Both ends, at the same time, for a user each.
async fn with_both_ends(case: impl AsyncFn(End)) {
    join(case(End::GoesOn), case(End::IsKilled)).await;
}

/// The user, and the replica that stands still at this point.
async fn stopped_at(world: &World, user: &UserId, point: Point) -> Replica {
    let mut replica = Replica::start(world, user, point);
    replica.reaches(point).await;
    replica.stop().await;
    replica
}

/// What its user's calls end in there, if it goes on. Nothing is under way in it any more.
async fn ends(replica: &mut Replica, end: End) -> Option<Ended> {
    match end {
        End::GoesOn => {
            let ended = replica.goes_on().await;
            replica.settles().await;
            Some(ended)
        }
        End::IsKilled => {
            replica.is_killed().await;
            None
        }
    }
}

/// After one login, the user is served again, wherever there is a replica.
async fn one_login_is_enough(world: &World, user: &UserId, replica: &mut Replica, end: End) {
    let served = world.log_in(user).await;
    assert_eq!(world.call_until_it_ends(user).await, served, "{end:?}");
    if let End::GoesOn = end {
        assert_eq!(replica.calls().await, served);
    }
}

#[tokio::test]
async fn stopped_before_its_mark_a_replica_leaves_the_refresh_to_another() {
    let world = World::start().await;
    with_both_ends(async |end| {
        let user = world.user_with_an_ended_token().await;
        let mut replica = stopped_at(&world, &user, Point::BeforeMark).await;
        let ended = world.call_until_it_ends(&user).await;
        assert_eq!(ended, Ended::Served(world.newest(&user)));
        if let Some(there) = ends(&mut replica, end).await {
            assert_eq!(there, ended);
        }
        assert_eq!(world.times_sent(&user), [1, 0], "{end:?}: the first token, and its successor");
    })
    .await;
}

#[tokio::test]
async fn stopped_after_its_mark_a_replica_never_sends_the_token() {
    let world = World::start().await;
    with_both_ends(async |end| {
        let user = world.user_with_an_ended_token().await;
        let mut replica = stopped_at(&world, &user, Point::AfterMark).await;
        assert_eq!(world.call_until_it_ends(&user).await, Ended::ToldToAuthorize);
        if let Some(there) = ends(&mut replica, end).await {
            assert_eq!(there, Ended::ToldToAuthorize);
        }
        one_login_is_enough(&world, &user, &mut replica, end).await;
        assert_eq!(world.times_sent(&user), [0, 0], "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn stopped_in_the_exchange_a_replica_saves_the_answer_in_the_end() {
    let world = World::start().await;
    let user = world.user_with_an_ended_token().await;
    let mut replica = Replica::start_with_long_lease(&world, &user, Point::Exchange);
    world.identity.holds_an_exchange_of(&user).await;
    replica.stop().await;
    let ended = world.call(&user).await;
    assert!(matches!(ended, Ended::Failed(_)), "the lease is held: {ended:?}");
    world.identity.lets_go(&user);
    let served = Ended::Served(world.newest(&user));
    assert_eq!(ends(&mut replica, End::GoesOn).await, Some(served.clone()));
    assert_eq!(world.call_until_it_ends(&user).await, served);
    assert_eq!(world.times_sent(&user), [1, 0]);
}

#[tokio::test]
async fn killed_in_the_exchange_a_replica_costs_its_user_one_login() {
    let world = World::start().await;
    let user = world.user_with_an_ended_token().await;
    let mut replica = Replica::start(&world, &user, Point::Exchange);
    world.identity.holds_an_exchange_of(&user).await;
    replica.is_killed().await;
    world.identity.lets_go(&user);
    assert_eq!(world.call_until_it_ends(&user).await, Ended::ToldToAuthorize);
    one_login_is_enough(&world, &user, &mut replica, End::IsKilled).await;
    assert_eq!(world.times_sent(&user), [1, 0, 0]);
}

#[tokio::test]
async fn stopped_before_its_save_a_replica_brings_nothing_back() {
    let world = World::start().await;
    with_both_ends(async |end| {
        let user = world.user_with_an_ended_token().await;
        let mut replica = stopped_at(&world, &user, Point::BeforeSave).await;
        assert_eq!(world.call_until_it_ends(&user).await, Ended::ToldToAuthorize);
        if let Some(there) = ends(&mut replica, end).await {
            assert_eq!(there, Ended::ToldToAuthorize);
        }
        one_login_is_enough(&world, &user, &mut replica, end).await;
        assert_eq!(world.times_sent(&user), [1, 0, 0], "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn stopped_before_a_deletion_a_replica_keeps_a_later_login() {
    let world = World::start().await;
    with_both_ends(async |end| {
        let user = world.user_with_the_mark_of_a_dead_replica().await;
        let mut replica = stopped_at(&world, &user, Point::BeforeDeletion).await;
        assert_eq!(world.call_until_it_ends(&user).await, Ended::ToldToAuthorize);
        let served = world.log_in(&user).await;
        if let Some(there) = ends(&mut replica, end).await {
            assert_eq!(there, served);
        }
        assert_eq!(world.call_until_it_ends(&user).await, served, "{end:?}");
        assert_eq!(world.times_sent(&user), [0, 0], "{end:?}");
    })
    .await;
}

/// The process of a [`Replica`]: a test starts this very program again.
#[test]
#[ignore = "the other tests start it"]
fn replica_process() {
    replica::run();
}
