//! One direction of a link as a value: time, lengths and a seed come in, the fate of each datagram comes out.

mod impairment;
mod profile;
mod words;

use std::{
    ops::AddAssign,
    time::{Duration, Instant},
};

use serde::Serialize;

use self::impairment::{Blackout, Rate, Reorder};
pub use self::impairment::{Impairment, Spec, SpecError};
pub use self::profile::{Profile, UnknownProfile};
use self::words::{Purpose, Words};

pub(crate) use self::words::mix;

/// One direction of the path between two peers: it decides about datagrams and holds none of them.
///
/// The same seed and the same sequence of calls give the same fates. Whether the n-th datagram is lost to chance depends on
/// the seed, n and the loss settings alone, not on time and not on any other setting.
#[derive(Clone, Debug)]
pub struct Link {
    impairment: Impairment,
    words: Words,
    epoch: Instant,
    /// The state of the Gilbert-Elliott model.
    is_bad: bool,
    /// When the bottleneck has sent what it has taken.
    busy_until: Instant,
    /// When the last datagram arrives that keeps the order.
    in_order: Instant,
    /// When the last datagram of all arrives.
    latest: Instant,
    /// Until when nothing passes, by command.
    blackout_until: Instant,
    counters: LinkCounters,
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It does not arrive.
    Lost(Cause),
    /// It arrives.
    Delivered(Delivery),
}

/// How a datagram arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// When.
    pub at: Instant,
    /// When once more.
    pub copy_at: Option<Instant>,
    /// What is damaged in it, and in its copy.
    pub damage: Option<Damage>,
}

/// Why a datagram is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Chance.
    Random,
    /// The Gilbert-Elliott model.
    Burst,
    /// A blackout.
    Blackout,
    /// The queue of the bottleneck is full.
    QueueFull,
    /// It is longer than the link carries.
    TooLong,
}

impl Cause {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Burst => "burst",
            Self::Blackout => "blackout",
            Self::QueueFull => "queue full",
            Self::TooLong => "too long",
        }
    }
}

/// One to four flipped bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage(u64);

impl Damage {
    /// Flips the bits. Something is different afterwards unless the datagram is empty.
    pub fn apply(self, datagram: &mut [u8]) {
        if datagram.is_empty() {
            return;
        }
        let bits = datagram.len() as u64 * 8;
        let first = mix(self.0) % bits;
        flip(datagram, first);
        for n in 1..=self.0 % 4 {
            let bit = mix(self.0.wrapping_add(n)) % bits;
            // The first one stays flipped whatever the others hit; they cannot all undo each other then.
            if bit != first {
                flip(datagram, bit);
            }
        }
    }
}

fn flip(datagram: &mut [u8], bit: u64) {
    datagram[(bit / 8) as usize] ^= 1 << (bit % 8);
}

/// What one direction has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LinkCounters {
    /// Datagrams that came in.
    pub offered: u64,
    /// Bytes that came in.
    pub bytes: u64,
    /// Lost to chance.
    pub lost_random: u64,
    /// Lost to the Gilbert-Elliott model.
    pub lost_burst: u64,
    /// Lost in blackouts.
    pub lost_blackout: u64,
    /// Lost in front of the bottleneck.
    pub lost_queue_full: u64,
    /// Lost for their length.
    pub lost_too_long: u64,
    /// Passed on twice.
    pub duplicated: u64,
    /// Passed on with bits flipped.
    pub corrupted: u64,
    /// Datagrams that arrive before one that came in earlier.
    pub reordered: u64,
}

impl LinkCounters {
    /// Lost for whatever reason.
    pub fn lost(&self) -> u64 {
        self.lost_random + self.lost_burst + self.lost_blackout + self.lost_queue_full + self.lost_too_long
    }

    /// The share lost for whatever reason, 0 to 1; 0 if nothing came in.
    pub fn loss(&self) -> f64 {
        if self.offered == 0 { 0.0 } else { self.lost() as f64 / self.offered as f64 }
    }

    fn count(&mut self, cause: Cause) {
        *match cause {
            Cause::Random => &mut self.lost_random,
            Cause::Burst => &mut self.lost_burst,
            Cause::Blackout => &mut self.lost_blackout,
            Cause::QueueFull => &mut self.lost_queue_full,
            Cause::TooLong => &mut self.lost_too_long,
        } += 1;
    }
}

impl AddAssign for LinkCounters {
    fn add_assign(&mut self, other: Self) {
        self.offered += other.offered;
        self.bytes += other.bytes;
        self.lost_random += other.lost_random;
        self.lost_burst += other.lost_burst;
        self.lost_blackout += other.lost_blackout;
        self.lost_queue_full += other.lost_queue_full;
        self.lost_too_long += other.lost_too_long;
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
        self.reordered += other.reordered;
    }
}

impl Link {
    /// A link whose chances `seed` decides.
    pub fn new(now: Instant, impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            words: Words::new(seed),
            epoch: now,
            is_bad: false,
            busy_until: now,
            in_order: now,
            latest: now,
            blackout_until: now,
            counters: LinkCounters::default(),
        }
    }

    /// What it does to datagrams.
    pub fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    /// Changes what it does to the datagrams that come from now on.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// Lets nothing pass for a time of up to a day.
    pub fn black_out(&mut self, now: Instant, length: Duration) {
        self.blackout_until = now + length.min(MAX_BLACKOUT);
    }

    /// What it has done so far.
    pub fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Decides about a datagram of `length` bytes.
    pub fn offer(&mut self, now: Instant, length: usize) -> Fate {
        let n = self.counters.offered;
        self.counters.offered += 1;
        self.counters.bytes += length as u64;
        let departure = match self.depart(now, n, length) {
            Ok(departure) => departure,
            Err(cause) => {
                self.counters.count(cause);
                return Fate::Lost(cause);
            }
        };
        let at = self.arrive(departure, n, Purpose::Jitter);
        let is_copied = self.words.chance(n, Purpose::Duplicate, self.impairment.duplicate);
        let copy_at = is_copied.then(|| self.arrive(departure, n, Purpose::CopyJitter));
        let is_damaged = length > 0 && self.words.chance(n, Purpose::Corrupt, self.impairment.corrupt);
        let damage = is_damaged.then(|| Damage(self.words.word(n, Purpose::CorruptBits)));
        self.counters.duplicated += u64::from(is_copied);
        self.counters.corrupted += u64::from(is_damaged);
        Fate::Delivered(Delivery { at, copy_at, damage })
    }

    /// When the datagram leaves the bottleneck.
    fn depart(&mut self, now: Instant, n: u64, length: usize) -> Result<Instant, Cause> {
        // The model goes on with every datagram, also when another reason takes it: fates depend on the number alone.
        let burst = self.impairment.burst.is_some_and(|model| {
            let change = if self.is_bad { model.leave } else { model.enter };
            self.is_bad ^= self.words.chance(n, Purpose::BurstState, change);
            self.words.chance(n, Purpose::BurstLoss, if self.is_bad { model.bad } else { model.good })
        });
        if self.is_blacked_out(now) {
            return Err(Cause::Blackout);
        }
        if self.impairment.mtu.is_some_and(|mtu| length > mtu) {
            return Err(Cause::TooLong);
        }
        if burst {
            return Err(Cause::Burst);
        }
        if self.words.chance(n, Purpose::Loss, self.impairment.loss) {
            return Err(Cause::Random);
        }
        let Some(Rate { bits_per_second, queue }) = self.impairment.rate else { return Ok(now) };
        let start = self.busy_until.max(now);
        let bits = (length as u64 + HEADERS) * 8;
        let waiting = (start - now).as_secs_f64() * bits_per_second as f64 / 8.0;
        if waiting + length as f64 > queue as f64 && start > now {
            return Err(Cause::QueueFull);
        }
        self.busy_until = start + Duration::from_secs_f64(bits as f64 / bits_per_second as f64);
        Ok(self.busy_until)
    }

    fn is_blacked_out(&self, now: Instant) -> bool {
        if now < self.blackout_until {
            return true;
        }
        let Some(Blackout { length, every }) = self.impairment.blackout else { return false };
        let (length, every) = (length.as_secs_f64(), every.as_secs_f64());
        let begin = self.words.unit(0, Purpose::BlackoutPhase) * (every - length);
        let since = now.saturating_duration_since(self.epoch).as_secs_f64() % every;
        since >= begin && since < begin + length
    }

    fn arrive(&mut self, departure: Instant, n: u64, jitter: Purpose) -> Instant {
        let drawn = self.impairment.jitter.mul_f64(self.words.unit(n, jitter));
        let mut at = departure + self.impairment.delay + drawn;
        match self.impairment.reorder {
            Some(Reorder { share, by }) if self.words.chance(n, Purpose::HoldBack, share) => {
                at += by.mul_f64(0.25 + 0.75 * self.words.unit(n, Purpose::HoldBackBy));
            }
            _ => {
                // A line does not overtake itself: jitter alone keeps the order.
                at = at.max(self.in_order);
                self.in_order = at;
            }
        }
        self.counters.reordered += u64::from(at < self.latest);
        self.latest = self.latest.max(at);
        at
    }
}

/// The longest blackout by command.
const MAX_BLACKOUT: Duration = Duration::from_secs(86_400);
/// Bytes of IPv4 and UDP header, which take their time in a bottleneck too.
const HEADERS: u64 = 28;

#[cfg(test)]
mod tests;
