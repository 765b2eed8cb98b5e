//! Verify before you move: asks each of a list of requests with each credential, and prints who can serve what.
//!
//! ```text
//! cargo run --example verify --features simulator                      # on the local Coze
//! COZE_API_BASE=https://api.coze.cn COZE_API_TOKEN=… COZE_API_TOKEN_ENTERPRISE=… \
//!     cargo run --example verify --features simulator -- --probes my-probes.toml
//! ```
//!
//! `verify/probes.toml` shows what a list looks like. The exit status is 1 if the fallback cannot serve what it has
//! to, and 2 if something is wrong with the options or the environment.

#[path = "verify/matrix.rs"]
pub(crate) mod matrix;
#[path = "verify/probes.rs"]
pub(crate) mod probes;
#[path = "verify/target.rs"]
pub(crate) mod target;

use std::process::ExitCode;

use matrix::Row;
use probes::Probe;
use target::Target;
use tower_credential_fallback::{BoxError, Slot};

const USAGE: &str = "\
options:
  --probes FILE   the requests to ask (default: a few that the local Coze can serve)
  --json          print the matrix as JSON

environment (none of it: the local Coze is asked):
  COZE_API_BASE                           such as https://api.coze.cn; needed with any of the others
  COZE_API_TOKEN                          the personal account's access token
  COZE_API_TOKEN_ENTERPRISE               the enterprise's access token
or, in place of the two tokens, an OAuth app:
  COZE_JWT_OAUTH_CLIENT_ID                its ID
  COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH    its private key, a PEM file
  COZE_JWT_OAUTH_PUBLIC_KEY_ID            its public key's fingerprint
  COZE_ACCOUNT_ID                         the UID of the personal account that made it
  COZE_ENTERPRISE_ID                      the ID of the enterprise that has authorised it";

#[derive(Default)]
struct Options {
    probes: Option<String>,
    json: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--json" => options.json = true,
                "--probes" => {
                    options.probes = Some(arguments.next().ok_or("--probes: expected a file's name")?);
                }
                _ => return Err(format!("{name}: no such option").into()),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Says whether the fallback can serve all that it has to.
async fn run() -> Result<bool, BoxError> {
    let options = Options::parse(std::env::args().skip(1))?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let target = Target::from_variables(&variable).await?;
    let text = match &options.probes {
        Some(file) => std::fs::read_to_string(file).map_err(|error| format!("--probes {file}: {error}"))?,
        None => include_str!("verify/probes.toml").to_owned(),
    };
    eprintln!("asking {}", target.base_url());
    let rows =
        verify(&target, &probes::read(&text, &|name| target.variable(name).or_else(|| variable(name)))?)
            .await;
    match options.json {
        true => println!("{}", matrix::to_json(&rows)),
        false => println!("{}\n{}", matrix::to_table(&rows), matrix::summary(&rows)),
    }
    Ok(matrix::is_ready(&rows))
}

/// Asks every probe with each credential, one after the other.
pub(crate) async fn verify(target: &Target, probes: &[Probe]) -> Vec<Row> {
    let mut rows = Vec::with_capacity(probes.len());
    for probe in probes {
        rows.push(Row {
            probe: probe.clone(),
            primary: target.ask(probe, Slot::Primary).await,
            fallback: target.ask(probe, Slot::Fallback).await,
        });
    }
    rows
}
