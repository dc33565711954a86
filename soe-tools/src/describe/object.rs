//! Writes JSON as it comes: a capture has millions of events, and a tree of values for each costs ten times their text.

use std::fmt::Write as _;

use serde::Serialize;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// An object that is being written. [`end`](Object::end) closes it.
pub(super) struct Object<'a> {
    out: &'a mut String,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, is_empty: true }
    }

    pub(super) fn end(self) {
        self.out.push('}');
    }

    /// Writes a name, which must need no escape, and gives the text for its value.
    pub(super) fn name(&mut self, name: &str) -> &mut String {
        self.out.push_str(if self.is_empty { "\"" } else { ",\"" });
        self.is_empty = false;
        self.out.push_str(name);
        self.out.push_str("\":");
        self.out
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        let _ = write!(self.name(name), "{value}");
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        self.name(name).push_str(if value { "true" } else { "false" });
    }

    /// A text that needs no escape.
    pub(super) fn word(&mut self, name: &str, word: &str) {
        let out = self.name(name);
        out.push('"');
        out.push_str(word);
        out.push('"');
    }

    /// Bytes in hexadecimal.
    pub(super) fn hex(&mut self, name: &str, bytes: &[u8]) {
        put_hex(self.name(name), bytes);
    }

    /// Any value.
    pub(super) fn value(&mut self, name: &str, value: &impl Serialize) {
        // Values of this program have string keys and no maps of others: they can all be written.
        let text = serde_json::to_string(value).unwrap_or_else(|_| "null".into());
        self.name(name).push_str(&text);
    }

    /// The fields of a value that is an object itself.
    pub(super) fn fields(&mut self, value: &impl Serialize) {
        let text = serde_json::to_string(value).unwrap_or_default();
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default();
        if !inner.is_empty() {
            self.out.push_str(if self.is_empty { "" } else { "," });
            self.is_empty = false;
            self.out.push_str(inner);
        }
    }

    /// A list, each item written by `put`.
    pub(super) fn list<T>(&mut self, name: &str, items: impl Iterator<Item = T>, mut put: impl FnMut(&mut String, T)) {
        let out = self.name(name);
        out.push('[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push(',');
            }
            put(out, item);
        }
        out.push(']');
    }
}

/// Bytes in hexadecimal, in quotes.
pub(super) fn put_hex(out: &mut String, bytes: &[u8]) {
    out.push('"');
    out.reserve(bytes.len() * 2 + 1);
    for part in bytes.chunks(64) {
        let mut digits = [0; 128];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(part) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        // Digits are ASCII.
        out.push_str(std::str::from_utf8(&digits[..part.len() * 2]).unwrap_or_default());
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_what_a_parser_reads() {
        let mut text = String::new();
        let mut object = Object::begin(&mut text);
        object.number("a", 1);
        object.fields(&serde_json::json!({ "b": "x\"y" }));
        object.fields(&serde_json::json!({}));
        object.hex("c", &[0, 0xAB]);
        object.list("d", [true, false].into_iter(), |out, item| out.push_str(if item { "1" } else { "2" }));
        object.flag("e", true);
        object.end();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, serde_json::json!({ "a": 1, "b": "x\"y", "c": "00ab", "d": [1, 2], "e": true }));
    }
}
