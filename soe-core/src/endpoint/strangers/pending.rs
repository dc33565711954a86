//! Pending handshakes: clients that have sent a request and no valid datagram yet (a SYN cache).

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use super::cookie::octets;
use crate::{evidence::Evidence, wire::MAX_PROTOCOL_NAME};

/// The size of one entry in bytes.
pub(super) const ENTRY: usize = 64;
/// Places per hash. When all are taken, the oldest entry is replaced. Under a flood this approximates one queue through
/// the whole table, in which each entry lives equally long.
const WAYS: usize = 16;
/// A table begins with 1/16 of its places. Only a flood fills more, and a keyed hash would scatter a few entries over
/// all pages of a full table.
const FIRST_SHARE: usize = 16;
/// The lifetime of an entry: 30 s, in which a client with the response keeps sending, and half as long again.
const LIFETIME: Duration = Duration::from_secs(45);
/// The unit of time of an entry.
const TICK: Duration = Duration::from_millis(125);
/// The most session ids that one address may request at a time.
const MAX_PER_ADDRESS: usize = 4;
/// Wrong CRCs after which one valid datagram is no longer enough, because the seed is being guessed. Also the largest
/// count that an entry can hold.
pub(super) const MAX_FAILURES: u8 = 15;

/// A client's request, reduced to what a session needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PendingHandshake {
    pub(super) from: SocketAddr,
    pub(super) session_id: u32,
    pub(super) udp_length: u16,
    /// The version of its request, 65,535 for any higher one.
    pub(super) version: u16,
    /// The period of the key that made the seed.
    pub(super) period_tag: u8,
    /// Valid datagrams that were not enough to open a session.
    pub(super) evidence: Evidence,
    /// Datagrams with a wrong CRC, 0 to [`MAX_FAILURES`]. Maintained by the table.
    pub(super) failures: u8,
    /// The index of the server's configuration, 0 to 13. 14 and 15 mark refusals.
    pub(super) config: u8,
    pub(super) name: Name,
}

/// A protocol name of at most 32 bytes, as received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    length: u8,
    bytes: [u8; MAX_PROTOCOL_NAME],
}

impl Name {
    pub(super) fn new(name: &[u8]) -> Self {
        let length = name.len().min(MAX_PROTOCOL_NAME);
        let mut bytes = [0; MAX_PROTOCOL_NAME];
        bytes[..length].copy_from_slice(&name[..length]);
        Self { length: length as u8, bytes }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length).min(MAX_PROTOCOL_NAME)]
    }
}

/// What a place holds.
///
/// ```text
///  0     16   18         22         24   26                 27            28      30       32          64
/// +-----+----+----------+----------+----+------------------+-------------+-------+--------+-----------+
/// |IP   |port|session id|udp length|tick|name length|period|config|failed|version|evidence|name       |
/// +-----+----+----------+----------+----+------------------+-------------+-------+--------+-----------+
/// ```
type Entry = [u8; ENTRY];

const PORT: usize = 16;
const SESSION_ID: usize = 18;
const UDP_LENGTH: usize = 22;
const TICKED: usize = 24;
const NAME_LENGTH: usize = 26;
const CONFIG: usize = 27;
const VERSION: usize = 28;
const EVIDENCE: usize = 30;
const NAME: usize = 32;

/// The table of pending handshakes. It begins small, and grows to its full size when an entry would otherwise be
/// replaced. It never grows beyond that.
#[derive(Debug)]
pub(super) struct PendingHandshakes {
    epoch: Instant,
    /// The entries, as bytes: zeroed pages cost no memory until they are written.
    bytes: Vec<u8>,
    /// The most places.
    places: usize,
    ways: usize,
    /// Where the search for the oldest entry begins, so that equally old entries are replaced evenly.
    next_way: usize,
    swept: Instant,
}

impl PendingHandshakes {
    /// A table with this many places, at least one.
    pub(super) fn new(epoch: Instant, places: usize) -> Self {
        let ways = WAYS.min(places.max(1));
        let places = places.max(1) / ways * ways;
        Self { epoch, bytes: vec![0; first_places(places, ways) * ENTRY], places, ways, next_way: 0, swept: epoch }
    }

    /// The most memory of the table, in bytes: all places, and the first ones while it grows.
    pub(super) fn memory(&self) -> usize {
        let first = first_places(self.places, self.ways);
        (self.places + if first < self.places { first } else { 0 }) * ENTRY
    }

    /// The entries of this address, newest first. There may be several: a client that restarted, or forged requests.
    /// `place` is the keyed hash of the address.
    pub(super) fn all(&self, now: Instant, place: u64, from: SocketAddr) -> impl Iterator<Item = PendingHandshake> {
        let mut indices: Vec<usize> = self.at(now, place, from).collect();
        indices.sort_by_key(|&index| self.age(now, &self.entries()[index]));
        indices.into_iter().map(move |index| read(&self.entries()[index], from))
    }

    /// The entry of this address and session id.
    pub(super) fn get(&self, now: Instant, place: u64, from: SocketAddr, session_id: u32) -> Option<PendingHandshake> {
        self.all(now, place, from).find(|pending| pending.session_id == session_id)
    }

    /// Stores an entry. It replaces the entry of the same client, or the newest one of its address if that has too
    /// many: later forged requests must not replace the first client. `place_of` is the keyed hash of an address.
    /// Returns whether another client's entry was replaced.
    pub(super) fn put(
        &mut self,
        now: Instant,
        pending: &PendingHandshake,
        place_of: impl Fn(SocketAddr) -> u64,
    ) -> bool {
        let place = place_of(pending.from);
        let own = self.find(now, place, pending.from, pending.session_id);
        // An attacker who forges requests from a player's address gets at most the remaining entries of that address.
        let crowded = self.at(now, place, pending.from).count() >= MAX_PER_ADDRESS;
        let newest = || {
            let age = |index: &usize| self.age(now, &self.entries()[*index]);
            self.at(now, place, pending.from).min_by_key(age).filter(|_| crowded)
        };
        let (index, evicted) = match own.or_else(newest) {
            Some(index) => (index, false),
            None => self.make_room(now, place, &place_of),
        };
        // What is held against an address holds for all that asks in its name.
        let failures = self.at(now, place, pending.from).map(|index| self.entries()[index][CONFIG] & 0x0F).max();
        let tick = self.tick(now);
        write(&mut self.entries_mut()[index], pending, failures.unwrap_or(0), tick);
        evicted
    }

    /// Gives the table another number of places and moves the current entries there. Entries that find no room, the
    /// oldest first, are removed; returns their number.
    pub(super) fn resize(&mut self, now: Instant, places: usize, place_of: impl Fn(SocketAddr) -> u64) -> u64 {
        // The entries keep their time stamps, so the time until they wrap goes on as well.
        let mut resized = Self { swept: self.swept, ..Self::new(self.epoch, places) };
        let mut removed = 0;
        for entry in self.entries().iter().filter(|entry| self.is_known(now, entry)) {
            let (index, evicts) = resized.make_room(now, place_of(address(entry)), &place_of);
            if !evicts || self.age(now, entry) < self.age(now, &resized.entries()[index]) {
                resized.entries_mut()[index] = *entry;
            }
            removed += u64::from(evicts);
        }
        *self = resized;
        removed
    }

    /// The index for another entry, free or of the oldest entry. The table grows before an entry must be replaced.
    /// Returns whether one must be.
    fn make_room(&mut self, now: Instant, place: u64, place_of: &impl Fn(SocketAddr) -> u64) -> (usize, bool) {
        let ways = self.ways(place);
        self.next_way = self.next_way.wrapping_add(1);
        let age = |index: &usize| self.age(now, &self.entries()[*index]).unwrap_or(Duration::MAX);
        let rotated = (0..self.ways).map(|way| ways.start + (way + self.next_way) % self.ways);
        let oldest = rotated.max_by_key(age).unwrap_or(0);
        let evicts = age(&oldest) <= LIFETIME;
        if evicts && self.entries().len() < self.places {
            self.grow(now, place_of);
            return self.make_room(now, place, place_of);
        }
        (oldest, evicts)
    }

    /// Allocates all places and moves the entries there.
    fn grow(&mut self, now: Instant, place_of: &impl Fn(SocketAddr) -> u64) {
        let first = std::mem::replace(&mut self.bytes, vec![0; self.places * ENTRY]);
        for entry in first.as_chunks().0 {
            if self.is_known(now, entry) {
                let mut ways = self.ways(place_of(address(entry)));
                let last = ways.end - 1;
                let free = ways.find(|&index| self.age(now, &self.entries()[index]).is_none());
                self.entries_mut()[free.unwrap_or(last)] = *entry;
            }
        }
    }

    /// Removes all entries of this address.
    pub(super) fn remove(&mut self, now: Instant, place: u64, from: SocketAddr) {
        let indices: Vec<usize> = self.at(now, place, from).collect();
        for index in indices {
            self.entries_mut()[index] = [0; ENTRY];
        }
    }

    /// The age of the newest entry.
    pub(super) fn newest_age(&self, now: Instant) -> Option<Duration> {
        self.entries().iter().filter_map(|entry| self.age(now, entry)).min().filter(|&age| age <= LIFETIME)
    }

    /// Stores what the valid datagrams of a client amount to.
    pub(super) fn set_evidence(
        &mut self,
        now: Instant,
        place: u64,
        from: SocketAddr,
        session_id: u32,
        evidence: Evidence,
    ) {
        if let Some(index) = self.find(now, place, from, session_id) {
            set_evidence(&mut self.entries_mut()[index], evidence);
        }
    }

    /// Counts a datagram with a wrong CRC for all entries of this address. With `voids`, their valid ones count no longer.
    /// Returns the highest count.
    pub(super) fn fail(&mut self, now: Instant, place: u64, from: SocketAddr, voids: bool) -> u8 {
        let indices: Vec<usize> = self.at(now, place, from).collect();
        let mut most = 0;
        for index in indices {
            let entry = &mut self.entries_mut()[index];
            if voids {
                set_evidence(entry, Evidence::default());
            }
            // The count saturates, and the entry is kept: anybody can send invalid datagrams.
            entry[CONFIG] += u8::from(entry[CONFIG] & 0x0F < MAX_FAILURES);
            most = most.max(entry[CONFIG] & 0x0F);
        }
        most
    }

    /// Clears expired entries. Must be called before ages wrap, every 8,192 s; a later call clears all.
    pub(super) fn sweep(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.swept);
        self.swept = now;
        let has_wrapped = since >= TICK * u32::from(u16::MAX) - LIFETIME;
        for index in 0..self.entries().len() {
            if has_wrapped || !self.is_known(now, &self.entries()[index]) {
                let entry = &mut self.entries_mut()[index];
                // Writing to an empty entry would allocate its zero page.
                if entry[TICKED..NAME_LENGTH] != [0; 2] {
                    *entry = [0; ENTRY];
                }
            }
        }
    }

    fn ways(&self, place: u64) -> std::ops::Range<usize> {
        let sets = self.entries().len() / self.ways;
        let set = (place % sets as u64) as usize;
        set * self.ways..(set + 1) * self.ways
    }

    fn find(&self, now: Instant, place: u64, from: SocketAddr, session_id: u32) -> Option<usize> {
        self.at(now, place, from)
            .find(|&index| self.entries()[index][SESSION_ID..UDP_LENGTH] == session_id.to_be_bytes())
    }

    /// The indices of the entries of this address.
    fn at(&self, now: Instant, place: u64, from: SocketAddr) -> impl Iterator<Item = usize> {
        let (ip, port) = (octets(from.ip()), from.port().to_be_bytes());
        self.ways(place).filter(move |&index| {
            let entry = &self.entries()[index];
            entry[..PORT] == ip && entry[PORT..SESSION_ID] == port && self.is_known(now, entry)
        })
    }

    fn is_known(&self, now: Instant, entry: &Entry) -> bool {
        self.age(now, entry).is_some_and(|age| age <= LIFETIME)
    }

    fn entries(&self) -> &[Entry] {
        self.bytes.as_chunks().0
    }

    fn entries_mut(&mut self) -> &mut [Entry] {
        self.bytes.as_chunks_mut().0
    }

    /// The age of an entry; `None` for a free place.
    fn age(&self, now: Instant, entry: &Entry) -> Option<Duration> {
        let ticked = u16::from_be_bytes([entry[TICKED], entry[TICKED + 1]]);
        (ticked != 0).then(|| TICK * u32::from(self.tick(now).wrapping_sub(ticked)))
    }

    /// The time in ticks. Never 0, which marks a free place.
    fn tick(&self, now: Instant) -> u16 {
        let ticks = now.saturating_duration_since(self.epoch).as_millis() / TICK.as_millis();
        // Wraps every 8,192 s; `sweep` clears older entries before.
        (ticks as u16).max(1)
    }
}

/// The number of places that a table begins with.
fn first_places(places: usize, ways: usize) -> usize {
    (places / FIRST_SHARE / ways * ways).max(ways)
}

fn read(entry: &Entry, from: SocketAddr) -> PendingHandshake {
    let word = |at: usize| u32::from_be_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    let half = |at: usize| u16::from_be_bytes([entry[at], entry[at + 1]]);
    PendingHandshake {
        from,
        session_id: word(SESSION_ID),
        udp_length: half(UDP_LENGTH),
        evidence: Evidence::from_bits(half(EVIDENCE)),
        failures: entry[CONFIG] & 0x0F,
        version: half(VERSION),
        period_tag: entry[NAME_LENGTH] & 0b11,
        config: entry[CONFIG] >> 4,
        name: Name::new(&entry[NAME..][..usize::from(entry[NAME_LENGTH] >> 2).min(MAX_PROTOCOL_NAME)]),
    }
}

fn write(entry: &mut Entry, pending: &PendingHandshake, failures: u8, tick: u16) {
    entry[..PORT].copy_from_slice(&octets(pending.from.ip()));
    entry[PORT..SESSION_ID].copy_from_slice(&pending.from.port().to_be_bytes());
    entry[SESSION_ID..UDP_LENGTH].copy_from_slice(&pending.session_id.to_be_bytes());
    entry[UDP_LENGTH..TICKED].copy_from_slice(&pending.udp_length.to_be_bytes());
    entry[TICKED..NAME_LENGTH].copy_from_slice(&tick.to_be_bytes());
    entry[NAME_LENGTH] = pending.name.length << 2 | pending.period_tag & 0b11;
    entry[CONFIG] = pending.config << 4 | failures;
    entry[VERSION..EVIDENCE].copy_from_slice(&pending.version.to_be_bytes());
    set_evidence(entry, pending.evidence);
    entry[NAME..].copy_from_slice(&pending.name.bytes);
}

fn set_evidence(entry: &mut Entry, evidence: Evidence) {
    entry[EVIDENCE..NAME].copy_from_slice(&evidence.to_bits().to_be_bytes());
}

/// The address of an entry, IPv4 in its own form.
fn address(entry: &Entry) -> SocketAddr {
    let mut ip = [0; PORT];
    ip.copy_from_slice(&entry[..PORT]);
    SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes([entry[PORT], entry[PORT + 1]]))
}

/// The part of an address that one host or household controls: a whole IPv4 address, or the /64 of an IPv6 address.
pub(super) fn prefix(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(n: u32) -> PendingHandshake {
        PendingHandshake {
            from: SocketAddr::from((Ipv6Addr::from_bits(u128::from(n) + 1), 7)),
            session_id: n,
            udp_length: 512,
            version: 3,
            period_tag: 2,
            evidence: Evidence::default().with(40),
            failures: 0,
            config: 5,
            name: Name::new(b"LoginUdp_9"),
        }
    }

    #[test]
    fn a_stranger_is_found_again_as_it_was() {
        let now = Instant::now();
        let mut table = PendingHandshakes::new(now, 64);
        let one = pending(1);
        assert!(!table.put(now, &one, |_| 9));
        assert_eq!(table.get(now, 9, one.from, 1), Some(one.clone()));
        table.remove(now, 9, one.from);
        assert_eq!(table.get(now, 9, one.from, 1), None);
    }

    #[test]
    fn a_stranger_is_forgotten_in_time() {
        let now = Instant::now();
        let mut table = PendingHandshakes::new(now, 64);
        let one = pending(1);
        table.put(now, &one, |_| 9);
        assert!(table.get(now + LIFETIME, 9, one.from, 1).is_some());
        assert!(table.get(now + LIFETIME + 2 * TICK, 9, one.from, 1).is_none());
    }

    #[test]
    fn a_full_table_gives_away_the_oldest_place() {
        let now = Instant::now();
        let mut table = PendingHandshakes::new(now, WAYS);
        for n in 0..WAYS as u32 {
            assert!(!table.put(now + TICK * (n + 1), &pending(n), |_| 0));
        }
        let later = now + TICK * 20;
        assert!(table.put(later, &pending(99), |_| 0));
        assert_eq!(table.get(later, 0, pending(0).from, 0), None);
        assert!(table.get(later, 0, pending(1).from, 1).is_some());
        assert!(table.get(later, 0, pending(99).from, 99).is_some());
    }

    #[test]
    fn who_asked_first_is_not_driven_out_by_others_with_its_address() {
        let now = Instant::now();
        let mut table = PendingHandshakes::new(now, WAYS);
        let first = pending(1);
        table.put(now, &first, |_| 0);
        for n in 2..100 {
            let other = PendingHandshake { session_id: n, ..first.clone() };
            table.put(now + TICK * n, &other, |_| 0);
            assert_eq!(table.get(now + TICK * n, 0, first.from, n), Some(other), "the newest is there");
        }
        let later = now + TICK * 100;
        assert_eq!(table.get(later, 0, first.from, 1), Some(first.clone()));
        let newest_first: Vec<_> = table.all(later, 0, first.from).map(|pending| pending.session_id).collect();
        assert_eq!(newest_first, [99, 3, 2, 1]);
        table.remove(later, 0, first.from);
        assert_eq!(table.all(later, 0, first.from).count(), 0);
    }

    #[test]
    fn failures_are_counted_and_nobody_is_forgotten_for_them() {
        let now = Instant::now();
        let mut table = PendingHandshakes::new(now, WAYS);
        table.put(now, &pending(1), |_| 0);
        for n in 1..=100u8 {
            assert_eq!(table.fail(now, 0, pending(1).from, false), n.min(MAX_FAILURES));
            let found = table.get(now, 0, pending(1).from, 1).unwrap();
            assert_eq!((found.failures, found.evidence), (n.min(MAX_FAILURES), pending(1).evidence));
            assert_eq!(PendingHandshake { failures: 0, ..found }, pending(1));
        }
        table.fail(now, 0, pending(1).from, true);
        assert_eq!(table.get(now, 0, pending(1).from, 1).map(|found| found.evidence), Some(Evidence::default()));
    }

    #[test]
    fn a_stranger_is_not_known_again_after_hours() {
        let now = Instant::now();
        let mut table = PendingHandshakes::new(now, WAYS);
        table.put(now, &pending(1), |_| 0);
        for minute in 1..600 {
            let later = now + Duration::from_secs(60) * minute;
            table.sweep(later);
            assert_eq!(table.all(later, 0, pending(1).from).count(), 0, "after {minute} minutes");
        }
        let now = now + Duration::from_secs(36_000);
        table.put(now, &pending(1), |_| 0);
        let later = now + TICK * 65_536 * 3;
        table.sweep(later);
        assert_eq!(table.all(later, 0, pending(1).from).count(), 0);
    }

    #[test]
    fn the_table_has_the_size_it_was_given() {
        assert_eq!(PendingHandshakes::new(Instant::now(), 65_536).memory(), (4 << 20) + (4 << 20) / FIRST_SHARE);
        assert_eq!(PendingHandshakes::new(Instant::now(), 1).memory(), ENTRY);
    }

    #[test]
    fn a_table_grows_once_and_before_anybody_has_to_go() {
        let now = Instant::now();
        let mut table = PendingHandshakes::new(now, 1_024);
        let place_of = |from: SocketAddr| u64::from(octets(from.ip())[PORT - 1]);
        assert_eq!(table.entries().len(), 1_024 / FIRST_SHARE);
        table.put(now, &pending(0), place_of);
        table.fail(now, place_of(pending(0).from), pending(0).from, false);
        let before = table.get(now, place_of(pending(0).from), pending(0).from, 0);
        for n in 1..200 {
            assert!(!table.put(now, &pending(n), place_of), "pending {n}");
        }
        assert_eq!(table.entries().len(), 1_024);
        let get = |n: u32| table.get(now, place_of(pending(n).from), pending(n).from, n);
        assert_eq!(get(0), before);
        assert!((1..200).all(|n| get(n) == Some(pending(n))));
        let failed = table.entries().iter().filter(|entry| entry[CONFIG] & 0x0F == 1).count();
        assert_eq!(failed, 1, "what is held against somebody moves along");
    }

    #[test]
    fn a_prefix_is_what_one_host_commands() {
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(prefix(v6("2001:db8:1:2:3:4:5:6")), v6("2001:db8:1:2::"));
        assert_eq!(prefix(v6("192.0.2.7")), v6("192.0.2.7"));
        assert_eq!(prefix(v6("::ffff:192.0.2.7")), v6("192.0.2.7"));
    }
}
