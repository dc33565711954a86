use super::*;

fn impairment(text: &str) -> Impairment {
    text.parse().unwrap()
}

/// The fates of datagrams of 100 bytes, one each millisecond, with the link that has decided.
fn fates(text: &str, seed: u64, datagrams: u64) -> (Vec<Fate>, Link, Instant) {
    let epoch = Instant::now();
    let mut link = Link::new(epoch, impairment(text), seed);
    let fates = (0..datagrams).map(|n| link.offer(epoch + Duration::from_millis(n), 100)).collect();
    (fates, link, epoch)
}

fn is_lost(fate: &Fate) -> bool {
    matches!(fate, Fate::Lost(_))
}

#[test]
fn the_achieved_loss_is_within_half_a_point_of_the_target_over_100_000_datagrams() {
    for seed in 0..20 {
        for (text, target) in [
            ("loss=0", 0.0),
            ("loss=1%", 0.01),
            ("loss=5%", 0.05),
            ("loss=37.5%", 0.375),
            ("loss=100%", 1.0),
            ("burst=5%/4", 0.05),
            ("burst=66%/2", 0.66),
            ("burst=100%/3", 1.0),
            ("gilbert=2%/20%/1%/70%", 0.02 / 0.22 * 0.70 + 0.20 / 0.22 * 0.01),
        ] {
            let (_, link, _) = fates(text, seed, 100_000);
            let achieved = link.counters().loss();
            assert!((achieved - target).abs() < 0.005, "{text}, seed {seed}: {achieved}");
        }
    }
}

#[test]
fn bursts_are_as_long_as_asked() {
    let (fates, link, _) = fates("burst=10%/5", 1, 100_000);
    let begins = fates.windows(2).filter(|pair| !is_lost(&pair[0]) && is_lost(&pair[1])).count() as f64;
    let mean = link.counters().lost_burst as f64 / begins;
    assert!((mean - 5.0).abs() < 0.4, "bursts of {mean}");
}

#[test]
fn the_same_seed_loses_the_same_datagrams_whatever_else_is_set() {
    let lost = |text, seed| fates(text, seed, 10_000).0.iter().map(is_lost).collect::<Vec<_>>();
    let plain = lost("loss=5%,burst=3%/4", 9);
    assert_eq!(lost("loss=5%,burst=3%/4", 9), plain);
    assert_eq!(lost("loss=5%,burst=3%/4,delay=50ms,jitter=30ms,duplicate=10%,corrupt=10%,reorder=5%/10ms", 9), plain);
    assert_ne!(lost("loss=5%,burst=3%/4", 10), plain);
}

#[test]
fn a_changed_setting_leaves_the_other_chances_as_they_were() {
    let epoch = Instant::now();
    let lost = |changes: bool| {
        let mut link = Link::new(epoch, impairment("loss=20%"), 3);
        let fate = |n: u64| {
            if changes && n % 100 == 50 {
                let jitter = Duration::from_millis(n % 7);
                link.set_impairment(Impairment { jitter, duplicate: 0.5, ..*link.impairment() });
            }
            is_lost(&link.offer(epoch + Duration::from_millis(n), 100))
        };
        (0..10_000).map(fate).collect::<Vec<_>>()
    };
    assert_eq!(lost(true), lost(false));
}

#[test]
fn delay_and_jitter_are_within_their_bounds_and_keep_the_order() {
    let (fates, link, epoch) = fates("delay=40ms,jitter=30ms", 5, 10_000);
    let arrivals: Vec<Instant> = fates.iter().map(at).collect();
    assert!(arrivals.is_sorted());
    assert_eq!(link.counters().reordered, 0);
    for (n, at) in (0..).zip(&arrivals) {
        let under_way = *at - (epoch + Duration::from_millis(n));
        assert!((40..=70).contains(&under_way.as_millis()), "{under_way:?}");
    }
}

fn at(fate: &Fate) -> Instant {
    match fate {
        Fate::Delivered(delivery) => delivery.at,
        Fate::Lost(cause) => panic!("lost: {cause:?}"),
    }
}

#[test]
fn held_back_datagrams_are_overtaken_and_the_others_are_not_late() {
    let (fates, link, epoch) = fates("delay=10ms,reorder=5%/20ms", 5, 10_000);
    let late = |(n, fate): &(u64, &Fate)| at(fate) > epoch + Duration::from_millis(n + 10);
    let held_back = (0..).zip(&fates).filter(late).count();
    assert!((400..600).contains(&held_back), "{held_back}");
    assert!(link.counters().reordered > 400, "{:?}", link.counters());
}

#[test]
fn copies_and_damage_happen_as_often_as_asked() {
    let (fates, link, _) = fates("duplicate=2%,corrupt=3%", 5, 100_000);
    let counters = link.counters();
    assert!((1_900..2_100).contains(&counters.duplicated), "{counters:?}");
    assert!((2_850..3_150).contains(&counters.corrupted), "{counters:?}");
    let mut damaged = 0;
    for fate in fates {
        let Fate::Delivered(Delivery { damage: Some(damage), .. }) = fate else { continue };
        for length in [1, 2, 7, 100] {
            let mut datagram = vec![0; length];
            damage.apply(&mut datagram);
            let flipped: u32 = datagram.iter().map(|byte| byte.count_ones()).sum();
            assert!((1..=4).contains(&flipped), "{flipped} bits");
        }
        damage.apply(&mut []);
        damaged += 1;
    }
    assert_eq!(damaged, counters.corrupted);
}

#[test]
fn a_bottleneck_delays_up_to_its_queue_and_then_loses() {
    // 128 bytes each millisecond want 1,024 kbit/s; half of it passes.
    let (fates, link, epoch) = fates("rate=512kbit/6400B", 5, 10_000);
    let counters = link.counters();
    assert!((4_700..=5_000).contains(&counters.lost_queue_full), "{counters:?}");
    let longest = (0..).zip(&fates).filter(|(_, fate)| !is_lost(fate));
    let longest = longest.map(|(n, fate)| at(fate) - (epoch + Duration::from_millis(n))).max().unwrap();
    // 6,400 bytes at 64,000 bytes a second.
    assert!((95..=103).contains(&longest.as_millis()), "{longest:?}");
}

#[test]
fn a_datagram_larger_than_the_queue_passes_an_idle_bottleneck() {
    let (fates, ..) = fates("rate=1mbit/10B", 5, 1);
    assert!(!is_lost(&fates[0]));
}

#[test]
fn nothing_passes_in_a_blackout_by_setting_or_by_command() {
    let (fates, link, epoch) = fates("blackout=100ms/1s", 5, 10_000);
    assert_eq!(link.counters().lost_blackout, 1_000);
    let begins = fates.windows(2).filter(|pair| !is_lost(&pair[0]) && is_lost(&pair[1])).count();
    assert!((9..=10).contains(&begins), "{begins}");

    let mut link = Link::new(epoch, Impairment::default(), 5);
    link.black_out(epoch, Duration::from_millis(50));
    assert_eq!(link.offer(epoch + Duration::from_millis(49), 100), Fate::Lost(Cause::Blackout));
    assert!(!is_lost(&link.offer(epoch + Duration::from_millis(50), 100)));
}

#[test]
fn what_is_too_long_is_lost() {
    let (_, link, _) = fates("mtu=99", 5, 10);
    assert_eq!(link.counters().lost_too_long, 10);
    let (_, link, _) = fates("mtu=100", 5, 10);
    assert_eq!(link.counters().lost(), 0);
}
