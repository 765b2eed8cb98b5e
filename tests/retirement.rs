//! The report says "yes, retire" only on clear answers of the fallback, and knows who served what last.
#![cfg(feature = "json")]

#[path = "support/script.rs"]
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use script::{Log, Script, answer, get, layer};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::{
    Credential, CredentialChoice, CredentialError, CredentialFallbackLayer, Order, Outcome, RECENT,
    SharedPreferences, Slot, provider_fn,
};

const URI: &str = "https://api.example/v1/things/7";

#[tokio::test(start_paused = true)]
async fn nothing_clear_from_the_fallback_leaves_open_whether_the_primary_can_go() {
    #[derive(Clone, Copy, Debug)]
    enum Trouble {
        NoCredential,
        Status(u16),
        Reset,
        Slow,
    }
    use Trouble::{NoCredential, Reset, Slow, Status};
    for order in [Order::FallbackOnly, Order::FallbackFirst] {
        for trouble in [NoCredential, Status(503), Status(429), Status(404), Reset, Slow] {
            if matches!((order, trouble), (Order::FallbackFirst, NoCredential)) {
                // The primary serves instead, and is needed.
                continue;
            }
            let is_down = Arc::new(AtomicBool::new(false));
            let (down, is_out) = (Arc::clone(&is_down), Arc::clone(&is_down));
            let server = Script::new(move |asked| {
                // All but one resource is served.
                let is_down = down.load(Ordering::SeqCst) && asked.uri.path() == "/troubled";
                async move {
                    match trouble {
                        Status(status) if is_down => Ok(answer(status, "")),
                        Reset if is_down => Err("reset".into()),
                        Slow if is_down => std::future::pending().await,
                        _ => Ok(answer(200, "")),
                    }
                }
            });
            let fallback = provider_fn(move |head: &http::request::Parts| {
                let is_out = matches!(trouble, NoCredential) && is_out.load(Ordering::SeqCst);
                let is_out = is_out && head.uri.path() == "/troubled";
                std::future::ready(match is_out {
                    true => Err(CredentialError::new("the vault is sealed")),
                    false => Ok(Credential::bearer("new").unwrap()),
                })
            });
            let primary = Credential::bearer("old").unwrap();
            let layer = CredentialFallbackLayer::new(primary, fallback).unwrap().with_order(order);
            let layer = layer.with_resource_key(path);
            let (client, handle) = (layer.layer(server), layer.handle());
            let call = async |path: &str| {
                let call = client.clone().oneshot(get(&format!("https://api.example{path}")));
                let _ = tokio::time::timeout(Duration::from_secs(9), call).await;
            };
            tokio::time::advance(2 * RECENT).await;
            call("/fine").await;
            assert_eq!(handle.report().can_retire_primary(), Some(true));
            is_down.store(true, Ordering::SeqCst);
            for _ in 0..20 {
                call("/troubled").await;
            }
            call("/fine").await;
            let report = handle.report();
            assert_eq!(report.can_retire_primary(), None, "{order:?} {trouble:?}: {report}");
            // A clear answer to the same closes the question; that there was no credential stays true for its time.
            is_down.store(false, Ordering::SeqCst);
            call("/troubled").await;
            if matches!(trouble, NoCredential) {
                assert_eq!(handle.report().can_retire_primary(), None, "{order:?} {trouble:?}");
                tokio::time::advance(RECENT).await;
                call("/fine").await;
            }
            assert_eq!(handle.report().can_retire_primary(), Some(true), "{order:?} {trouble:?}");
            // What was served lately is no question, whatever else its answers are.
            call("/troubled").await;
            is_down.store(true, Ordering::SeqCst);
            if let Status(_) = trouble {
                call("/troubled").await;
                assert_eq!(handle.report().can_retire_primary(), Some(true), "{order:?} {trouble:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_fallback_serves_at_once_counts_as_moved() {
    let server = Script::statuses(|_| 200);
    let layer = layer().with_order(Order::FallbackFirst);
    let (client, handle) = (layer.layer(server), layer.handle());
    for host in ["a", "b", "b"] {
        client.clone().oneshot(get(&format!("https://{host}.example/"))).await.unwrap();
    }
    assert_eq!((handle.report().moved, handle.report().not_moved), (2, 0));
    let mut pinned = get("https://b.example/");
    pinned.extensions_mut().insert(CredentialChoice::Only(Slot::Primary));
    client.oneshot(pinned).await.unwrap();
    assert_eq!((handle.report().moved, handle.report().not_moved), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_resource_has_moved_if_the_fallback_was_the_last_to_serve_it() {
    // Both serve it, the fallback slowly.
    let has_moved = Arc::new(AtomicBool::new(true));
    let moved = Arc::clone(&has_moved);
    let server = Script::new(move |asked| {
        let status = if asked.is_new() || !moved.load(Ordering::SeqCst) { 200 } else { 403 };
        async move {
            if asked.is_new() {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok(answer(status, ""))
        }
    });
    let layer = layer();
    let (client, handle) = (layer.layer(server), layer.handle());
    client.clone().oneshot(get(URI)).await.unwrap();
    has_moved.store(false, Ordering::SeqCst);
    let slow = tokio::spawn(client.clone().oneshot(get(URI)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut pinned = get(URI);
    pinned.extensions_mut().insert(CredentialChoice::First(Slot::Primary));
    client.oneshot(pinned).await.unwrap();
    assert_eq!((handle.report().moved, handle.report().not_moved), (0, 1));
    assert_eq!(Outcome::of(&slow.await.unwrap().unwrap()).served_by(), Some(Slot::Fallback));
    assert_eq!((handle.report().moved, handle.report().not_moved), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_has_told_was_not_served_just_now() {
    // The fallback serves the resource, and a day later answers it with nothing but 503.
    let is_down = Arc::new(AtomicBool::new(false));
    let down = Arc::clone(&is_down);
    let server = Script::statuses(move |asked| match asked.uri.path() {
        _ if !asked.is_new() => 401,
        "/troubled" if down.load(Ordering::SeqCst) => 503,
        _ => 200,
    });
    let log = Log::default();
    let replica = async |order| {
        let shared = SharedPreferences::open(log.clone()).await.unwrap();
        layer().with_resource_key(path).with_shared_preferences(&shared).with_order(order)
    };
    let first = replica(Order::Adaptive).await;
    first.layer(server.clone()).oneshot(get("https://api.example/troubled")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(log.0.lock().unwrap().len(), 1);
    is_down.store(true, Ordering::SeqCst);
    let second = replica(Order::FallbackFirst).await;
    let (client, handle) = (second.layer(server), second.handle());
    tokio::time::advance(RECENT).await;
    for path in ["fine", "troubled"] {
        client.clone().oneshot(get(&format!("https://api.example/{path}"))).await.unwrap();
    }
    assert_eq!(handle.report().can_retire_primary(), None, "{}", handle.report());
}

fn path<'r>(head: &'r http::request::Parts, _: &'r [u8]) -> Option<&'r str> {
    Some(head.uri.path())
}

#[tokio::test(start_paused = true)]
async fn paths_that_both_reject_are_no_resources() {
    let server = Script::statuses(|_| 403);
    let layer = layer();
    let (client, handle) = (layer.layer(server), layer.handle());
    for nth in 0..20_000 {
        client.clone().oneshot(get(&format!("https://api.example/{nth}"))).await.unwrap();
    }
    let report = handle.report();
    assert_eq!((report.moved, report.not_moved, report.has_more_resources), (0, 0, false));
    assert_eq!(report.refused, 20_000);
}
