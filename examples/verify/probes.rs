//! The requests to ask, and how they are read.

use serde::Deserialize;
use tower_credential_fallback::{BoxError, Slot};

/// One request to ask.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Probe {
    pub(crate) name: String,
    #[serde(default = "get")]
    pub(crate) method: String,
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) body: String,
    #[serde(default)]
    pub(crate) needed: Needed,
}

/// Which credentials have to serve it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Needed {
    #[default]
    Fallback,
    Primary,
    Both,
    None,
}

impl Needed {
    pub(crate) fn of(self, slot: Slot) -> bool {
        match self {
            Self::Both => true,
            Self::Fallback => slot == Slot::Fallback,
            Self::Primary => slot == Slot::Primary,
            Self::None => false,
        }
    }
}

fn get() -> String {
    "GET".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    probe: Vec<Probe>,
}

/// Reads a list, and fills its variables in.
pub(crate) fn read(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Probe>, BoxError> {
    let mut probes = toml::from_str::<File>(text).map_err(|error| format!("the probes: {error}"))?.probe;
    if !probes.iter().any(|probe| probe.needed.of(Slot::Fallback)) {
        return Err("the probes: expected at least one that the fallback has to serve".into());
    }
    for probe in &mut probes {
        if !probe.path.starts_with('/') {
            return Err(format!("probe `{}`: `path` has to begin with a slash", probe.name).into());
        }
        for text in [&mut probe.path, &mut probe.body] {
            *text = fill(text, variable).map_err(|error| format!("probe `{}`: {error}", probe.name))?;
        }
    }
    Ok(probes)
}

fn fill(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("`${` without a `}`")?;
        filled.push_str(before);
        filled.push_str(&variable(name).ok_or_else(|| format!("the variable {name} is not set"))?);
        rest = after;
    }
    Ok(filled + rest)
}
