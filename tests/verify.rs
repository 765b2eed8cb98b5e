//! The example that verifies before the move: what it asks, what it makes of the answers, what it wants to know.
#![cfg(feature = "simulator")]

#[allow(dead_code, unreachable_pub, reason = "the example's own `main` is not called")]
#[path = "../examples/verify.rs"]
mod example;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use example::matrix::{is_ready, summary, to_json, to_table};
use example::probes::{Probe, read};
use example::target::Target;
use tower_credential_fallback::coze::simulator::{Fault, Simulator};

type Variables = HashMap<&'static str, String>;

fn probes(text: &str, variables: &Variables) -> Result<Vec<Probe>, String> {
    read(text, &|name| variables.get(name).cloned()).map_err(|error| error.to_string())
}

async fn target(variables: &Variables) -> Result<Target, String> {
    Target::from_variables(&|name: &str| variables.get(name).cloned())
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn without_configuration_it_asks_the_local_coze_and_finds_it_ready() {
    let target = target(&Variables::new()).await.unwrap();
    let text = include_str!("../examples/verify/probes.toml");
    let probes = read(text, &|name| target.variable(name)).unwrap();
    let rows = example::verify(&target, &probes).await;
    let served: Vec<_> = rows.iter().map(|row| (row.primary.is_served, row.fallback.is_served)).collect();
    assert_eq!(served, [(false, true), (false, true), (true, true), (true, false)]);
    assert!(is_ready(&rows));
    assert!(summary(&rows).starts_with("Ready"));
    assert_eq!(to_json(&rows)["probes"][3]["fallback"]["why"], "refused: forbidden (HTTP 200, code 4101)");
}

#[tokio::test]
async fn what_the_fallback_cannot_serve_but_has_to_makes_it_not_ready() {
    let coze = Simulator::start().await.unwrap();
    let (person, enterprise) = (coze.create_account(), coze.create_enterprise());
    let bot = coze.create_bot(&coze.create_workspace(&person));
    let app = coze.create_oauth_app(&person).unwrap();
    coze.authorise_app(&app, &enterprise);
    static FILES: AtomicU32 = AtomicU32::new(0);
    let nth = FILES.fetch_add(1, Ordering::SeqCst);
    let key_file = std::env::temp_dir().join(format!("verify-{}-{nth}.pem", std::process::id()));
    std::fs::write(&key_file, &app.private_key_pem).unwrap();
    let mut variables = Variables::from([
        ("COZE_API_BASE", coze.base_url().to_owned()),
        ("COZE_JWT_OAUTH_CLIENT_ID", app.client_id.clone()),
        ("COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH", key_file.to_str().unwrap().to_owned()),
        ("COZE_JWT_OAUTH_PUBLIC_KEY_ID", app.key_id.clone()),
        ("COZE_ACCOUNT_ID", person.as_str().to_owned()),
        ("COZE_ENTERPRISE_ID", enterprise.as_str().to_owned()),
        ("PUBLISHED_BOT_ID", bot),
    ]);
    let minting = target(&variables).await;
    std::fs::remove_file(&key_file).unwrap();
    let list = r#"
        [[probe]]
        name = "the bot"
        path = "/v1/bots/${PUBLISHED_BOT_ID}"
        needed = "both"
        [[probe]]
        name = "overloaded"
        path = "/v1/workspaces"
    "#;
    let probes = probes(list, &variables).unwrap();
    coze.inject(Fault::status(503).on("/v1/workspaces"));
    let rows = example::verify(&minting.unwrap(), &probes).await;
    assert!(rows[0].primary.is_served);
    assert_eq!(rows[0].fallback.why, "refused: forbidden (HTTP 200, code 4101)");
    assert_eq!(rows[1].fallback.why, "failed: code 5000");
    assert!(!is_ready(&rows));
    assert!(
        summary(&rows).starts_with("NOT ready: the new credential does not serve 2"),
        "{}",
        summary(&rows)
    );
    assert!(to_table(&rows).to_string().contains("(needed)"));

    // The same with two tokens, one of which is not valid, and each asked once: nothing is replayed.
    coze.clear_faults();
    variables.remove("COZE_JWT_OAUTH_CLIENT_ID");
    variables.insert("COZE_API_TOKEN", coze.create_token(&person));
    variables.insert("COZE_API_TOKEN_ENTERPRISE", "pat_s3cret".to_owned());
    let before = coze.request_count();
    let rows = example::verify(&target(&variables).await.unwrap(), &probes[..1]).await;
    assert_eq!(coze.request_count() - before, 2);
    assert_eq!(rows[0].fallback.why, "refused: unauthenticated (HTTP 401, code 700012006)");
    assert!(!to_json(&rows).to_string().contains("s3cret"));
}

#[tokio::test]
async fn what_is_wrong_with_the_environment_or_the_list_is_named() {
    let base = || Variables::from([("COZE_API_BASE", "https://api.coze.cn".to_owned())]);
    let with = |name, value: &str| {
        let mut variables = base();
        variables.insert(name, value.to_owned());
        variables
    };
    for (variables, named) in [
        (Variables::from([("COZE_API_TOKEN", "pat_1".to_owned())]), "COZE_API_BASE is not"),
        (base(), "COZE_API_TOKEN is not set"),
        (with("COZE_API_TOKEN", "pat_1"), "COZE_API_TOKEN_ENTERPRISE is not set"),
        (with("COZE_JWT_OAUTH_CLIENT_ID", "1"), "COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH is not set"),
        (with("COZE_API_BASE", "api.coze.cn"), "invalid"),
    ] {
        let error = target(&variables).await.map(drop).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    for (list, named) in [
        ("[[probe]]\nname = \"x\"", "path"),
        ("[[probe]]\nname = \"x\"\npath = \"v1\"", "slash"),
        ("[[probe]]\nname = \"x\"\npath = \"/${NOT_SET}\"", "NOT_SET is not set"),
        ("[[probe]]\nname = \"x\"\npath = \"/${NOT\"", "`${` without a `}`"),
        ("[[probe]]\nname = \"x\"\npath = \"/\"\nneeded = \"maybe\"", "needed"),
        ("[[probe]]\nname = \"x\"\npath = \"/\"\nmetod = \"GET\"", "metod"),
        ("probes = 1", "probe"),
        ("probe = []", "at least one"),
        ("[[probe]]\nname = \"x\"\npath = \"/\"\nneeded = \"primary\"", "at least one"),
    ] {
        let error = probes(list, &Variables::new()).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
}
