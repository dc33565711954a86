//! The proxy as a value: datagrams, commands and time come in, datagrams and events come out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use bytes::Bytes;

use super::{
    ClientId, Direction, Event, Handled, ProxyConfig, ProxyConfigError, Transmit,
    command::{Command, CommandError, Side, Target},
    status::{ClientStatus, ProxyStatus},
};
use crate::link::{Fate, Link, LinkCounters, mix};

/// A man in the middle without sockets. Drive it like this whenever something has happened:
///
/// 1. Feed what happened: [`handle_client`](Self::handle_client), [`handle_server`](Self::handle_server),
///    [`handle_timeout`](Self::handle_timeout), [`command`](Self::command).
/// 2. Take events with [`poll_event`](Self::poll_event) until `None`.
/// 3. Send what [`poll_transmit`](Self::poll_transmit) gives, until `None`.
/// 4. Come back at [`poll_timeout`](Self::poll_timeout) at the latest.
#[derive(Debug)]
pub struct Proxy {
    config: ProxyConfig,
    started: Instant,
    clients: BTreeMap<ClientId, Client>,
    by_address: HashMap<SocketAddr, ClientId>,
    last_id: u32,
    /// What is under way, by the time of its arrival and the order of coming in.
    held: BTreeMap<(Instant, u64), Held>,
    held_bytes: usize,
    next_held: u64,
    /// No client is idle for too long, or due for a new port, before this.
    sweep_at: Option<Instant>,
    events: VecDeque<Event>,
    /// What clients that have been forgotten did, up and down.
    past: (LinkCounters, LinkCounters),
    ignored: u64,
    no_room: u64,
}

#[derive(Debug)]
struct Client {
    address: SocketAddr,
    up: Link,
    down: Link,
    last_heard: Instant,
    rebind_at: Option<Instant>,
    rebinds: u64,
}

#[derive(Debug)]
struct Held {
    client: ClientId,
    direction: Direction,
    datagram: Bytes,
}

impl Proxy {
    /// A proxy without clients.
    ///
    /// # Errors
    /// If the configuration could not work.
    pub fn new(now: Instant, config: ProxyConfig) -> Result<Self, ProxyConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            started: now,
            clients: BTreeMap::new(),
            by_address: HashMap::new(),
            last_id: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            next_held: 0,
            sweep_at: None,
            events: VecDeque::new(),
            past: Default::default(),
            ignored: 0,
            no_room: 0,
        })
    }

    /// A datagram has come from a client.
    pub fn handle_client(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Handled {
        let id = match self.by_address.get(&from) {
            Some(id) => *id,
            None if self.clients.len() < self.config.max_clients => self.open(now, from),
            None => {
                self.ignored += 1;
                return Handled::Ignored;
            }
        };
        self.handle(now, id, Direction::Up, datagram)
    }

    /// A datagram has come from the server to a client's socket.
    pub fn handle_server(&mut self, now: Instant, client: ClientId, datagram: &[u8]) -> Handled {
        self.handle(now, client, Direction::Down, datagram)
    }

    fn open(&mut self, now: Instant, address: SocketAddr) -> ClientId {
        self.last_id += 1;
        let (id, seed) = (ClientId(self.last_id), self.config.seed);
        let link = |impairment, side: u64| Link::new(now, impairment, mix(seed ^ mix(u64::from(id.0) << 1 | side)));
        let rebind_at = self.config.rebind_every.map(|every| now + every);
        let (up, down) = (link(self.config.up, 0), link(self.config.down, 1));
        self.clients.insert(id, Client { address, up, down, last_heard: now, rebind_at, rebinds: 0 });
        self.by_address.insert(address, id);
        let deadline = rebind_at.map_or(now + self.config.idle_timeout, |at| at.min(now + self.config.idle_timeout));
        self.sweep_at = Some(self.sweep_at.map_or(deadline, |at| at.min(deadline)));
        self.events.push_back(Event::Opened(id, address));
        id
    }

    fn handle(&mut self, now: Instant, id: ClientId, direction: Direction, datagram: &[u8]) -> Handled {
        let Some(client) = self.clients.get_mut(&id) else {
            self.ignored += 1;
            return Handled::Ignored;
        };
        client.last_heard = now;
        let link = match direction {
            Direction::Up => &mut client.up,
            Direction::Down => &mut client.down,
        };
        let fate = link.offer(now, datagram.len());
        let Fate::Delivered(delivery) = fate else { return Handled::Decided(id, fate) };
        let copies = 1 + usize::from(delivery.copy_at.is_some());
        if self.held_bytes + copies * (datagram.len() + OVERHEAD) > self.config.max_held {
            self.no_room += 1;
            return Handled::NoRoom(id);
        }
        // A copy of its own, so that nothing that waits keeps a whole receive buffer.
        let mut datagram = datagram.to_vec();
        if let Some(damage) = delivery.damage {
            damage.apply(&mut datagram);
        }
        let datagram = Bytes::from(datagram);
        for at in [Some(delivery.at), delivery.copy_at].into_iter().flatten() {
            self.held_bytes += datagram.len() + OVERHEAD;
            self.held.insert((at, self.next_held), Held { client: id, direction, datagram: datagram.clone() });
            self.next_held += 1;
        }
        Handled::Decided(id, fate)
    }

    /// The socket of a client that has just appeared cannot be had: the client is forgotten, and may appear again.
    pub fn handle_no_socket(&mut self, client: ClientId) {
        if let Some(gone) = self.clients.remove(&client) {
            self.by_address.remove(&gone.address);
            self.past.0 += gone.up.counters();
            self.past.1 += gone.down.counters();
            self.no_room += 1;
            self.events.push_back(Event::Closed(client));
        }
    }

    /// Forgets clients that are idle, and gives new ports to those that are due. Call when
    /// [`poll_timeout`](Self::poll_timeout) has passed; at other times it changes nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        let idle_timeout = self.config.idle_timeout;
        let (by_address, events, past) = (&mut self.by_address, &mut self.events, &mut self.past);
        let mut next: Option<Instant> = None;
        self.clients.retain(|id, client| {
            let forget_at = client.last_heard + idle_timeout;
            if now >= forget_at {
                by_address.remove(&client.address);
                past.0 += client.up.counters();
                past.1 += client.down.counters();
                events.push_back(Event::Closed(*id));
                return false;
            }
            if let (Some(at), Some(every)) = (client.rebind_at, self.config.rebind_every)
                && now >= at
            {
                client.rebinds += 1;
                client.rebind_at = Some(now + every);
                events.push_back(Event::Rebound(*id));
            }
            let deadline = client.rebind_at.map_or(forget_at, |at| at.min(forget_at));
            next = Some(next.map_or(deadline, |next| next.min(deadline)));
            true
        });
        self.sweep_at = next;
    }

    /// A datagram from [`poll_transmit`](Self::poll_transmit) could not be sent for want of room, and is lost.
    pub fn handle_full_socket(&mut self) {
        self.no_room += 1;
    }

    /// When there is something to do: a datagram leaves, or [`handle_timeout`](Self::handle_timeout) has work. `None`: never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let arrival = self.held.first_key_value().map(|((at, _), _)| *at);
        [arrival, self.sweep_at].into_iter().flatten().min()
    }

    /// The next event, the oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next datagram that is due. What was under way for a client that has been forgotten is dropped.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        loop {
            let first = self.held.first_entry().filter(|entry| entry.key().0 <= now)?;
            let Held { client, direction, datagram } = first.remove();
            self.held_bytes -= datagram.len() + OVERHEAD;
            if let Some(&Client { address, .. }) = self.clients.get(&client) {
                return Some(Transmit { client, address, direction, datagram });
            }
        }
    }

    /// Does what an operator says, and answers with a line.
    ///
    /// # Errors
    /// If it names a client that is not there.
    pub fn command(&mut self, now: Instant, command: &Command) -> Result<String, CommandError> {
        Ok(match command {
            Command::Set(target, side, spec) => {
                if *target == Target::All {
                    each_side(*side, &mut self.config.up, &mut self.config.down, |impairment| spec.apply(impairment));
                }
                let count = self.each_link(target, *side, |link| {
                    let mut impairment = *link.impairment();
                    spec.apply(&mut impairment);
                    link.set_impairment(impairment);
                })?;
                self.changed(target, count)
            }
            Command::Profile(target, profile) => {
                if *target == Target::All {
                    (self.config.up, self.config.down) = (profile.up(), profile.down());
                }
                self.each_link(target, Side::Up, |link| link.set_impairment(profile.up()))?;
                let count = self.each_link(target, Side::Down, |link| link.set_impairment(profile.down()))?;
                self.changed(target, count)
            }
            Command::BlackOut(target, side, length) => {
                let count = self.each_link(target, *side, |link| link.black_out(now, *length))?;
                format!("nothing passes for {length:?}: {count} clients")
            }
            Command::Rebind(target) => {
                let ids = self.targets(target)?;
                for id in &ids {
                    if let Some(client) = self.clients.get_mut(id) {
                        client.rebinds += 1;
                        self.events.push_back(Event::Rebound(*id));
                    }
                }
                format!("new ports: {} clients", ids.len())
            }
        })
    }

    fn changed(&self, target: &Target, count: usize) -> String {
        let others = if *target == Target::All { " and those to come" } else { "" };
        format!("changed: {count} clients{others}")
    }

    /// Returns how many clients they belong to.
    fn each_link(&mut self, target: &Target, side: Side, mut f: impl FnMut(&mut Link)) -> Result<usize, CommandError> {
        let ids = self.targets(target)?;
        for id in &ids {
            if let Some(client) = self.clients.get_mut(id) {
                each_side(side, &mut client.up, &mut client.down, &mut f);
            }
        }
        Ok(ids.len())
    }

    fn targets(&self, target: &Target) -> Result<Vec<ClientId>, CommandError> {
        let id = match target {
            Target::All => return Ok(self.clients.keys().copied().collect()),
            Target::Number(number) => Some(ClientId(*number)),
            Target::Address(address) => self.by_address.get(address).copied(),
        };
        let id = id.filter(|id| self.clients.contains_key(id));
        id.map(|id| vec![id]).ok_or_else(|| CommandError::NoSuchClient(target.to_string()))
    }

    /// What has happened so far.
    pub fn status(&self, now: Instant) -> ProxyStatus {
        let clients: Vec<_> = self.clients.iter().map(|(id, client)| client.status(now, *id)).collect();
        let (mut up, mut down) = self.past;
        for client in self.clients.values() {
            up += client.up.counters();
            down += client.down.counters();
        }
        ProxyStatus {
            seconds: (now - self.started).as_secs_f64(),
            seed: self.config.seed,
            clients_seen: self.last_id,
            clients,
            up: up.into(),
            down: down.into(),
            held: self.held.len(),
            held_bytes: self.held_bytes,
            ignored: self.ignored,
            no_room: self.no_room,
        }
    }
}

impl Client {
    fn status(&self, now: Instant, id: ClientId) -> ClientStatus {
        ClientStatus {
            id,
            address: self.address,
            idle_seconds: (now - self.last_heard).as_secs_f64(),
            rebinds: self.rebinds,
            up_link: self.up.impairment().to_string(),
            down_link: self.down.impairment().to_string(),
            up: self.up.counters().into(),
            down: self.down.counters().into(),
        }
    }
}

fn each_side<T>(side: Side, up: &mut T, down: &mut T, mut f: impl FnMut(&mut T)) {
    if side != Side::Down {
        f(up);
    }
    if side != Side::Up {
        f(down);
    }
}

/// Bytes that a waiting datagram takes beside its own.
const OVERHEAD: usize = 128;

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
