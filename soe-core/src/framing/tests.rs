use super::*;

#[test]
fn a_framing_is_small_enough_to_sit_in_every_session() {
    assert!(size_of::<Framing>() <= 64, "{} bytes", size_of::<Framing>());
}
