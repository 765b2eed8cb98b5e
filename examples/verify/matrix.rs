//! Who can serve what, as a table and as JSON.

use std::error::Error;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell as TableCell, Color, Table};
use http::StatusCode;
use serde_json::{Value, json};
use tower_credential_fallback::{Attempt, Outcome, Slot};

use super::probes::Probe;

/// A probe, and what each credential got for it.
pub(crate) struct Row {
    pub(crate) probe: Probe,
    pub(crate) primary: Cell,
    pub(crate) fallback: Cell,
}

/// What one credential got.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) is_served: bool,
    /// In words.
    pub(crate) why: String,
}

impl Cell {
    pub(crate) fn judge(outcome: &Outcome, status: StatusCode, body: &[u8]) -> Self {
        let code = serde_json::from_slice::<Value>(body).ok().and_then(|json| json["code"].as_i64());
        let refused = outcome.attempts().next().and_then(Attempt::rejection);
        match (refused, code) {
            (Some(rejection), _) => Self { is_served: false, why: format!("refused: {rejection}") },
            (None, Some(code)) if code != 0 => Self { is_served: false, why: format!("failed: code {code}") },
            _ if !status.is_success() => Self { is_served: false, why: format!("failed: {status}") },
            _ => Self { is_served: true, why: "served".to_owned() },
        }
    }

    pub(crate) fn failed(error: &dyn Error) -> Self {
        let mut why = format!("failed: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            why.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self { is_served: false, why }
    }
}

impl Row {
    fn cell(&self, slot: Slot) -> &Cell {
        match slot {
            Slot::Primary => &self.primary,
            Slot::Fallback => &self.fallback,
        }
    }

    fn is_missing(&self, slot: Slot) -> bool {
        self.probe.needed.of(slot) && !self.cell(slot).is_served
    }
}

/// Whether the fallback can serve all that it has to.
pub(crate) fn is_ready(rows: &[Row]) -> bool {
    !rows.iter().any(|row| row.is_missing(Slot::Fallback))
}

/// Green: served. Red: not, and it has to be. Grey: not, and need not be.
pub(crate) fn to_table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["request", "old credential", "new credential"]);
    for row in rows {
        let cell = |slot| {
            let colour = match (row.cell(slot).is_served, row.is_missing(slot)) {
                (true, _) => Color::Green,
                (false, true) => Color::Red,
                (false, false) => Color::DarkGrey,
            };
            let needed = if row.is_missing(slot) { " (needed)" } else { "" };
            TableCell::new(format!("{}{needed}", row.cell(slot).why)).fg(colour)
        };
        table.add_row([TableCell::new(&row.probe.name), cell(Slot::Primary), cell(Slot::Fallback)]);
    }
    table
}

pub(crate) fn summary(rows: &[Row]) -> String {
    let missing = |slot| rows.iter().filter(|row| row.is_missing(slot)).count();
    let old = match missing(Slot::Primary) {
        0 => String::new(),
        count => format!(" The old credential does not serve {count} that it is needed for."),
    };
    match missing(Slot::Fallback) {
        0 => format!("Ready: the new credential serves all that it is needed for.{old}"),
        count => format!("NOT ready: the new credential does not serve {count} that it is needed for.{old}"),
    }
}

pub(crate) fn to_json(rows: &[Row]) -> Value {
    let cell = |row: &Row, slot| {
        let Cell { is_served, why } = row.cell(slot);
        json!({ "served": is_served, "needed": row.probe.needed.of(slot), "why": why })
    };
    let rows_as_json: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.probe.name,
                "method": row.probe.method,
                "path": row.probe.path,
                "primary": cell(row, Slot::Primary),
                "fallback": cell(row, Slot::Fallback),
            })
        })
        .collect();
    json!({ "ready": is_ready(rows), "probes": rows_as_json })
}
