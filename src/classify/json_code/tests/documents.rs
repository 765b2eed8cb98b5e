//! Random JSON documents, and the code that `serde_json` finds in them.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Makes a well-formed document. Each byte decides one thing.
///
/// Fewer and smaller bytes make a simpler document, so that proptest's shrinking of the bytes shrinks the document.
pub(super) fn document(choices: &[u8]) -> String {
    let mut maker = Maker { choices: choices.iter(), text: String::new() };
    if maker.is(16) {
        maker.text.push('\u{feff}');
    }
    maker.space();
    if maker.is(32) {
        maker.value(0)
    } else {
        maker.object(0)
    }
    maker.space();
    maker.text
}

struct Maker<'a> {
    choices: std::slice::Iter<'a, u8>,
    text: String,
}

impl Maker<'_> {
    fn choose(&mut self, below: usize) -> usize {
        usize::from(self.choices.next().copied().unwrap_or(0)) % below
    }

    fn pick(&mut self, options: &[&str]) {
        let chosen = self.choose(options.len());
        self.text.push_str(options[chosen]);
    }

    /// True once in so many times.
    fn is(&mut self, one_in: usize) -> bool {
        self.choose(one_in) == one_in - 1
    }

    fn space(&mut self) {
        self.pick(&["", "", "", "", "", "", " ", "\n\t\r "]);
    }

    fn object(&mut self, depth: usize) {
        self.text.push('{');
        self.space();
        for nth in 0..self.choose(6) {
            if nth > 0 {
                self.text.push(',');
                self.space();
            }
            self.pick(&[
                r#""code""#,
                r#""a""#,
                r#""code""#,
                r#""""#,
                r#""msg""#,
                r#""c\u006fde""#,
                r#""co\u0064e""#,
                r#""\"code""#,
                r#""code\\""#,
                r#""Code""#,
                r#""code ""#,
                r#""权限""#,
                r#""\u6743\ud83d\ude00""#,
            ]);
            self.space();
            self.text.push(':');
            self.space();
            self.value(depth + 1);
            self.space();
        }
        self.text.push('}');
    }

    fn array(&mut self, depth: usize) {
        self.text.push('[');
        self.space();
        for nth in 0..self.choose(4) {
            if nth > 0 {
                self.text.push(',');
            }
            self.value(depth + 1);
            self.space();
        }
        self.text.push(']');
    }

    fn value(&mut self, depth: usize) {
        match self.choose(9) {
            0..=2 => self.pick(&["0", "4101", "4100", "-7", "7", "\"4101\"", "\"0\"", "\"\\u0034101\""]),
            3 => self.number(),
            4 => {
                self.text.push('"');
                self.number();
                self.text.push('"');
            }
            5 => self.pick(&["null", "true", "false"]),
            6 if depth < 4 => self.object(depth),
            7 if depth < 4 => self.array(depth),
            _ => self.string(),
        }
    }

    fn number(&mut self) {
        self.pick(&["", "-"]);
        self.pick(&[
            "4101",
            "0",
            "41",
            "4",
            "410100",
            "700012006",
            "9223372036854775807",
            "9223372036854775808",
        ]);
        self.pick(&[
            "",
            "",
            ".0",
            ".101",
            ".5",
            ".01",
            ".000000000000000000000000",
            ".0000000000000000000001",
        ]);
        self.pick(&["", "", "e0", "e3", "E+2", "e-1", "E-2", "e20", "e-20"]);
    }

    fn string(&mut self) {
        self.text.push('"');
        for _ in 0..self.choose(5) {
            self.pick(&[
                "x",
                "4101",
                "\\\"",
                "\\\\",
                "{",
                "}",
                "]",
                ",",
                ":",
                "\\\"code\\\":4101",
                "\\u0022",
                "\\/\\n",
                "é权😀",
                "\\ud83d\\ude00",
            ]);
        }
        self.text.push('"');
    }
}

/// The code by the documented rules, read with `serde_json`.
///
/// # Panics
/// If the document is not well-formed.
pub(super) fn code_by_serde(document: &str) -> Option<i64> {
    let document = document.strip_prefix('\u{feff}').unwrap_or(document);
    if !document.trim_start().starts_with('{') {
        serde_json::from_str::<IgnoredAny>(document).unwrap();
        return None;
    }
    let mut json = serde_json::Deserializer::from_str(document);
    let fields = json.deserialize_map(Fields).unwrap();
    json.end().unwrap();
    fields.iter().filter(|(name, _)| name == "code").find_map(|(_, value)| {
        let value = value.get();
        if !value.starts_with('"') {
            return integer_by_text(value);
        }
        integer_by_text(&serde_json::from_str::<String>(value).unwrap())
    })
}

/// All fields in their order, repeated ones too.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(String, Box<RawValue>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

/// Moves the decimal point in the text.
fn integer_by_text(number: &str) -> Option<i64> {
    let is_number = number.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    if !is_number || number.ends_with(char::is_whitespace) {
        return None;
    }
    serde_json::from_str::<IgnoredAny>(number).ok()?;
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i32 = exponent.parse().unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let padding = "0".repeat(40);
    let digits = format!("{padding}{whole}{fraction}{padding}");
    let point = usize::try_from(40 + whole.len() as i32 + exponent).unwrap();
    let (whole, fraction) = digits.split_at(point);
    if fraction.contains(|digit| digit != '0') {
        return None;
    }
    format!("{sign}{}", whole.trim_start_matches('0')).parse().ok().or_else(|| {
        let is_zero = !whole.contains(|digit| digit != '0');
        is_zero.then_some(0)
    })
}
