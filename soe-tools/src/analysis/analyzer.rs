//! Sorts datagrams into conversations and hands them to their sessions.

use std::collections::HashMap;
use std::io;

use serde::Serialize;
use soe_core::wire::{Packet, SessionResponse, opcode};
use soe_core::{Dialect, Framing};

use super::flows::{Flow, FlowKey, Flows, State};
use super::handshake::{self, Asked};
use super::infer::Given;
use super::keys::{Decryption, GivenSession, Key, Secrets};
use super::pending::Opinion;
use super::session::{At, Session};
use super::{Context, Direction, Event, EventKind, Origin, SessionInfo, Sink};
use crate::capture::Datagram;

/// What an analysis is told beforehand, and what it may hold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// What is known of sessions whose handshake is not in the capture.
    pub given: Given,
    /// Keys from the command line. Those of the capture are added.
    pub keys: Vec<Key>,
    /// Conversations that are followed at once; the longest silent ones make room. \[10,000\]
    pub max_conversations: usize,
    /// Bytes of packets that wait for others or are under way, over all sessions. Above it they are dropped. \[256 MiB\]
    pub max_held: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { given: Given::default(), keys: Vec::new(), max_conversations: 10_000, max_held: 256 << 20 }
    }
}

/// What an analysis has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// UDP datagrams.
    pub datagrams: u64,
    /// Bytes of UDP payload.
    pub bytes: u64,
    /// Datagrams of sessions.
    pub claimed: u64,
    /// Sessions.
    pub sessions: u64,
}

/// Bytes that conversations without a handshake may keep together, until it is known what they are.
const MAX_PENDING: usize = 16 << 20;

/// Follows the sessions of a capture.
#[derive(Debug)]
pub struct Analyzer {
    pub(super) options: Options,
    secrets: Secrets,
    pub(super) flows: Flows,
    /// Where the session with this id and seed is.
    homes: HashMap<(u32, u32), FlowKey>,
    held: usize,
    pub(super) pending: usize,
    pub(super) next_number: u32,
    pub(super) totals: Totals,
}

impl Analyzer {
    /// An analysis that has seen nothing.
    pub fn new(options: Options) -> Self {
        Self {
            secrets: Secrets::new(options.keys.clone()),
            flows: Flows::new(options.max_conversations),
            homes: HashMap::new(),
            held: 0,
            pending: 0,
            next_number: 1,
            totals: Totals::default(),
            options,
        }
    }

    /// Takes the lines of a Decryption Secrets Block: parameters and keys of sessions that come later.
    pub fn secrets(&mut self, lines: &[u8]) {
        self.secrets.read(lines);
    }

    /// What has been seen so far.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Takes the next datagram of the capture.
    ///
    /// # Errors
    ///
    /// Those of the sink.
    pub fn datagram(&mut self, datagram: &Datagram<'_>, sink: &mut dyn Sink) -> io::Result<()> {
        self.totals.datagrams += 1;
        self.totals.bytes += datagram.payload.len() as u64;
        let key = FlowKey::new(datagram.from, datagram.to);
        let mut held = self.held;
        let mut cx = Context { sink, held: &mut held, held_limit: self.options.max_held };
        let (_, dropped) = self.flows.entry(key);
        let result = dropped
            .into_iter()
            .try_for_each(|flow| self.forget(&mut cx, flow))
            .and_then(|()| self.sort(&mut cx, key, datagram));
        self.held = held;
        result
    }

    /// Ends the analysis: conversations that were not understood yet are looked at a last time, and every session is summed up.
    ///
    /// # Errors
    ///
    /// Those of the sink.
    pub fn finish(mut self, sink: &mut dyn Sink) -> io::Result<Totals> {
        let mut held = self.held;
        let mut cx = Context { sink, held: &mut held, held_limit: self.options.max_held };
        for flow in self.flows.drain() {
            self.forget(&mut cx, flow)?;
        }
        Ok(self.totals)
    }

    fn sort(&mut self, cx: &mut Context<'_>, key: FlowKey, datagram: &Datagram<'_>) -> io::Result<()> {
        match opcode::of(datagram.payload) {
            Some(opcode::SESSION_REQUEST) => self.request(cx, key, datagram),
            Some(opcode::SESSION_RESPONSE) => self.response(cx, key, datagram),
            Some(opcode) if opcode::is_exempt(opcode) => self.exempt(cx, key, datagram),
            _ => self.checked(cx, key, datagram),
        }
    }

    fn request(&mut self, cx: &mut Context<'_>, key: FlowKey, datagram: &Datagram<'_>) -> io::Result<()> {
        let Some(request) = handshake::request(datagram.payload) else { return Ok(()) };
        let Some(flow) = self.flows.get_mut(key) else { return Ok(()) };
        let known = flow.asked.as_ref().filter(|asked| asked.session_id == request.session_id);
        let number = known.map_or(self.next_number, |asked| asked.number);
        if known.is_none() {
            self.next_number += 1;
            let name = request.protocol_name.map(|name| String::from_utf8_lossy(name).into_owned());
            let (version, session_id, udp_length) = (request.version, request.session_id, request.udp_length);
            flow.asked = Some(Asked { number, client: datagram.from, version, session_id, udp_length, name });
        }
        self.totals.claimed += 1;
        let kind = EventKind::Datagram { length: datagram.payload.len(), packet: datagram.payload, is_checked: false };
        cx.event(&Event { time: datagram.time, session: number, direction: Direction::ToServer, kind })
    }

    fn response(&mut self, cx: &mut Context<'_>, key: FlowKey, datagram: &Datagram<'_>) -> io::Result<()> {
        let Some(response) = handshake::response(datagram.payload) else { return Ok(()) };
        let Some(flow) = self.flows.get_mut(key) else { return Ok(()) };
        let asked = flow.asked.clone().filter(|asked| asked.session_id == response.session_id);
        let identity = (Some(response.session_id), Some(response.crc_seed));
        let is_same = |session: &Session| (session.info.session_id, session.info.crc_seed) == identity;
        self.totals.claimed += 1;
        // Repeated: it is the same session.
        match (&mut flow.state, &mut flow.candidate) {
            (State::Known(session), _) if is_same(session) => return session.exempt(cx, datagram),
            (_, Some(session)) if is_same(session) => return session.exempt(cx, datagram),
            _ => {}
        }
        let number = asked.as_ref().map_or(self.next_number, |asked| asked.number);
        if asked.is_none() {
            self.next_number += 1;
        }
        let Some(session) = self.negotiated(number, datagram, &response, asked) else { return Ok(()) };
        self.place(cx, key, Box::new(session), datagram)
    }

    /// The session that this response opens.
    fn negotiated(
        &self,
        number: u32,
        datagram: &Datagram<'_>,
        response: &SessionResponse,
        asked: Option<Asked>,
    ) -> Option<Session> {
        let version = asked.as_ref().map(|asked| asked.version);
        let name = asked.as_ref().and_then(|asked| asked.name.clone());
        let given = self.options.given.dialect.clone();
        let dialect = given.unwrap_or_else(|| handshake::dialect_of(version, name.as_deref(), response));
        let offered = asked.as_ref().map_or(u32::MAX, |asked| asked.udp_length);
        let info = SessionInfo {
            client: asked.map_or(datagram.to, |asked| asked.client),
            server: datagram.from,
            origin: Origin::Handshake,
            dialect: dialect.name.clone().into_owned(),
            session_id: Some(response.session_id),
            crc_seed: Some(response.crc_seed),
            crc_length: response.crc_length,
            passes: response.passes,
            udp_length: Some(response.udp_length.min(offered)),
            version,
            protocol_name: name,
            inferred: Vec::new(),
        };
        self.session(number, info, dialect, datagram.time)
    }

    pub(super) fn session(&self, number: u32, info: SessionInfo, dialect: Dialect, time: u64) -> Option<Session> {
        let keys = [Direction::ToServer, Direction::ToClient]
            .map(|direction| Decryption::new(self.secrets.keys_of(info.session_id, direction), direction));
        Session::new(number, info, dialect, time, keys)
    }

    /// Puts a new session into its conversation: at once, or beside a live one until a CRC proves it.
    fn place(
        &mut self,
        cx: &mut Context<'_>,
        key: FlowKey,
        mut session: Box<Session>,
        datagram: &Datagram<'_>,
    ) -> io::Result<()> {
        self.totals.sessions += 1;
        let at = At { time: datagram.time, direction: session.direction(datagram.from) };
        session.opened(cx, at)?;
        session.exempt(cx, datagram)?;
        if let (Some(id), Some(seed)) = (session.info.session_id, session.info.crc_seed)
            && self.homes.len() < 2 * self.options.max_conversations
        {
            self.homes.insert((id, seed), key);
        }
        let Some(flow) = self.flows.get_mut(key) else { return Ok(()) };
        let retired = match &flow.state {
            State::Known(_) if session.can_prove() => flow.candidate.replace(session),
            _ => match std::mem::replace(&mut flow.state, State::Known(session)) {
                State::Known(before) => Some(before),
                State::Pending(pending) => {
                    self.pending -= pending.bytes().min(self.pending);
                    None
                }
                State::Foreign => None,
            },
        };
        retired.map_or(Ok(()), |session| self.close(cx, session))
    }

    /// A packet without CRC that is no handshake.
    fn exempt(&mut self, cx: &mut Context<'_>, key: FlowKey, datagram: &Datagram<'_>) -> io::Result<()> {
        let claimed = match self.flows.get_mut(key) {
            Some(Flow { state: State::Known(session), .. }) => {
                self.totals.claimed += 1;
                Some(session.exempt(cx, datagram))
            }
            _ => None,
        };
        if let Ok(Packet::RemapConnection(remap)) = Packet::decode(datagram.payload)
            && let Some(home) = self.homes.get(&(remap.session_id, remap.crc_seed))
            && *home != key
            && let Some(flow) = self.flows.get_mut(key)
        {
            flow.moves_from = Some(*home);
        }
        claimed.unwrap_or(Ok(()))
    }

    fn checked(&mut self, cx: &mut Context<'_>, key: FlowKey, datagram: &Datagram<'_>) -> io::Result<()> {
        self.follow_move(cx, key, datagram)?;
        let Some(flow) = self.flows.get_mut(key) else { return Ok(()) };
        if let (State::Known(live), Some(candidate)) = (&flow.state, &flow.candidate)
            && !live.owns(datagram.payload)
            && candidate.owns(datagram.payload)
            && let Some(candidate) = flow.candidate.take()
            && let State::Known(retired) = std::mem::replace(&mut flow.state, State::Known(candidate))
        {
            self.close(cx, retired)?;
        }
        let Some(flow) = self.flows.get_mut(key) else { return Ok(()) };
        match &mut flow.state {
            State::Known(session) => {
                self.totals.claimed += 1;
                session.datagram(cx, datagram)
            }
            State::Foreign => Ok(()),
            State::Pending(pending) => {
                let given = self.secrets.session_for(|given| owns(given, datagram)).cloned();
                if let Some(given) = given {
                    return self.given(cx, key, &given, datagram);
                }
                if self.pending > MAX_PENDING {
                    flow.state = State::Foreign;
                    return Ok(());
                }
                let before = pending.bytes();
                let opinion = pending.push(datagram, &self.options.given);
                self.pending += pending.bytes() - before;
                match opinion {
                    Opinion::Wait => Ok(()),
                    Opinion::Foreign => {
                        self.pending -= pending.bytes().min(self.pending);
                        flow.state = State::Foreign;
                        Ok(())
                    }
                    Opinion::Ours(guess) => {
                        let pending = std::mem::take(pending);
                        self.inferred(cx, key, &guess, &pending)
                    }
                }
            }
        }
    }

    /// Lets a session go on where a valid datagram shows it.
    fn follow_move(&mut self, cx: &mut Context<'_>, key: FlowKey, datagram: &Datagram<'_>) -> io::Result<()> {
        let Some(home) = self.flows.get(key).and_then(|flow| flow.moves_from) else { return Ok(()) };
        let owner = self.flows.get(home).and_then(|flow| match &flow.state {
            State::Known(session) if session.owns(datagram.payload) => Some(session.info.server),
            _ => None,
        });
        let Some(server) = owner else { return Ok(()) };
        let state = self.flows.get_mut(home).map(|flow| std::mem::replace(&mut flow.state, State::Foreign));
        let (Some(State::Known(mut session)), Some(flow)) = (state, self.flows.get_mut(key)) else { return Ok(()) };
        let client = if datagram.from == server { datagram.to } else { datagram.from };
        flow.moves_from = None;
        session.moved(cx, datagram.time, client, server)?;
        if let (Some(id), Some(seed)) = (session.info.session_id, session.info.crc_seed) {
            self.homes.insert((id, seed), key);
        }
        match std::mem::replace(&mut flow.state, State::Known(session)) {
            State::Known(before) => self.close(cx, before),
            _ => Ok(()),
        }
    }

    fn forget(&mut self, cx: &mut Context<'_>, flow: Flow) -> io::Result<()> {
        match flow.state {
            State::Known(session) => self.close(cx, session)?,
            State::Pending(pending) => {
                self.pending -= pending.bytes().min(self.pending);
                let key = pending.sides().map(|(client, server)| FlowKey::new(client, server));
                if let (Some(key), Some(guess)) = (key, pending.guess(&self.options.given)) {
                    self.inferred(cx, key, &guess, &pending)?;
                }
            }
            State::Foreign => {}
        }
        flow.candidate.map_or(Ok(()), |session| self.close(cx, session))
    }

    pub(super) fn close(&mut self, cx: &mut Context<'_>, session: Box<Session>) -> io::Result<()> {
        if let (Some(id), Some(seed)) = (session.info.session_id, session.info.crc_seed) {
            let home = FlowKey::new(session.info.client, session.info.server);
            // A proxy shows the same session twice: the other one stays where it is.
            if self.homes.get(&(id, seed)) == Some(&home) {
                self.homes.remove(&(id, seed));
            }
        }
        session.finish(cx).map(drop)
    }
}

fn owns(given: &GivenSession, datagram: &Datagram<'_>) -> bool {
    given.crc_length > 0
        && Framing::new(given.seed, given.crc_length, [0, 0], &[None, None])
            .is_ok_and(|framing| framing.verify(datagram.payload))
}
