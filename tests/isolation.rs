//! No request pays for another: a rejected user, conversation or request never holds back anybody else's replay.
#![cfg(feature = "simulator")]

#[path = "support/script.rs"]
mod script;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use script::{Script, get, layer};
use serde_json::{Value, json};
use support::{HyperClient, Protocol, hyper_client};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::simulator::{AccountId, Simulator, WorkspaceId};
use tower_credential_fallback::coze::{self, FreshConversations, Region};
use tower_credential_fallback::oauth::UserId;
use tower_credential_fallback::{
    Credential, CredentialFallback, CredentialFallbackLayer, NoReplay, Outcome, PeekBody, ReplayBody, Slot,
    provider_fn,
};

const URI: &str = "https://api.example/v1/things/7";

fn is_held_back<B>(response: &Response<PeekBody<B>>) -> bool
where
    B: http_body::Body,
{
    matches!(Outcome::of(response).no_replay(), Some(NoReplay::CoolingDown))
}

#[tokio::test(start_paused = true)]
async fn only_the_same_request_of_the_same_user_is_held_back() {
    let server = Script::statuses(|_| 403);
    let client = layer().layer(server.clone());
    let request = |user: &str, method: &str, uri: &str, content: &'static str| {
        let request = Request::builder().method(method).uri(uri).extension(UserId::new(user));
        request.body(Full::<Bytes>::from(content)).unwrap()
    };
    let call = async |request| is_held_back(&client.clone().oneshot(request).await.unwrap());
    let first = || request("alice", "POST", URI, "{}");
    assert!(!call(first()).await);
    for other in [
        request("bob", "POST", URI, "{}"),
        request("alice", "PUT", URI, "{}"),
        request("alice", "POST", "https://api.example/v1/things/7?x", "{}"),
        request("alice", "POST", "https://other.example/v1/things/7", "{}"),
        request("alice", "POST", URI, "{ }"),
        request("alice", "POST", URI, ""),
    ] {
        let shown = format!("{other:?}");
        assert!(!call(other).await, "{shown}");
    }
    let mut of_another_tenant = first();
    of_another_tenant.headers_mut().insert("x-workspace", "b".parse().unwrap());
    assert!(!call(of_another_tenant).await);
    // A retry has a trace of its own.
    let mut retry = first();
    retry
        .headers_mut()
        .insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
    assert!(call(retry).await, "a retry of the same");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!call(first()).await, "the cooldown is over");
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_id_equals_the_tenants_resource_holds_nobody_back() {
    fn tenant<'r>(_: &'r http::request::Parts, _: &'r [u8]) -> Option<&'r str> {
        Some("acme")
    }
    // The user `acme` is rejected twice; everybody else is served by the new credential.
    let fallback = provider_fn(|head: &http::request::Parts| {
        let is_acme = head.extensions.get::<UserId>().is_some_and(|user| user.as_str() == "acme");
        std::future::ready(Ok(Credential::bearer(if is_acme { "closed" } else { "new" }).unwrap()))
    });
    let server = Script::statuses(|asked| if asked.is_new() { 200 } else { 403 });
    let layer = CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), fallback).unwrap();
    let client = layer.with_resource_key(tenant).layer(server.clone());
    let call = async |user: &str| {
        let mut request = get(URI);
        request.extensions_mut().insert(UserId::new(user));
        client.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(call("acme").await, 403);
    for user in ["alice", "bob", "carol"] {
        assert_eq!(call(user).await, 200, "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn users_told_apart_by_a_header_of_their_own_hold_nobody_back() {
    let fallback = provider_fn(|head: &http::request::Parts| {
        let token = head.headers["x-user"].to_str().unwrap().to_owned();
        std::future::ready(Ok(Credential::bearer(token).unwrap()))
    });
    let server = Script::statuses(|asked| if asked.token == "bob" { 200 } else { 403 });
    let layer = CredentialFallbackLayer::new(Credential::bearer("old").unwrap(), fallback).unwrap();
    let client = layer.layer(server);
    for (user, status) in [("alice", 403), ("bob", 200)] {
        let mut request = get(URI);
        request.headers_mut().insert("x-user", user.parse().unwrap());
        assert_eq!(client.clone().oneshot(request).await.unwrap().status(), status, "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_users_upload_is_no_hint_for_anothers() {
    use http_body_util::StreamBody;
    // Alice's uploads are the new credential's, Bob's the old one's. Each is too large to be replayed.
    let inner = tower::service_fn(async |request: Request<ReplayBody<_>>| {
        let is_alice = request.headers()["x-user"] == "alice";
        let is_new = request.headers()["authorization"] == "Bearer new";
        let _ = request.into_body().collect().await;
        Ok::<_, tower_credential_fallback::BoxError>(script::answer(
            if is_alice == is_new { 200 } else { 403 },
            "",
        ))
    });
    let client = layer().with_replay_limit(1).layer(inner);
    let upload = async |user: &str| {
        let frames =
            ["a", "b"].map(|text| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(text))));
        let request = Request::post(URI).header("x-user", user);
        let request = request.body(StreamBody::new(futures::stream::iter(frames))).unwrap();
        client.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(upload("alice").await, 403);
    assert_eq!(upload("bob").await, 200);
    assert_eq!(upload("alice").await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_rejected_a_minute_later_is_replayed() {
    // Each rejection takes a minute: when the call began, the same request was in its cooldown.
    let server = Script::new(|asked| async move {
        if asked.nth == 2 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Ok(script::answer(if asked.nth == 3 { 200 } else { 403 }, ""))
    });
    let client = layer().layer(server.clone());
    client.clone().oneshot(get(URI)).await.unwrap();
    assert_eq!(client.oneshot(get(URI)).await.unwrap().status(), 200);
    assert_eq!(server.tokens(), ["old", "new", "old", "new"]);
}

#[tokio::test(start_paused = true)]
async fn calls_after_a_gap_in_a_move_are_answered_at_once() {
    const STEP: Duration = Duration::from_millis(10);
    let served_by = Arc::new(AtomicU8::new(0));
    let serves = Arc::clone(&served_by);
    let server = Script::statuses(move |asked| match serves.load(Ordering::SeqCst) {
        0 if !asked.is_new() => 200,
        2 if asked.is_new() => 200,
        _ => 403,
    });
    let client = layer().layer(server.clone());
    let mut rejected = 0;
    let mut held_back = 0;
    for nth in 0..200 {
        // Neither serves the resource for 50 ms.
        served_by.store(
            if nth < 20 {
                0
            } else if nth < 25 {
                1
            } else {
                2
            },
            Ordering::SeqCst,
        );
        let call = client.clone().oneshot(get(&format!("https://api.example/v1/things/{nth}")));
        rejected += usize::from(Outcome::of(&call.await.unwrap()).is_refused());
        tokio::time::advance(STEP).await;
    }
    assert_eq!(rejected, 5);
    // A retry loop of one rejected request is held back, whatever else is served meanwhile.
    served_by.store(2, Ordering::SeqCst);
    let server =
        Script::statuses(|asked| if asked.is_new() && asked.uri.path() != "/closed" { 200 } else { 403 });
    let client = layer().layer(server.clone());
    for _ in 0..50 {
        held_back += usize::from(is_held_back(
            &client.clone().oneshot(get("https://api.example/closed")).await.unwrap(),
        ));
        assert_eq!(client.clone().oneshot(get(URI)).await.unwrap().status(), 200);
        tokio::time::advance(STEP).await;
    }
    assert_eq!(held_back, 49);
}

type Client = CredentialFallback<HyperClient<ReplayBody<Full<Bytes>>>, Credential, Credential>;

/// Bots of a person, which move to an enterprise.
struct Stage {
    coze: Simulator,
    person: AccountId,
    enterprise: AccountId,
    bots: Vec<(WorkspaceId, String)>,
    client: Client,
}

/// The result of a call.
#[derive(Debug)]
struct Called {
    code: i64,
    data: Value,
    by: Option<Slot>,
    attempts: usize,
}

impl Stage {
    async fn set(bots: usize, has_fresh_conversations: bool) -> Self {
        let coze = Simulator::start().await.unwrap();
        let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
        let bots = (0..bots).map(|_| {
            let workspace = coze.create_workspace(&person);
            let bot = coze.create_bot(&workspace);
            (workspace, bot)
        });
        let bots = bots.collect();
        let (old, new) = (coze.create_token(&person), coze.create_token(&enterprise));
        let mut layer = coze::tokens(&Region::custom(coze.base_url()).unwrap(), old, new).unwrap();
        if has_fresh_conversations {
            layer = layer.with_left_behind(FreshConversations::new());
        }
        let client = layer.layer(hyper_client(Protocol::Http1));
        Self { coze, person, enterprise, bots, client }
    }

    async fn call(&self, request: http::request::Builder, body: Value) -> Called {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.header("content-type", "application/json").body(Full::from(body)).unwrap();
        let response = self.client.clone().oneshot(request).await.unwrap();
        let outcome = Outcome::of(&response).clone();
        let mut json: Value =
            serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        Called {
            code: json["code"].as_i64().unwrap(),
            data: json["data"].take(),
            by: outcome.served_by(),
            attempts: outcome.attempts().count(),
        }
    }

    async fn get(&self, path: &str) -> Called {
        self.call(Request::get(format!("{}{path}", self.coze.base_url())), Value::Null).await
    }

    async fn chat(&self, bot: &str, conversation: Option<&str>) -> Called {
        let query = conversation.map(|id| format!("?conversation_id={id}")).unwrap_or_default();
        let message = json!({ "role": "user", "content": "hello", "content_type": "text" });
        let body = json!({ "bot_id": bot, "user_id": "u", "additional_messages": [message] });
        self.call(Request::post(format!("{}/v3/chat{query}", self.coze.base_url())), body).await
    }

    async fn create_conversation(&self) -> Called {
        let url = format!("{}/v1/conversation/create", self.coze.base_url());
        self.call(Request::post(url), json!({})).await
    }
}

#[tokio::test]
async fn chats_in_the_other_accounts_conversation_hold_back_no_fresh_chat() {
    for has_fresh_conversations in [false, true] {
        let stage = Arc::new(Stage::set(1, has_fresh_conversations).await);
        let (workspace, bot) = stage.bots[0].clone();
        // One conversation of each account; the bot is the enterprise's by now.
        let of_person = stage.chat(&bot, None).await.data["conversation_id"].as_str().unwrap().to_owned();
        stage.coze.move_workspace(&workspace, &stage.enterprise);
        let callers = (0..4).map(|_| {
            let (stage, bot, of_person) = (Arc::clone(&stage), bot.clone(), of_person.clone());
            tokio::spawn(async move {
                for _ in 0..50 {
                    let called = stage.chat(&bot, Some(&of_person)).await;
                    assert_eq!(called.by.is_some(), has_fresh_conversations, "{called:?}");
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        let mut fresh = 0;
        while !callers.iter().all(tokio::task::JoinHandle::is_finished) || fresh < 50 {
            let called = stage.chat(&bot, None).await;
            assert_eq!((called.code, called.by), (0, Some(Slot::Fallback)), "{called:?}");
            fresh += 1;
        }
        futures::future::try_join_all(callers).await.unwrap();
    }
}

#[tokio::test]
async fn after_a_move_a_new_conversation_is_created_and_polled_at_one_request_a_call() {
    const BOTS: usize = 1_000;
    let stage = Stage::set(BOTS, false).await;
    for (workspace, bot) in &stage.bots {
        assert_eq!(stage.get(&format!("/v1/bots/{bot}")).await.by, Some(Slot::Primary));
        stage.coze.move_workspace(workspace, &stage.enterprise);
        assert_eq!(stage.get(&format!("/v1/bots/{bot}")).await.by, Some(Slot::Fallback));
    }
    let (before, mut calls) = (stage.coze.request_count(), 0);
    for nth in 0..200 {
        let created = stage.create_conversation().await;
        assert_eq!((created.code, created.by), (0, Some(Slot::Fallback)), "{created:?}");
        let id = created.data["id"].as_str().unwrap();
        for _ in 0..3 {
            let polled = stage.get(&format!("/v1/conversation/retrieve?conversation_id={id}")).await;
            assert_eq!((polled.code, polled.attempts), (0, 1), "{polled:?}");
        }
        let chat = stage.chat(&stage.bots[nth].1, Some(id)).await;
        let (chat, conversation) = (chat.data["id"].as_str().unwrap(), &chat.data["conversation_id"]);
        assert_eq!(conversation, id);
        let polled = stage.get(&format!("/v3/chat/retrieve?conversation_id={id}&chat_id={chat}")).await;
        assert_eq!((polled.code, polled.attempts), (0, 1), "{polled:?}");
        calls += 6;
    }
    assert_eq!(stage.coze.request_count() - before, calls, "requests of {calls} calls");
    // Those that are the person's still are found with one rejection, once.
    let own = stage.coze.create_bot(&stage.coze.create_workspace(&stage.person));
    let attempts = [stage.get(&format!("/v1/bots/{own}")).await, stage.get(&format!("/v1/bots/{own}")).await];
    assert_eq!(
        attempts.map(|called| (called.by, called.attempts)),
        [(Some(Slot::Primary), 2), (Some(Slot::Primary), 1)]
    );
}

#[tokio::test]
async fn while_few_bots_have_moved_conversations_are_made_where_most_are() {
    let stage = Stage::set(200, false).await;
    for (nth, (workspace, bot)) in stage.bots.iter().enumerate() {
        assert_eq!(stage.get(&format!("/v1/bots/{bot}")).await.by, Some(Slot::Primary));
        if nth % 10 == 0 {
            stage.coze.move_workspace(workspace, &stage.enterprise);
            assert_eq!(stage.get(&format!("/v1/bots/{bot}")).await.by, Some(Slot::Fallback));
        }
    }
    let created = stage.create_conversation().await;
    assert_eq!(created.by, Some(Slot::Primary));
    let chat = stage.chat(&stage.bots[1].1, created.data["id"].as_str()).await;
    assert_eq!((chat.code, chat.by, chat.attempts), (0, Some(Slot::Primary), 1), "{chat:?}");
}
