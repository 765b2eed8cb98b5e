//! Conversations stay behind when a bot moves: a chat goes on without its own, if it is told to.
#![cfg(feature = "simulator")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use support::{HyperClient, Protocol, hyper_client};
use tower::{Layer, ServiceExt};
use tower_credential_fallback::coze::simulator::{AccountId, Refusal, Settings, Simulator, WorkspaceId};
use tower_credential_fallback::coze::{self, FreshConversations, Region};
use tower_credential_fallback::{
    BoxError, Credential, CredentialFallback, CredentialFallbackLayer, FallbackHandle, Order, Outcome,
    ReplayBody, Slot,
};

type Client = CredentialFallback<HyperClient<ReplayBody<Full<Bytes>>>, Credential, Credential>;

struct Stage {
    coze: Simulator,
    person: AccountId,
    enterprise: AccountId,
    workspace: WorkspaceId,
    bot: String,
    client: Client,
    handle: FallbackHandle,
}

/// What came of a chat.
#[derive(Debug, PartialEq)]
struct Chat {
    code: i64,
    conversation: String,
    by: Option<Slot>,
    attempts: usize,
    is_afresh: bool,
}

impl Stage {
    async fn set(is_allowed: bool, settings: Settings) -> Self {
        let coze = Simulator::start_with(settings).await.unwrap();
        let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
        let workspace = coze.create_workspace(&person);
        let bot = coze.create_bot(&workspace);
        let (old, new) = (coze.create_token(&person), coze.create_token(&enterprise));
        let mut layer = coze::tokens(&Region::custom(coze.base_url()).unwrap(), old, new).unwrap();
        if is_allowed {
            layer = layer.with_left_behind(FreshConversations::new());
        }
        let layer = layer.with_cooldown(std::time::Duration::ZERO);
        let (client, handle) = (layer.layer(hyper_client(Protocol::Http1)), layer.handle());
        Self { coze, person, enterprise, workspace, bot, client, handle }
    }

    async fn chat(&self, conversation: Option<&str>) -> Chat {
        let query = conversation.map(|id| format!("?conversation_id={id}")).unwrap_or_default();
        let message = json!({ "role": "user", "content": "hello", "content_type": "text" });
        let body = json!({ "bot_id": self.bot, "user_id": "u", "additional_messages": [message] });
        let request = Request::post(format!("{}/v3/chat{query}", self.coze.base_url()))
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        let response = self.client.clone().oneshot(request).await.unwrap();
        let outcome = Outcome::of(&response).clone();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let json: Value = serde_json::from_slice(&body).unwrap();
        Chat {
            code: json["code"].as_i64().unwrap(),
            conversation: json["data"]["conversation_id"].as_str().unwrap_or_default().to_owned(),
            by: outcome.answered_by(),
            attempts: outcome.attempts().count(),
            is_afresh: outcome.started_afresh(),
        }
    }

    fn move_bot(&self, to: &AccountId) {
        self.coze.move_workspace(&self.workspace, to);
    }
}

fn chat(conversation: &str, by: Slot, attempts: usize, is_afresh: bool) -> Chat {
    Chat { code: 0, conversation: conversation.to_owned(), by: Some(by), attempts, is_afresh }
}

/// The same, whatever the conversation is that was made.
fn fresh(known: &Chat, by: Slot, attempts: usize) -> Chat {
    chat(&known.conversation, by, attempts, true)
}

#[tokio::test]
async fn a_chat_goes_on_in_a_fresh_conversation_when_its_own_has_stayed_behind() {
    for refusal in [Refusal::json(200, 4101), Refusal::json(200, 4002)] {
        let stage = Stage::set(true, Settings::default().with_wrong_conversation(refusal)).await;
        let old = stage.chat(None).await.conversation;
        assert_eq!(stage.chat(Some(&old)).await, chat(&old, Slot::Primary, 1, false));

        stage.move_bot(&stage.enterprise);
        let first = stage.chat(Some(&old)).await;
        assert_eq!(first, fresh(&first, Slot::Fallback, 2));
        assert_ne!(first.conversation, old);
        // The bot is known to have moved, and refuses the old conversation.
        let second = stage.chat(Some(&old)).await;
        assert_eq!(second, fresh(&second, Slot::Fallback, 2));
        // That is known now, too: one request from here on.
        let third = stage.chat(Some(&old)).await;
        assert_eq!(third, fresh(&third, Slot::Fallback, 1));

        // Callers that take the new one over go on in it.
        let new = first.conversation;
        for _ in 0..2 {
            assert_eq!(stage.chat(Some(&new)).await, chat(&new, Slot::Fallback, 1, false));
        }

        // And back: the person's conversation is there again, the enterprise's is not.
        stage.move_bot(&stage.person);
        let back = stage.chat(Some(&old)).await;
        assert_eq!(back, chat(&old, Slot::Primary, 2, false));
        assert_eq!(stage.chat(Some(&old)).await, chat(&old, Slot::Primary, 1, false));
        let left = stage.chat(Some(&new)).await;
        assert_eq!(left, fresh(&left, Slot::Primary, 2));
        let left = stage.chat(Some(&new)).await;
        assert_eq!(left, fresh(&left, Slot::Primary, 1));
    }
}

#[tokio::test]
async fn without_the_rule_the_refusal_stays_and_the_request_is_never_changed() {
    let stage = Stage::set(false, Settings::default()).await;
    let old = stage.chat(None).await.conversation;
    stage.move_bot(&stage.enterprise);
    let refused = stage.chat(Some(&old)).await;
    assert_eq!((refused.code, refused.attempts, refused.is_afresh), (4101, 2, false));
    let chats = stage.coze.requests().into_iter().filter(|request| request.path == "/v3/chat").skip(1);
    assert!(chats.into_iter().all(|request| request.query == Some(format!("conversation_id={old}"))));
}

#[tokio::test]
async fn with_the_fallback_first_a_bot_that_has_not_moved_keeps_its_conversation() {
    let stage = Stage::set(true, Settings::default()).await;
    let old = stage.chat(None).await.conversation;
    stage.handle.set_order(Order::FallbackFirst);
    assert_eq!(stage.chat(Some(&old)).await, chat(&old, Slot::Primary, 2, false));

    // It moves. The first call cannot know whether the bot or the conversation is the cause; the second does.
    stage.move_bot(&stage.enterprise);
    assert_eq!(stage.chat(Some(&old)).await.code, 4101);
    let healed = stage.chat(Some(&old)).await;
    assert_eq!(healed, fresh(&healed, Slot::Fallback, 1));
}

#[tokio::test]
async fn a_conversation_that_nobody_has_is_left_as_well_and_one_that_is_known_is_kept() {
    let stage = Stage::set(true, Settings::default()).await;
    stage.move_bot(&stage.enterprise);
    let new = stage.chat(None).await.conversation;
    assert_eq!(stage.chat(Some(&new)).await, chat(&new, Slot::Fallback, 1, false));
    let strangers = Stage::set(true, Settings::default()).await.chat(None).await.conversation;
    // A conversation that nobody has: without it, the bot answers.
    let answer = stage.chat(Some(&format!("{strangers}0"))).await;
    assert_eq!(answer, fresh(&answer, Slot::Fallback, 2));
}

#[tokio::test]
async fn a_bot_that_nothing_is_known_of_keeps_the_conversation_that_the_fallback_has() {
    let mut stage = Stage::set(true, Settings::default()).await;
    stage.move_bot(&stage.enterprise);
    let new = stage.chat(None).await.conversation;
    assert_eq!(stage.chat(Some(&new)).await, chat(&new, Slot::Fallback, 1, false));
    // Another bot of the enterprise, in the same conversation.
    stage.bot = stage.coze.create_bot(&stage.workspace);
    assert_eq!(stage.chat(Some(&new)).await, chat(&new, Slot::Fallback, 2, false));
}

#[tokio::test]
async fn a_token_that_is_not_valid_costs_nobody_a_conversation() {
    let is_renewed = Arc::new(AtomicBool::new(false));
    let renewed = Arc::clone(&is_renewed);
    let inner = tower::service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
        let is_new = request.headers()["authorization"] == "Bearer new";
        let status = match (is_new, renewed.load(Ordering::SeqCst)) {
            (true, true) if request.uri().query() == Some("conversation_id=1") => 200,
            (true, true) => 500,
            (true, false) => 401,
            (false, _) => 403,
        };
        let answer = Response::builder().status(status).body(Full::<Bytes>::default()).unwrap();
        std::future::ready(Ok::<_, BoxError>(answer))
    });
    let token = |text| Credential::bearer(text).unwrap();
    let client = CredentialFallbackLayer::new(token("old"), token("new"))
        .unwrap()
        .with_order(Order::FallbackFirst)
        .with_cooldown(std::time::Duration::ZERO)
        .with_left_behind(FreshConversations::new())
        .layer(inner);
    let chat = async || {
        let request = Request::post("https://api.example/v3/chat?conversation_id=1").body(Full::default());
        client.clone().oneshot(request.unwrap()).await.unwrap().status()
    };
    assert_eq!(chat().await, 403, "the new token has run out, and the bot is not the old one's");
    is_renewed.store(true, Ordering::SeqCst);
    assert_eq!(chat().await, 200, "with its conversation");
}
