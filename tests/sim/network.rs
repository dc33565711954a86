//! One direction of a path between two addresses, and what can go wrong on it.

use std::{
    ops::AddAssign,
    time::{Duration, Instant},
};

use super::rng::Rng;

/// Losses that come in bursts: the model of Gilbert and Elliott.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    /// The share of datagrams after which the link turns bad,
    pub(crate) enter: f64,
    /// or good again.
    pub(crate) leave: f64,
    /// The share lost while it is bad.
    pub(crate) loss: f64,
}

/// A bottleneck: bytes a second, and the bytes that may wait in front of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bottleneck {
    pub(crate) rate: u64,
    pub(crate) queue: u64,
}

/// How one direction treats datagrams. The default passes everything on at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) latency: Duration,
    /// Up to this much more, drawn anew for each datagram.
    pub(crate) jitter: Duration,
    /// None overtakes another: what is late holds up those behind it.
    pub(crate) in_order: bool,
    pub(crate) loss: f64,
    pub(crate) burst: Option<Burst>,
    /// The share that is held back, and for how long at most.
    pub(crate) reorder: f64,
    pub(crate) reorder_by: Duration,
    pub(crate) duplicate: f64,
    /// The share in which a few bits are flipped.
    pub(crate) corrupt: f64,
    /// The share that loses its end.
    pub(crate) truncate: f64,
    /// Larger datagrams vanish.
    pub(crate) mtu: Option<usize>,
    /// Nothing passes from the first to the second, counted from the start of the simulation.
    pub(crate) blackouts: Vec<(Duration, Duration)>,
    pub(crate) bottleneck: Option<Bottleneck>,
    /// Everything waits for the next multiple of this: a peer that acknowledges that often.
    pub(crate) hold: Option<Duration>,
}

impl Faults {
    pub(crate) fn delay(millis: u64) -> Self {
        Self { latency: Duration::from_millis(millis), ..Self::default() }
    }

    pub(crate) fn lossy(millis: u64, loss: f64) -> Self {
        Self { loss, ..Self::delay(millis) }
    }
}

/// What a link has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) offered: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) lost_in_bursts: u64,
    pub(crate) blacked_out: u64,
    pub(crate) over_mtu: u64,
    pub(crate) queue_full: u64,
    pub(crate) queued: u64,
    pub(crate) duplicated: u64,
    pub(crate) held_back: u64,
    /// Datagrams that arrive before one that left earlier.
    pub(crate) overtaking: u64,
    pub(crate) corrupted: u64,
    pub(crate) truncated: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.offered += other.offered;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.lost_in_bursts += other.lost_in_bursts;
        self.blacked_out += other.blacked_out;
        self.over_mtu += other.over_mtu;
        self.queue_full += other.queue_full;
        self.queued += other.queued;
        self.duplicated += other.duplicated;
        self.held_back += other.held_back;
        self.overtaking += other.overtaking;
        self.corrupted += other.corrupted;
        self.truncated += other.truncated;
    }
}

/// One direction of a path.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) faults: Faults,
    pub(crate) counts: Counts,
    epoch: Instant,
    rng: Rng,
    bad: bool,
    busy_until: Instant,
    latest_arrival: Instant,
}

impl Link {
    pub(crate) fn new(epoch: Instant, faults: Faults, rng: Rng) -> Self {
        Self { faults, counts: Counts::default(), epoch, rng, bad: false, busy_until: epoch, latest_arrival: epoch }
    }

    /// From now on only distance is left.
    pub(crate) fn calm(&mut self) {
        self.faults = Faults { latency: self.faults.latency, ..Faults::default() };
    }

    /// Takes a datagram and calls `arrive` for each copy that gets through. `detectable` says whether damage would be
    /// noticed: what a CRC of N bytes lets through once in 256^N proves nothing about a session.
    pub(crate) fn carry(
        &mut self,
        now: Instant,
        datagram: &[u8],
        detectable: impl Fn(&[u8]) -> bool,
        mut arrive: impl FnMut(Instant, Vec<u8>),
    ) {
        self.counts.offered += 1;
        let Some(departure) = self.depart(now, datagram.len()) else { return };
        let copies = 1 + u32::from(self.rng.chance(self.faults.duplicate));
        self.counts.duplicated += u64::from(copies - 1);
        for _ in 0..copies {
            let at = self.arrival(departure);
            self.counts.overtaking += u64::from(at < self.latest_arrival);
            self.latest_arrival = self.latest_arrival.max(at);
            self.counts.delivered += 1;
            arrive(at, self.damage(datagram, &detectable));
        }
    }

    /// When the datagram leaves the bottleneck; `None` if it is lost.
    fn depart(&mut self, now: Instant, length: usize) -> Option<Instant> {
        let since = now - self.epoch;
        if self.faults.blackouts.iter().any(|(from, to)| (*from..*to).contains(&since)) {
            self.counts.blacked_out += 1;
            return None;
        }
        if self.faults.mtu.is_some_and(|mtu| length > mtu) {
            self.counts.over_mtu += 1;
            return None;
        }
        if let Some(burst) = self.faults.burst {
            self.bad = if self.bad { !self.rng.chance(burst.leave) } else { self.rng.chance(burst.enter) };
            if self.bad && self.rng.chance(burst.loss) {
                self.counts.lost_in_bursts += 1;
                return None;
            }
        }
        if self.rng.chance(self.faults.loss) {
            self.counts.lost += 1;
            return None;
        }
        let Some(Bottleneck { rate, queue }) = self.faults.bottleneck else { return Some(now) };
        let start = self.busy_until.max(now);
        let waiting = (start - now).as_micros() as u64 * rate / 1_000_000;
        if waiting > queue {
            self.counts.queue_full += 1;
            return None;
        }
        self.counts.queued += u64::from(start > now);
        self.busy_until = start + Duration::from_micros((length as u64 + 28) * 1_000_000 / rate);
        Some(self.busy_until)
    }

    fn arrival(&mut self, departure: Instant) -> Instant {
        let mut at = departure + self.faults.latency + part_of(self.faults.jitter, &mut self.rng);
        if self.rng.chance(self.faults.reorder) {
            self.counts.held_back += 1;
            at += part_of(self.faults.reorder_by, &mut self.rng);
        }
        if self.faults.in_order {
            at = at.max(self.latest_arrival);
        }
        match self.faults.hold {
            Some(hold) => {
                let since = (at - self.epoch).as_nanos();
                let nanos = since.div_ceil(hold.as_nanos()) * hold.as_nanos();
                self.epoch + Duration::from_nanos(nanos as u64)
            }
            None => at,
        }
    }

    fn damage(&mut self, datagram: &[u8], detectable: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut damaged = datagram.to_vec();
        if self.rng.chance(self.faults.corrupt) {
            for _ in 0..self.rng.range(1, 4) {
                let at = self.rng.below(damaged.len() as u64) as usize;
                damaged[at] ^= 1 << self.rng.below(8);
            }
            if damaged[..] != *datagram && detectable(&damaged) {
                self.counts.corrupted += 1;
                return damaged;
            }
        } else if self.rng.chance(self.faults.truncate) {
            damaged.truncate(self.rng.below(damaged.len() as u64) as usize);
            if detectable(&damaged) {
                self.counts.truncated += 1;
                return damaged;
            }
        }
        datagram.to_vec()
    }
}

fn part_of(most: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.range(0, most.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(faults: Faults, datagrams: usize) -> (Vec<(Instant, Vec<u8>)>, Counts) {
        let epoch = Instant::now();
        let mut link = Link::new(epoch, faults, Rng::new(7));
        let mut arrivals = Vec::new();
        for n in 0..datagrams {
            let now = epoch + Duration::from_millis(n as u64);
            link.carry(now, &[n as u8; 100], |_| true, |at, datagram| arrivals.push((at, datagram)));
        }
        (arrivals, link.counts)
    }

    #[test]
    fn each_fault_happens_as_often_as_it_should() {
        let burst = Burst { enter: 0.02, leave: 0.2, loss: 1.0 };
        let (arrivals, counts) = carried(Faults { burst: Some(burst), ..Faults::lossy(5, 0.25) }, 10_000);
        assert!((700..1_200).contains(&counts.lost_in_bursts), "{counts:?}");
        assert!((1_900..2_600).contains(&counts.lost), "{counts:?}");
        assert_eq!(arrivals.len() as u64, counts.offered - counts.lost - counts.lost_in_bursts);
        let (arrivals, counts) =
            carried(Faults { duplicate: 0.1, corrupt: 0.1, truncate: 0.1, ..Faults::default() }, 10_000);
        assert!((900..1_100).contains(&counts.duplicated), "{counts:?}");
        assert!(counts.corrupted > 900 && counts.truncated > 800, "{counts:?}");
        assert_eq!(arrivals.iter().filter(|(_, datagram)| datagram.len() < 100).count() as u64, counts.truncated);
    }

    #[test]
    fn a_bottleneck_delays_and_then_drops() {
        let bottleneck = Some(Bottleneck { rate: 64_000, queue: 6_400 });
        let (arrivals, counts) = carried(Faults { bottleneck, ..Faults::default() }, 1_000);
        assert!(counts.queue_full > 400 && counts.queued > 400, "{counts:?}");
        assert!(arrivals.is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn jitter_that_keeps_the_order_overtakes_nothing() {
        let jitter = Duration::from_millis(40);
        let (arrivals, counts) = carried(Faults { jitter, ..Faults::delay(1) }, 1_000);
        assert!(!arrivals.is_sorted_by_key(|(at, _)| *at) && counts.overtaking > 100);
        let (arrivals, counts) = carried(Faults { jitter, in_order: true, ..Faults::delay(1) }, 1_000);
        assert!(arrivals.is_sorted_by_key(|(at, _)| *at) && counts.overtaking == 0);
    }

    #[test]
    fn what_is_held_arrives_on_the_beat() {
        let hold = Duration::from_millis(500);
        let (arrivals, _) = carried(Faults { hold: Some(hold), ..Faults::delay(1) }, 1_000);
        let mut beats: Vec<_> = arrivals.iter().map(|(at, _)| *at).collect();
        beats.dedup();
        assert_eq!(beats.len(), 2);
    }

    #[test]
    fn nothing_passes_in_a_blackout_or_above_the_mtu() {
        let blackouts = vec![(Duration::from_millis(100), Duration::from_millis(300))];
        let (_, counts) = carried(Faults { blackouts, ..Faults::default() }, 1_000);
        assert_eq!(counts.blacked_out, 200);
        let (arrivals, counts) = carried(Faults { mtu: Some(99), ..Faults::default() }, 10);
        assert!(arrivals.is_empty() && counts.over_mtu == 10);
    }
}
