//! A capture as one HTML page that needs nothing else.

mod collect;
mod columns;

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::Value;

pub(crate) use self::collect::{Collector, Limits};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// The script in the order in which it is put together.
const SCRIPT: [&str; 4] =
    [include_str!("data.js"), include_str!("plots.js"), include_str!("table.js"), include_str!("main.js")];

/// Writes the page.
pub(crate) fn write_page(out: &mut impl Write, title: &str, meta: &Value, columns: &[u8]) -> io::Result<()> {
    let mut rest = PAGE;
    // In the order in which they stand in the template.
    let parts = [
        ("{{title}}", escaped(title)),
        ("{{style}}", STYLE.to_owned()),
        // A script element ends at the first "</": JSON may write the slash in another way.
        ("{{meta}}", meta.to_string().replace("</", "<\\/")),
        ("{{data}}", base64(&deflated(columns)?)),
        ("{{script}}", SCRIPT.concat()),
    ];
    for (mark, part) in parts {
        let (before, behind) = rest.split_once(mark).unwrap_or((rest, ""));
        out.write_all(before.as_bytes())?;
        out.write_all(part.as_bytes())?;
        rest = behind;
    }
    out.write_all(rest.as_bytes())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn deflated(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= group.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        let encoded = ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }

    #[test]
    fn the_page_holds_everything_and_no_mark_is_left() {
        let mut page = Vec::new();
        let meta = serde_json::json!({ "name": "</script><b>" });
        write_page(&mut page, "a < b", &meta, &[1, 2, 3]).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains("<title>a &lt; b") && page.contains(r"<\/script><b>") && !page.contains("{{"));
        assert_eq!(page.matches("</script>").count(), 3);
        for address in ["http:", "https:", "src=", "@import"] {
            assert!(!page.contains(address), "the page mentions {address}");
        }
    }
}
