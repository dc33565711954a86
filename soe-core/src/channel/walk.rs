//! The messages of a payload.

use super::fragment::Corrupt;
use crate::wire::{MAX_NESTING, Payload, group::GroupElements};

/// Calls `visit` with every message in a payload, opening Groups in order. The stack has a fixed depth, because the
/// peer chooses the nesting.
pub(crate) fn walk_group(payload: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), Corrupt> {
    let mut stack: [Option<GroupElements<'_>>; MAX_NESTING] = [const { None }; MAX_NESTING];
    let mut depth = match Payload::classify(payload) {
        Payload::Message(message) => {
            visit(message);
            return Ok(());
        }
        Payload::Group(group) => {
            stack[0] = Some(group.elements());
            1
        }
    };
    while depth > 0 {
        let Some(element) = stack[depth - 1].as_mut().and_then(Iterator::next) else {
            depth -= 1;
            continue;
        };
        let element = element.map_err(|_| Corrupt("group element beyond its packet"))?;
        match Payload::classify(element) {
            Payload::Message(message) => visit(message),
            Payload::Group(group) => {
                let slot = stack.get_mut(depth).ok_or(Corrupt("groups nested too deep"))?;
                *slot = Some(group.elements());
                depth += 1;
            }
        }
    }
    Ok(())
}
