//! CRC seeds without stored state: a keyed hash of address, session id and time.

use std::{
    fmt,
    hash::Hasher,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use siphasher::sip::SipHasher24;

/// How long a key makes new seeds. A pending handshake lives shorter, so the current and the previous key are enough.
const KEY_LIFETIME: Duration = Duration::from_secs(60);
/// Domain separation between the uses of a key.
const PURPOSE_SEED: u8 = 1;
const PURPOSE_KEY: u8 = 2;
const PURPOSE_PLACE: u8 = 3;

/// A secret that changes over time, and the seeds derived from it.
///
/// A seed is a keyed hash of address, session id and period. It can only be learned by reading the response at that
/// address, and the server need not store it.
pub(in crate::endpoint) struct Cookies {
    key: [u8; 16],
    /// Counts periods of `KEY_LIFETIME`.
    period: u64,
    next: Instant,
}

impl Cookies {
    pub(super) fn new(now: Instant, key: [u8; 16]) -> Self {
        Self { key, period: 0, next: now + KEY_LIFETIME }
    }

    /// When the key changes.
    pub(super) fn next_rotation(&self) -> Instant {
        self.next
    }

    pub(super) fn rotate(&mut self, now: Instant) {
        while self.next <= now {
            self.period += 1;
            self.next += KEY_LIFETIME;
        }
    }

    /// The lowest bits of the current period, which distinguish it from the previous one.
    pub(super) fn period_tag(&self) -> u8 {
        (self.period & 0b11) as u8
    }

    /// The tag of the next period.
    pub(super) fn next_tag(&self) -> u8 {
        (self.period_tag() + 1) & 0b11
    }

    /// The seed for a request of the period with this tag: the previous, the current or the next one. `None` if that is
    /// too long ago.
    pub(super) fn seed(&self, from: SocketAddr, session_id: u32, period_tag: u8) -> Option<u32> {
        let period = match period_tag.wrapping_sub(self.period_tag()) & 0b11 {
            0 => self.period,
            1 => self.period + 1,
            2 => return None,
            _ => self.period.checked_sub(1)?,
        };
        // A key for each period: seeds of one period reveal nothing about the next.
        let mut hasher = self.hasher(PURPOSE_KEY);
        hasher.write_u64(period);
        let mut seeds = SipHasher24::new_with_keys(hasher.finish(), period);
        seeds.write_u8(PURPOSE_SEED);
        write_address(&mut seeds, from);
        seeds.write_u32(session_id);
        Some((seeds.finish() >> 16) as u32)
    }

    /// All seeds that a request may have been given within the lifetime of a key.
    pub(in crate::endpoint) fn seeds(&self, from: SocketAddr, session_id: u32) -> impl Iterator<Item = u32> {
        (0..4).filter_map(move |tag| self.seed(from, session_id, tag))
    }

    /// A keyed hash for table positions, which peers cannot predict.
    pub(super) fn place(&self, ip: IpAddr, port: u16) -> u64 {
        let mut hasher = self.hasher(PURPOSE_PLACE);
        write_address(&mut hasher, SocketAddr::new(ip, port));
        hasher.finish()
    }

    fn hasher(&self, purpose: u8) -> SipHasher24 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u8(purpose);
        hasher
    }
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").field("period", &self.period).finish_non_exhaustive()
    }
}

fn write_address(hasher: &mut impl Hasher, address: SocketAddr) {
    hasher.write(&octets(address.ip()));
    hasher.write_u16(address.port());
}

/// An address as 16 bytes; IPv4 in its mapped form.
pub(super) fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    #[test]
    fn a_seed_depends_on_address_port_id_and_key() {
        let now = Instant::now();
        let cookies = Cookies::new(now, [1; 16]);
        let seed = cookies.seed(address(1, 1), 1, 0);
        assert!(seed.is_some());
        assert_eq!(seed, cookies.seed(address(1, 1), 1, 0));
        assert_ne!(seed, cookies.seed(address(2, 1), 1, 0));
        assert_ne!(seed, cookies.seed(address(1, 2), 1, 0));
        assert_ne!(seed, cookies.seed(address(1, 1), 2, 0));
        assert_ne!(seed, Cookies::new(now, [2; 16]).seed(address(1, 1), 1, 0));
    }

    #[test]
    fn places_under_one_key_do_not_predict_those_under_another() {
        const SETS: u64 = 64;
        let (mine, theirs) = (Cookies::new(Instant::now(), [1; 16]), Cookies::new(Instant::now(), [2; 16]));
        let set = |cookies: &Cookies, port| cookies.place(address(1, port).ip(), port) % SETS;
        // With one key known, the ports that share a set with a victim's could be collected.
        let gathered: Vec<u16> = (1..=u16::MAX).filter(|&port| set(&mine, port) == set(&mine, 0)).collect();
        assert!(gathered.len() > 800);
        let mut hits = [0; SETS as usize];
        gathered.iter().for_each(|&port| hits[set(&theirs, port) as usize] += 1);
        let even = gathered.len() / SETS as usize;
        assert!(hits.iter().all(|&hits| hits < 4 * even), "{hits:?}");
    }

    #[test]
    fn a_seed_outlives_one_rotation_and_not_two() {
        let now = Instant::now();
        let mut cookies = Cookies::new(now, [1; 16]);
        let tag = cookies.period_tag();
        let seed = cookies.seed(address(1, 1), 1, tag);
        cookies.rotate(now + KEY_LIFETIME);
        assert_eq!(cookies.seed(address(1, 1), 1, tag), seed);
        assert_ne!(cookies.seed(address(1, 1), 1, cookies.period_tag()), seed);
        cookies.rotate(now + 2 * KEY_LIFETIME);
        assert_eq!(cookies.seed(address(1, 1), 1, tag), None);
    }

    #[test]
    fn a_seed_of_the_next_period_can_be_made_before_it_and_remains() {
        let now = Instant::now();
        let mut cookies = Cookies::new(now, [1; 16]);
        for period in 1..9 {
            let tag = cookies.next_tag();
            let early = cookies.seed(address(1, 1), 1, tag);
            assert_ne!(early, cookies.seed(address(1, 1), 1, cookies.period_tag()));
            assert!(early.is_some() && cookies.seeds(address(1, 1), 1).any(|seed| Some(seed) == early));
            cookies.rotate(now + KEY_LIFETIME * period);
            assert_eq!((cookies.period_tag(), cookies.seed(address(1, 1), 1, tag)), (tag, early));
        }
    }
}
