//! [`Escaped`]: text from outside, on one line and in the order in which it is written.

use std::fmt::{self, Write};

/// Shows what it holds with every [invisible](is_invisible) character escaped, as in `\n` or `\u{1b}`: nobody else's text
/// ends a log line, colors a terminal or reverses what stands behind it.
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{}", self.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Escaped<T> {
    /// On one line, whatever the formatter says: the line ends of a pretty form could not be told from others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{:?}", self.0)
    }
}

struct Escape<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some(at) = text.find(is_invisible) {
            let (visible, rest) = text.split_at(at);
            self.0.write_str(visible)?;
            let mut rest = rest.chars();
            if let Some(invisible) = rest.next() {
                write!(self.0, "{}", invisible.escape_default())?;
            }
            text = rest.as_str();
        }
        self.0.write_str(text)
    }
}

/// Control characters (line ends and escapes among them), the line ends of Unicode, and what changes the direction of text
/// or joins words unseen.
pub(crate) fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_invisible_is_escaped_and_all_else_stays() {
        for (text, shown) in [
            ("", ""),
            ("can't: \"a\\b\" 中文 é \u{301} 👍", "can't: \"a\\b\" 中文 é \u{301} 👍"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\u{1b}[31m\u{7}\u{7f}\u{85}", "\\u{1b}[31m\\u{7}\\u{7f}\\u{85}"),
            ("\u{2028}\u{2029}\u{202e}\u{2066}", "\\u{2028}\\u{2029}\\u{202e}\\u{2066}"),
            ("\n", "\\n"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_has_an_invisible_character_when_shown(text in "\\PC*|(?s:.)*|[a\n\r\u{85}\u{2028}\u{202e}]*") {
            let shown = format!("{} {:?} {:#?}", Escaped(&text), Escaped(&text), Escaped(&text));
            proptest::prop_assert!(!shown.contains(is_invisible), "{shown:?}");
            if !text.contains(is_invisible) {
                proptest::prop_assert_eq!(Escaped(&text).to_string(), text);
            }
        }
    }
}
