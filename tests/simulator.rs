//! The local Coze, and the layer and providers against it, over real sockets.
#![cfg(feature = "simulator")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use support::{HyperClient, PROTOCOLS, Protocol, hyper_client};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tower::{Layer, Service, ServiceExt};
use tower_credential_fallback::coze::simulator::{
    AccountId, Fault, OAuthApp, Refusal, Settings, Simulator, WebSocketRefusal,
};
use tower_credential_fallback::coze::{self, Region};
use tower_credential_fallback::{
    BoxError, Credential, CredentialFallback, NoReplay, Outcome, RejectionKind, ReplayBody, Slot,
};

type Plain = HyperClient<Full<Bytes>>;

fn plain() -> Plain {
    hyper_client(Protocol::Http1)
}

struct Answer {
    status: u16,
    content_type: String,
    body: Bytes,
    attempts: usize,
}

impl Answer {
    async fn of<B: http_body::Body<Error: std::fmt::Debug>>(response: http::Response<B>) -> Self {
        let attempts = Outcome::of(&response).attempts().count();
        let content_type =
            response.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
        let status = response.status().as_u16();
        Self {
            status,
            content_type,
            body: response.into_body().collect().await.unwrap().to_bytes(),
            attempts,
        }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn code(&self) -> Option<i64> {
        self.json()["code"].as_i64()
    }
}

async fn send<S, B>(client: S, request: Request<Full<Bytes>>) -> Answer
where
    S: Service<Request<Full<Bytes>>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    Answer::of(client.oneshot(request).await.map_err(Into::into).unwrap()).await
}

fn post(coze: &Simulator, token: &str, path: &str, body: &Value) -> Request<Full<Bytes>> {
    let request =
        Request::post(format!("{}{path}", coze.base_url())).header("content-type", "application/json");
    request.header("authorization", format!("Bearer {token}")).body(Full::from(body.to_string())).unwrap()
}

fn get(coze: &Simulator, token: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("{}{path}", coze.base_url()));
    request.header("authorization", format!("Bearer {token}")).body(Full::default()).unwrap()
}

fn question(bot: &str, text: &str, stream: bool) -> Value {
    let messages = [json!({ "role": "user", "content": text, "content_type": "text" })];
    json!({ "bot_id": bot, "user_id": "u", "stream": stream, "auto_save_history": true, "additional_messages": messages })
}

fn upload(coze: &Simulator, token: &str, content: &[u8]) -> Request<Full<Bytes>> {
    let mut body =
        b"--cut\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n".to_vec();
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n--cut--\r\n");
    let request = Request::post(format!("{}/v1/files/upload", coze.base_url()));
    request
        .header("content-type", "multipart/form-data; boundary=cut")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::from(body))
        .unwrap()
}

struct World {
    coze: Simulator,
    person: AccountId,
    enterprise: AccountId,
    workspace: coze::simulator::WorkspaceId,
    bot: String,
    old: String,
    new: String,
}

async fn world_with(settings: Settings) -> World {
    let coze = Simulator::start_with(settings).await.unwrap();
    let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
    let workspace = coze.create_workspace(&person);
    let bot = coze.create_bot(&workspace);
    let (old, new) = (coze.create_token(&person), coze.create_token(&enterprise));
    World { coze, person, enterprise, workspace, bot, old, new }
}

async fn world() -> World {
    world_with(Settings::default()).await
}

impl World {
    fn client(
        &self,
        protocol: Protocol,
    ) -> CredentialFallback<HyperClient<ReplayBody<Full<Bytes>>>, Credential, Credential> {
        let region = Region::custom(self.coze.base_url()).unwrap();
        coze::tokens(&region, &self.old, &self.new).unwrap().layer(hyper_client(protocol))
    }
}

#[tokio::test]
async fn a_bot_moves_with_its_workspace_and_back_while_conversations_and_files_stay() {
    let w = world().await;
    let chat = question(&w.bot, "hi", false);
    let conversation = send(plain(), post(&w.coze, &w.old, "/v1/conversation/create", &json!({}))).await;
    let conversation = conversation.json()["data"]["id"].as_str().unwrap().to_owned();
    let file = send(plain(), upload(&w.coze, &w.old, b"content")).await.json()["data"]["id"]
        .as_str()
        .unwrap()
        .to_owned();

    for (owner, right, wrong) in
        [(None, &w.old, &w.new), (Some(&w.enterprise), &w.new, &w.old), (Some(&w.person), &w.old, &w.new)]
    {
        if let Some(owner) = owner {
            w.coze.move_workspace(&w.workspace, owner);
        }
        assert_eq!(send(plain(), post(&w.coze, right, "/v3/chat", &chat)).await.code(), Some(0));
        assert_eq!(send(plain(), post(&w.coze, wrong, "/v3/chat", &chat)).await.code(), Some(4101));
        for path in [
            format!("/v1/conversation/retrieve?conversation_id={conversation}"),
            format!("/v1/files/retrieve?file_id={file}"),
        ] {
            assert_eq!(send(plain(), get(&w.coze, &w.old, &path)).await.code(), Some(0), "{path}");
            assert_eq!(send(plain(), get(&w.coze, &w.new, &path)).await.code(), Some(4101), "{path}");
        }
    }
}

#[tokio::test]
async fn an_invalid_token_is_refused_as_each_endpoint_was_seen_to() {
    let w = world().await;
    for (path, status, code) in [
        ("/v3/chat", 200, 4101),
        ("/v3/chat/retrieve", 401, 700012006),
        ("/v1/conversation/create", 401, 700012006),
        ("/v1/workflow/stream_run", 401, 4100),
    ] {
        let answer =
            send(plain(), post(&w.coze, "nonsense", path, &json!({ "workflow_id": "w", "bot_id": "b" })))
                .await;
        assert_eq!((answer.status, answer.code()), (status, Some(code)), "{path}");
        assert!(answer.json()["detail"]["logid"].is_string());
    }
    let unknown = send(plain(), post(&w.coze, &w.old, "/v3/chat", &question("1", "", false))).await;
    assert_eq!((unknown.status, unknown.code()), (200, Some(4200)));
    let path = send(plain(), get(&w.coze, &w.old, "/v9/nothing")).await;
    assert_eq!((path.status, path.code()), (404, Some(4000)));
    let malformed = Request::post(format!("{}/v3/chat", w.coze.base_url()))
        .header("authorization", format!("Bearer {}", w.old));
    assert_eq!(send(plain(), malformed.body(Full::from("{")).unwrap()).await.code(), Some(4000));
}

#[tokio::test]
async fn every_refusal_shape_leads_to_the_replay() {
    for protocol in PROTOCOLS {
        let w = world().await;
        w.coze.move_workspace(&w.workspace, &w.enterprise);
        for refusal in [
            Refusal::json(200, 4100),
            Refusal::json(200, 4101),
            Refusal::json(401, 4100),
            Refusal::json(401, 700012006),
            Refusal::json(403, 4101),
            Refusal::json(200, 4200),
            Refusal::json(200, 4006),
            Refusal::plain(401),
            Refusal::plain(403),
        ] {
            w.coze.set_refusal(Some(refusal.clone()));
            let chat = post(&w.coze, "callers-own", "/v3/chat", &question(&w.bot, "hi", false));
            // A client that has learnt nothing yet.
            let answer = send(w.client(protocol), chat).await;
            assert_eq!((answer.code(), answer.attempts), (Some(0), 2), "{refusal:?} {protocol:?}");
        }
    }
}

#[tokio::test]
async fn a_chat_a_stream_and_an_upload_survive_the_move() {
    for protocol in PROTOCOLS {
        let w = world().await;
        let client = w.client(protocol);
        let content = vec![3_u8; 300_000];
        for moved in [false, true] {
            if moved {
                w.coze.move_workspace(&w.workspace, &w.enterprise);
            }
            let chat = send(client.clone(), post(&w.coze, "", "/v3/chat", &question(&w.bot, "hi", false)))
                .await
                .json();
            let (id, conversation) =
                (chat["data"]["id"].as_str().unwrap(), chat["data"]["conversation_id"].as_str().unwrap());
            let query = format!("?chat_id={id}&conversation_id={conversation}");
            let slot = if moved { Slot::Fallback } else { Slot::Primary };
            for status in ["in_progress", "completed"] {
                let answer =
                    send(client.clone(), get(&w.coze, "", &format!("/v3/chat/retrieve{query}"))).await;
                assert_eq!(answer.json()["data"]["status"], status, "{slot}");
            }
            let messages =
                send(client.clone(), get(&w.coze, "", &format!("/v3/chat/message/list{query}"))).await;
            assert_eq!(messages.json()["data"][0]["content"], "You said: hi");

            let events =
                send(client.clone(), post(&w.coze, "", "/v3/chat", &question(&w.bot, "stream", true))).await;
            assert_eq!(events.content_type, "text/event-stream");
            let text = String::from_utf8(events.body.to_vec()).unwrap();
            assert!(text.starts_with("event:conversation.chat.created\ndata:{"), "{text}");
            assert!(text.ends_with("event:done\ndata:\"[DONE]\"\n\n"), "{text}");

            if moved {
                w.coze.revoke_token(&w.old);
            }
            let file = send(client.clone(), upload(&w.coze, "", &content)).await.json();
            assert_eq!(file["data"]["bytes"], 300_000);
        }
    }
}

fn oauth(w: &World) -> (OAuthApp, coze::OAuthApp) {
    let app = w.coze.create_oauth_app(&w.person).unwrap();
    let region = Region::custom(w.coze.base_url()).unwrap();
    let ours = coze::OAuthApp::new(region, &app.client_id, &app.key_id, &app.private_key_pem).unwrap();
    (app, ours)
}

#[tokio::test]
async fn a_thousand_concurrent_first_calls_mint_exactly_one_token_per_credential() {
    let w = world().await;
    let (app, ours) = oauth(&w);
    w.coze.authorise_app(&app, &w.enterprise);
    w.coze.move_workspace(&w.workspace, &w.enterprise);
    let layer = coze::oauth_app(&ours, plain(), w.person.as_str(), w.enterprise.as_str()).unwrap();
    let client = layer.layer(hyper_client::<ReplayBody<Full<Bytes>>>(Protocol::Http2));
    let calls = (0..1_000).map(|nth| {
        let request = post(&w.coze, "", "/v3/chat", &question(&w.bot, &nth.to_string(), false));
        tokio::spawn(send(client.clone(), request))
    });
    for call in futures::future::join_all(calls).await {
        assert_eq!(call.unwrap().code(), Some(0));
    }
    assert_eq!((w.coze.minted(&w.person), w.coze.minted(&w.enterprise)), (1, 1));
}

#[tokio::test]
async fn revoked_tokens_are_minted_anew_once_and_a_late_refusal_mints_nothing() {
    use tower_credential_fallback::{AuthProvider, JwtBearer, Rejection};
    let w = world().await;
    let (_, ours) = oauth(&w);
    let provider = JwtBearer::new(plain(), ours.account_grant(w.person.as_str()).unwrap()).unwrap();
    let head = Request::new(()).into_parts().0;
    let old = provider.credential(&head).await.unwrap();
    let refused = Rejection::new(RejectionKind::Unauthenticated, StatusCode::UNAUTHORIZED);
    provider.rejected(&old, &refused);
    let new = provider.credential(&head).await.unwrap();
    assert_ne!(old.generation(), new.generation());
    for _ in 0..5 {
        provider.rejected(&old, &refused);
        assert_eq!(provider.credential(&head).await.unwrap().generation(), new.generation());
    }
    assert_eq!(w.coze.minted(&w.person), 2);
}

#[tokio::test]
async fn an_app_without_the_enterprises_authorisation_leaves_the_refusal_untouched() {
    let w = world().await;
    let (_, ours) = oauth(&w);
    w.coze.move_workspace(&w.workspace, &w.enterprise);
    let layer = coze::oauth_app(&ours, plain(), w.person.as_str(), w.enterprise.as_str()).unwrap();
    let client = layer.layer(hyper_client::<ReplayBody<Full<Bytes>>>(Protocol::Http1));
    let request = post(&w.coze, "", "/v3/chat", &question(&w.bot, "hi", false));
    let response = client.oneshot(request).await.unwrap();
    match Outcome::of(&response).no_replay() {
        Some(NoReplay::ProviderUnavailable(error)) => {
            assert!(error.to_string().contains("access_deny"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    let body: Value =
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(body["code"], 4101);
}

#[tokio::test]
async fn an_assertion_is_checked_in_every_part_and_works_once() {
    let w = world_with(Settings::default().with_audience("api.coze.cn")).await;
    let app = w.coze.create_oauth_app(&w.person).unwrap();
    let stranger = w.coze.create_oauth_app(&w.person).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let good = json!({ "iss": app.client_id, "aud": "api.coze.cn", "iat": now, "exp": now + 60, "jti": "1" });
    let sign = |claims: &Value, kid: &str, signer: &OAuthApp| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::RS256) };
        encode(&header, claims, &EncodingKey::from_rsa_pem(signer.private_key_pem.as_bytes()).unwrap())
            .unwrap()
    };
    let changed = |field: &str, value: Value| {
        let mut claims = good.clone();
        claims[field] = value;
        sign(&claims, &app.key_id, &app)
    };
    let grant =
        json!({ "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "duration_seconds": 900 });
    let path = "/api/permission/oauth2/token";
    for (assertion, says) in [
        (sign(&good, "unknown", &app), "kid not been registred"),
        (sign(&good, &app.key_id, &stranger), "signature"),
        (changed("iss", json!("other")), "iss"),
        (changed("aud", json!("api.coze.com")), "aud"),
        (changed("exp", json!(now - 1)), "expired"),
        (changed("iat", json!(now + 600)), "iat"),
        ("nonsense".to_owned(), "invalid jwt"),
    ] {
        let answer = send(plain(), post(&w.coze, &assertion, path, &grant)).await;
        assert_eq!(answer.status, 400);
        let message = answer.json()["error_message"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "{message} should say {says}");
    }
    let assertion = sign(&good, &app.key_id, &app);
    let token = send(plain(), post(&w.coze, &assertion, path, &grant)).await.json();
    assert!((now + 890..now + 910).contains(&token["expires_in"].as_u64().unwrap()), "absolute");
    let again = send(plain(), post(&w.coze, &assertion, path, &grant)).await.json();
    assert!(again["error_description"].as_str().unwrap().contains("jti"));
    assert_eq!(w.coze.minted(&w.person), 1);
    let too_long = json!({ "grant_type": grant["grant_type"], "duration_seconds": 86_400 });
    assert_eq!(
        send(plain(), post(&w.coze, &assertion, path, &too_long)).await.json()["error"],
        "invalid_request"
    );
}

#[tokio::test]
async fn through_a_gateway_an_assertion_names_the_cloud_if_it_is_told_to() {
    use tower_credential_fallback::JwtBearer;
    // The cloud behind a gateway, which is what 127.0.0.1 is here.
    let w = world_with(Settings::default().with_audience("api.coze.cn")).await;
    let (_, ours) = oauth(&w);
    let mint = async |app: coze::OAuthApp| {
        let provider = JwtBearer::new(plain(), app.account_grant(w.person.as_str()).unwrap()).unwrap();
        provider.cache().get().await
    };
    let refused = mint(ours.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("aud"), "{refused}");
    mint(ours.with_audience("api.coze.cn")).await.unwrap();
}

#[tokio::test]
async fn malformed_token_answers_leave_the_other_credential_and_say_what_was_wrong() {
    let w = world().await;
    let cases: [(Fault, &str); 7] = [
        (Fault::raw(200, "text/html", "<html>gateway</html>"), "JSON"),
        (Fault::raw(200, "application/json", ""), "without a body"),
        (Fault::raw(200, "application/json", "x".repeat(1 << 20)), "64"),
        (Fault::raw(200, "application/json", r#"{"access_token":7,"expires_in":1}"#), "access_token"),
        (
            Fault::raw(200, "application/json", r#"{"access_token":"czs_s3cret","expires_in":"soon"}"#),
            "expires_in",
        ),
        (Fault::raw(200, "application/json", r#"{"access_token":"czs_s3cret","expires_in":1}"#), "expired"),
        (Fault::raw(302, "text/plain", ""), "redirect"),
    ];
    for (fault, says) in cases {
        let (app, ours) = oauth(&w);
        w.coze.authorise_app(&app, &w.enterprise);
        w.coze.clear_faults();
        w.coze.inject(fault.on("/api/permission/oauth2/account"));
        w.coze.move_workspace(&w.workspace, &w.enterprise);
        let layer = coze::oauth_app(&ours, plain(), w.person.as_str(), w.enterprise.as_str()).unwrap();
        let client = layer.layer(hyper_client::<ReplayBody<Full<Bytes>>>(Protocol::Http1));
        let response =
            client.oneshot(post(&w.coze, "", "/v3/chat", &question(&w.bot, "hi", false))).await.unwrap();
        let (slot, error) = Outcome::of(&response).unavailable().expect("the personal token cannot be had");
        let text = format!("{error} {error:?}");
        assert!(slot == Slot::Primary && text.contains(says), "{text} should say {says}");
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(Outcome::of(&response).answered_by(), Some(Slot::Fallback));
    }
}

#[tokio::test]
async fn malformed_api_answers_reach_the_caller_as_they_are() {
    let w = world().await;
    for (content_type, body) in [
        ("application/json", ""),
        ("application/json", r#"{"code":4101"#),
        ("application/json", r#"{"code":{"code":4101}}"#),
        ("application/json", "\u{fffd}[[["),
        ("text/html", "<html>4101</html>"),
    ] {
        w.coze.clear_faults();
        w.coze.inject(Fault::raw(200, content_type, body));
        let answer =
            send(w.client(Protocol::Http1), post(&w.coze, "", "/v3/chat", &question(&w.bot, "", false)))
                .await;
        assert_eq!((answer.status, &answer.body[..], answer.attempts), (200, body.as_bytes(), 1), "{body}");
    }
}

#[tokio::test]
async fn faults_strike_where_and_as_often_as_said_and_are_never_a_reason_for_the_fallback() {
    let w = world().await;
    let client = w.client(Protocol::Http1);
    let chat = || post(&w.coze, "", "/v3/chat", &question(&w.bot, "hi", false));
    for (fault, status) in [(Fault::status(503), 503), (Fault::rate_limit(Duration::from_secs(7)), 429)] {
        w.coze.inject(fault.on("/v3/chat").times(1));
        let other = send(client.clone(), get(&w.coze, "", "/v1/workspaces")).await;
        assert_eq!(other.status, 200);
        let answer = send(client.clone(), chat()).await;
        assert_eq!((answer.status, answer.attempts), (status, 1));
        assert_eq!(send(client.clone(), chat()).await.status, 200);
    }
    w.coze.inject(Fault::trickle(3, Duration::from_millis(1)));
    assert_eq!(send(client.clone(), chat()).await.code(), Some(0), "slow answers are whole");
    w.coze.clear_faults();

    w.coze.revoke_token(&w.old);
    w.coze.inject(Fault::refuse_before_upload());
    let answer = send(client, upload(&w.coze, "", &vec![1; 100_000])).await;
    assert_eq!((answer.code(), answer.attempts), (Some(0), 2));
    let uploads = w.coze.requests().into_iter().filter(|request| request.path == "/v1/files/upload");
    let read: Vec<_> = uploads.map(|upload| (upload.account, upload.body_bytes > 100_000)).collect();
    assert_eq!(read, [(None, false), (Some(w.enterprise.clone()), true)]);
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// The type of the next event, and its code if it is an error.
async fn next_event(socket: Option<Socket>) -> (String, Option<i64>) {
    let event = socket.expect("an open socket").next().await.unwrap().unwrap();
    let event: Value = serde_json::from_str(event.to_text().unwrap()).unwrap();
    (event["event_type"].as_str().unwrap().to_owned(), event["data"]["code"].as_i64())
}

/// The answer to a WebSocket's handshake, and the socket if that was accepted.
async fn open_socket<S, B>(client: S, coze: &Simulator, token: &str, bot: &str) -> (Answer, Option<Socket>)
where
    S: Service<Request<Full<Bytes>>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    let request = Request::get(format!("{}/v1/chat?bot_id={bot}", coze.base_url()))
        .header("authorization", format!("Bearer {token}"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Full::default())
        .unwrap();
    let mut response = client.oneshot(request).await.map_err(Into::into).unwrap();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return (Answer::of(response).await, None);
    }
    let upgraded = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    (Answer::of(response).await, Some(socket))
}

#[tokio::test]
async fn a_websocket_that_is_refused_at_its_handshake_is_opened_with_the_other_credential() {
    let w = world().await;
    let created = ("chat.created".to_owned(), None);
    let (open, socket) = open_socket(plain(), &w.coze, &w.old, &w.bot).await;
    assert_eq!((open.status, next_event(socket).await), (101, created.clone()));
    w.coze.move_workspace(&w.workspace, &w.enterprise);
    for (token, code) in [(w.old.as_str(), 4101), ("nonsense", 4100)] {
        let (refused, _) = open_socket(plain(), &w.coze, token, &w.bot).await;
        assert_eq!((refused.status, refused.code()), (403, Some(code)));
    }
    let (open, socket) = open_socket(w.client(Protocol::Http1), &w.coze, "", &w.bot).await;
    assert_eq!((open.status, open.attempts, next_event(socket).await), (101, 2, created));

    let settings = Settings::default().with_websocket_refusal(WebSocketRefusal::Handshake(401));
    let w = world_with(settings).await;
    assert_eq!(open_socket(plain(), &w.coze, "nonsense", &w.bot).await.0.status, 401);
}

#[tokio::test]
async fn a_websocket_that_is_refused_by_an_event_is_past_what_the_layer_sees() {
    let w = world_with(Settings::default().with_websocket_refusal(WebSocketRefusal::Event)).await;
    w.coze.move_workspace(&w.workspace, &w.enterprise);
    let client = w.client(Protocol::Http1);
    let (open, socket) = open_socket(client.clone(), &w.coze, "", &w.bot).await;
    assert_eq!((open.status, open.attempts), (101, 1));
    assert_eq!(next_event(socket).await, ("error".to_owned(), Some(4101)));
    // What is learnt from a plain call to the same bot serves its socket too.
    send(client.clone(), get(&w.coze, "", &format!("/v1/bots/{}", w.bot))).await;
    let (_, socket) = open_socket(client, &w.coze, "", &w.bot).await;
    assert_eq!(next_event(socket).await.0, "chat.created");
}

#[tokio::test]
async fn the_record_tells_every_request_and_no_secret() {
    let w = world_with(Settings::default().with_record_capacity(2)).await;
    for _ in 0..3 {
        send(plain(), get(&w.coze, &w.old, "/v1/workspaces?page_num=1")).await;
    }
    let requests = w.coze.requests();
    assert_eq!((w.coze.request_count(), requests.len(), requests[1].sequence), (3, 2, 3));
    assert_eq!((requests[0].account.as_ref(), requests[0].code), (Some(&w.person), Some(0)));
    assert_eq!(requests[0].query.as_deref(), Some("page_num=1"));
    assert!(w.coze.connection_count() >= 1);
    let app = w.coze.create_oauth_app(&w.person).unwrap();
    let shown = format!("{:?} {requests:?} {app:?}", w.coze);
    assert!(!shown.contains(&w.old) && !shown.contains("PRIVATE KEY"), "{shown}");
}

#[tokio::test]
async fn dropping_the_simulator_closes_it_and_its_connections() {
    let w = world().await;
    let client = plain();
    let request = get(&w.coze, &w.old, "/v1/workspaces");
    send(client.clone(), request.clone()).await;
    let (_, socket) = open_socket(plain(), &w.coze, &w.old, &w.bot).await;
    let mut socket = socket.unwrap();
    assert!(socket.next().await.unwrap().unwrap().is_text());
    w.coze.inject(Fault::hang());
    let hanging = tokio::spawn(client.oneshot(request.clone()));
    tokio::task::yield_now().await;
    drop(w.coze);
    assert!(hanging.await.unwrap().is_err());
    while let Some(message) = socket.next().await {
        assert!(message.is_err() || message.unwrap().is_close(), "nothing more comes");
    }
    assert!(plain().oneshot(request).await.is_err());
}

#[tokio::test]
async fn each_wrong_argument_of_the_preset_is_refused_by_name() {
    let w = world().await;
    let (app, ours) = oauth(&w);
    let fields = [
        ours.clone().with_duration(Duration::ZERO).map(drop),
        ours.clone().with_duration(Duration::from_secs(86_400)).map(drop),
        ours.account_grant("").map(drop),
        ours.account_grant("12a").map(drop),
        ours.enterprise_grant("").map(drop),
        ours.enterprise_grant("volcano/../1").map(drop),
        coze::OAuthApp::new(Region::Cn, "app", "", &app.private_key_pem).map(drop),
        coze::OAuthApp::new(Region::Cn, "app", "kid", "-----BEGIN PRIVATE KEY-----").map(drop),
        coze::tokens(&Region::Cn, "", "pat_2").map(drop),
        coze::tokens(&Region::Cn, "pat_1", "pat_1").map(drop),
        Region::custom("127.0.0.1:80/v1").map(drop),
    ]
    .map(|wrong| wrong.unwrap_err().field().unwrap());
    assert_eq!(
        fields,
        [
            "duration",
            "duration",
            "account_id",
            "account_id",
            "enterprise_id",
            "enterprise_id",
            "key_id",
            "private_key",
            "token",
            "fallback",
            "origin",
        ]
    );
    let plaintext = Region::custom("http://api.example").unwrap();
    let elsewhere = coze::OAuthApp::new(plaintext, "app", "kid", &app.private_key_pem).unwrap();
    let refused = coze::oauth_app(&elsewhere, plain(), "1", "volcano_1").unwrap_err();
    assert_eq!(refused.field(), Some("token_url"));
}
