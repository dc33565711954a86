//! The conversations of a capture: a bounded table in which the longest silent ones make room.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::handshake::Asked;
use super::pending::Pending;
use super::session::Session;

/// Two addresses, the smaller first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowKey(SocketAddr, SocketAddr);

impl FlowKey {
    pub(super) fn new(one: SocketAddr, other: SocketAddr) -> Self {
        if one <= other { Self(one, other) } else { Self(other, one) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) state: State,
    /// What a client asked for last.
    pub(super) asked: Option<Asked>,
    /// A session that was answered while another is live: it replaces that with its first valid datagram.
    pub(super) candidate: Option<Box<Session>>,
    /// The conversation whose session wants to go on here.
    pub(super) moves_from: Option<FlowKey>,
}

#[derive(Debug)]
pub(super) enum State {
    /// No handshake yet.
    Pending(Pending),
    /// Another protocol, as far as can be told.
    Foreign,
    Known(Box<Session>),
}

impl Default for State {
    fn default() -> Self {
        Self::Pending(Pending::default())
    }
}

/// Two halves: what is used moves to the young half, and when that is full the old one is dropped. So whatever was used
/// among the last `limit / 2` conversations is kept, at the cost of one look-up.
#[derive(Debug)]
pub(super) struct Flows {
    young: HashMap<FlowKey, Flow>,
    old: HashMap<FlowKey, Flow>,
    half: usize,
}

impl Flows {
    pub(super) fn new(limit: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (limit / 2).max(1) }
    }

    /// The flow, made anew if there is none, and those that had to make room.
    pub(super) fn entry(&mut self, key: FlowKey) -> (&mut Flow, Vec<Flow>) {
        let mut dropped = Vec::new();
        if !self.young.contains_key(&key) {
            let flow = self.old.remove(&key).unwrap_or_default();
            if self.young.len() >= self.half {
                dropped = std::mem::take(&mut self.old).into_values().collect();
                std::mem::swap(&mut self.young, &mut self.old);
            }
            self.young.insert(key, flow);
        }
        (self.young.entry(key).or_default(), dropped)
    }

    pub(super) fn get(&self, key: FlowKey) -> Option<&Flow> {
        self.young.get(&key).or_else(|| self.old.get(&key))
    }

    pub(super) fn get_mut(&mut self, key: FlowKey) -> Option<&mut Flow> {
        if self.young.contains_key(&key) { self.young.get_mut(&key) } else { self.old.get_mut(&key) }
    }

    pub(super) fn drain(&mut self) -> Vec<Flow> {
        let mut flows: Vec<Flow> = self.old.drain().chain(self.young.drain()).map(|(_, flow)| flow).collect();
        flows.sort_by_key(|flow| if let State::Known(session) = &flow.state { session.number } else { 0 });
        flows
    }
}
