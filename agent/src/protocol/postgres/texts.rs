//! What the texts of statements say, so that a text that comes again is not read again.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::sql::{self, Analysis};

/// Texts kept at most.
const TEXTS_MAX: usize = 512;
/// Longest text that is kept, bytes.
const LENGTH_MAX: usize = 4096;

/// One text, read.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// What its words tell.
    pub analysis: Analysis,
    /// The text without literals.
    pub sanitized: String,
}

impl Reading {
    fn of(text: &str) -> Self {
        Self { analysis: sql::analyse(text), sanitized: sql::sanitize(text) }
    }
}

/// The texts that were read lately, at most 512 of at most 4 KiB.
#[derive(Default)]
pub struct Texts {
    known: FxHashMap<Arc<str>, Arc<Reading>>,
}

impl Texts {
    /// Reads a text, or remembers it.
    pub fn read(&mut self, text: &Arc<str>) -> Arc<Reading> {
        if let Some(reading) = self.known.get(text) {
            return reading.clone();
        }
        let reading = Arc::new(Reading::of(text));
        if text.len() <= LENGTH_MAX {
            if self.known.len() >= TEXTS_MAX {
                // Texts with literals in them never come again: whoever sends them gains nothing here either way, and
                // those that do come again are soon back.
                self.known.clear();
            }
            self.known.insert(text.clone(), reading.clone());
        }
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_once_and_what_is_kept_is_bounded() {
        let mut texts = Texts::default();
        let text: Arc<str> = "SELECT a FROM t WHERE b = 'x'".into();
        let first = texts.read(&text);
        assert_eq!(first.sanitized, "SELECT a FROM t WHERE b = ?");
        assert_eq!(first.analysis.summary.as_deref(), Some("SELECT t"));
        assert!(Arc::ptr_eq(&first, &texts.read(&text)));
        for number in 0..3 * TEXTS_MAX {
            texts.read(&format!("SELECT {number}").into());
            assert!(texts.known.len() <= TEXTS_MAX);
        }
        assert_eq!(texts.read(&text), first);
        texts.read(&"x".repeat(LENGTH_MAX + 1).into());
        assert!(texts.known.keys().all(|text| text.len() <= LENGTH_MAX));
    }
}
