//! A Wireshark dissector in Lua: a fixed part, and tables that are written from those of `soe-core`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use soe_core::DisconnectReason;
use soe_core::framing::{FlagPosition, ZlibCodec};
use soe_core::wire::schema::{FieldKind, PACKETS, PacketSchema, Rest};
use soe_core::wire::{MAX_NESTING, opcode};

/// The parts of the script in order.
const PARTS: [&str; 4] =
    [include_str!("fields.lua"), include_str!("bytes.lua"), include_str!("sessions.lua"), include_str!("display.lua")];

/// The whole script.
pub(crate) fn script() -> String {
    PARTS.concat().replace("{{version}}", env!("CARGO_PKG_VERSION")).replace("{{tables}}\n", &tables())
}

fn tables() -> String {
    let mut lua = String::new();
    let _ = writeln!(lua, "local MAX_NESTING = {MAX_NESTING}");
    let exempt = (0..=u8::MAX).filter(|code| opcode::is_exempt(*code)).map(|code| format!("[{code}] = true"));
    let _ = writeln!(lua, "local EXEMPT = {{ {} }}", exempt.collect::<Vec<_>>().join(", "));
    put_packets(&mut lua);
    let sizes = field_sizes().into_iter().map(|(name, size)| format!("{name} = {size}"));
    let _ = writeln!(lua, "local FIELD_SIZES = {{ {} }}", sizes.collect::<Vec<_>>().join(", "));
    lua.push_str("local REASONS = {\n");
    for number in 0..=u16::MAX {
        let reason = DisconnectReason::from(number);
        if let DisconnectReason::Other(_) = reason {
            break;
        }
        let _ = writeln!(lua, "  [{number}] = {:?},", reason.to_string());
    }
    lua.push_str("}\nlocal CODECS = {\n");
    for (name, codec) in [
        ("version3", ZlibCodec::VERSION_3),
        ("everquest", ZlibCodec::EVERQUEST),
        ("star-wars-galaxies", ZlibCodec::STAR_WARS_GALAXIES),
    ] {
        let (leading, raw, deflated) = (codec.flag == FlagPosition::Leading, codec.raw, codec.deflated);
        let _ = writeln!(lua, "  {{ name = {name:?}, leading = {leading}, raw = {raw}, deflated = {deflated} }},");
    }
    lua.push_str("}\n");
    lua
}

fn put_packets(lua: &mut String) {
    let mut names = String::new();
    lua.push_str("local PACKETS = {\n");
    for schema in &PACKETS {
        let channels: &[u8] = if schema.per_channel { &[0, 1, 2, 3] } else { &[0] };
        for channel in channels {
            let code = schema.opcode + channel;
            let (name, rest, fields) = (schema.name, rest(schema.rest), fields(schema));
            let place = if schema.per_channel { format!("channel = {channel}, ") } else { String::new() };
            let _ =
                writeln!(lua, "  [{code}] = {{ name = {name:?}, {place}rest = {rest:?}, fields = {{ {fields} }} }},");
            let _ = writeln!(names, "  [{code}] = {name:?},");
        }
    }
    let _ = writeln!(lua, "}}\nlocal OP_NAMES = {{\n{names}}}");
}

fn fields(schema: &PacketSchema) -> String {
    let field = |field: &soe_core::wire::schema::Field| match field.kind {
        FieldKind::Number(size) => {
            let optional = if field.is_optional { ", optional = true" } else { "" };
            format!("{{ name = {:?}, size = {size}{optional} }}", field.name)
        }
        FieldKind::Name => "{ text = true }".into(),
    };
    schema.fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

const fn rest(rest: Rest) -> &'static str {
    match rest {
        Rest::Nothing => "nothing",
        Rest::Payload => "payload",
        Rest::Fragment => "fragment",
        Rest::Pieces => "pieces",
        Rest::Elements => "elements",
        Rest::Data => "data",
    }
}

/// Every number with its size: a name has the same size in every packet.
fn field_sizes() -> BTreeMap<&'static str, usize> {
    let fields = PACKETS.iter().flat_map(|schema| schema.fields);
    fields
        .filter_map(|field| match field.kind {
            FieldKind::Number(size) => Some((field.name, size)),
            FieldKind::Name => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_the_same_size_wherever_it_stands() {
        for field in PACKETS.iter().flat_map(|schema| schema.fields) {
            if let FieldKind::Number(size) = field.kind {
                assert_eq!(field_sizes()[field.name], size, "{}", field.name);
            }
        }
    }

    #[test]
    fn no_mark_is_left_in_the_script() {
        let script = script();
        assert!(!script.contains("{{version") && !script.contains("{{tables"));
        assert!(script.contains("[24] = { name = \"acknowledge-all\", channel = 3, rest = \"nothing\""));
    }
}
