//! Sequence numbers: 64 bits inside, 16 bits on the wire (section 7 of `docs/protocol.md`).

/// The largest distance of a wire sequence from its reference. Windows must be smaller, so that 16 bits identify one
/// packet.
pub(crate) const MAX_DISTANCE: u64 = 30_000;

/// Widens the sequence of a received packet to the value nearest to the next expected one. `None`: the packet is too
/// old, or out of range, and counts as old.
pub(crate) fn widen_received(wire: u16, expected: u64) -> Option<u64> {
    let ahead = wire.wrapping_sub(expected as u16) as i16;
    if u64::from(ahead.unsigned_abs()) > MAX_DISTANCE {
        return None;
    }
    expected.checked_add_signed(i64::from(ahead))
}

/// Widens the sequence of an acknowledgement, relative to the next sequence to send. The result is below it, because
/// only sent packets are acknowledged. `None`: it was never sent.
///
/// Widening around the highest acknowledged sequence would misread a selective acknowledgement as one of the next
/// round, and drop packets that are still under way.
pub(crate) fn widen_acked(wire: u16, next: u64) -> Option<u64> {
    let behind = u64::from((next as u16).wrapping_sub(wire));
    if behind == 0 || behind > MAX_DISTANCE { None } else { next.checked_sub(behind) }
}

/// A sequence in 32 bits, for an idle channel. After billions of packets it is another sequence with the same lower 16
/// bits.
pub(crate) fn compact(sequence: u64) -> u32 {
    const ROUND: u64 = 1 << 16;
    u32::try_from(sequence).unwrap_or((ROUND + sequence % ROUND) as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn widening_crosses_the_wrap_in_both_directions() {
        assert_eq!(widen_received(65_535, 65_534), Some(65_535));
        assert_eq!(widen_received(65_535, 65_536), Some(65_535));
        assert_eq!(widen_received(300, 256), Some(300));
        assert_eq!(widen_received(0, 65_535), Some(65_536));
    }

    #[test]
    fn a_sequence_before_the_first_is_old() {
        assert_eq!(widen_received(65_535, 0), None);
    }

    #[test]
    fn an_acknowledgement_never_reaches_the_next_sequence() {
        assert_eq!(widen_acked(5, 5), None);
        assert_eq!(widen_acked(4, 5), Some(4));
        assert_eq!(widen_acked(65_535, 0), None);
        assert_eq!(widen_acked(65_535, 65_540), Some(65_535));
    }

    #[test]
    fn a_folded_sequence_widens_what_comes_as_the_sequence_itself_does() {
        for sequence in [0, 1, 70_000, (1 << 32) - 1, 1 << 32, (1 << 32) + 5, u64::MAX - 70_000] {
            let compact = u64::from(compact(sequence));
            for wire in (0..=u16::MAX).step_by(97) {
                let from = |base: u64, widened: Option<u64>| widened.map(|widened| widened.wrapping_sub(base) as i64);
                assert_eq!(
                    from(compact, widen_received(wire, compact)),
                    from(sequence, widen_received(wire, sequence)),
                    "{wire} received at {sequence}"
                );
                assert_eq!(
                    from(compact, widen_acked(wire, compact)),
                    from(sequence, widen_acked(wire, sequence)),
                    "{wire} acknowledged at {sequence}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_received_sequence_within_range_is_recovered(expected in 0u64..1 << 40, offset in -30_000i64..=30_000) {
            let Some(sequence) = expected.checked_add_signed(offset) else { return Ok(()) };
            prop_assert_eq!(widen_received(sequence as u16, expected), Some(sequence));
        }

        #[test]
        fn an_acknowledged_sequence_within_range_is_recovered(next in 1u64..1 << 40, behind in 1u64..=30_000) {
            let Some(sequence) = next.checked_sub(behind) else { return Ok(()) };
            prop_assert_eq!(widen_acked(sequence as u16, next), Some(sequence));
        }

        #[test]
        fn no_acknowledgement_is_widened_to_something_unsent(next in 0u64..1 << 40, wire: u16) {
            if let Some(sequence) = widen_acked(wire, next) {
                prop_assert!(sequence < next);
            }
        }
    }
}
