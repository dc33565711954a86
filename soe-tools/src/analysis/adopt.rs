//! Sessions without a handshake: from the secrets of the capture, or from the datagrams themselves.

use std::io;

use soe_core::Dialect;

use super::analyzer::Analyzer;
use super::flows::{FlowKey, State};
use super::infer::{Guess, is_checked};
use super::keys::GivenSession;
use super::pending::Pending;
use super::session::At;
use super::{Context, Direction, Origin, SessionInfo};
use crate::capture::Datagram;

impl Analyzer {
    /// A conversation whose parameters stand in the secrets of the capture.
    pub(super) fn given(
        &mut self,
        cx: &mut Context<'_>,
        key: FlowKey,
        given: &GivenSession,
        datagram: &Datagram<'_>,
    ) -> io::Result<()> {
        let dialect = Dialect::by_name(&given.dialect).unwrap_or_default();
        let mut pending = Pending::default();
        let _ = pending.push(datagram, &self.options.given);
        let Some(sides) = pending.sides() else { return Ok(()) };
        let (client, server) = match given.server {
            Some(server) if server == sides.0 => (sides.1, server),
            _ => sides,
        };
        let info = SessionInfo {
            client,
            server,
            origin: Origin::Given,
            dialect: given.dialect.clone(),
            session_id: Some(given.session_id),
            crc_seed: Some(given.seed),
            crc_length: given.crc_length,
            passes: given.passes,
            udp_length: None,
            version: None,
            protocol_name: None,
            inferred: vec!["the parameters, from the secrets of the capture".into()],
        };
        self.adopt(cx, key, info, dialect, &pending, given.server.is_some())
    }

    pub(super) fn inferred(
        &mut self,
        cx: &mut Context<'_>,
        key: FlowKey,
        guess: &Guess,
        pending: &Pending,
    ) -> io::Result<()> {
        self.pending -= pending.bytes().min(self.pending);
        let Some((client, server)) = pending.sides() else { return Ok(()) };
        let mut inferred = guess.notes.clone();
        inferred.push("the server is the side with the lower port".into());
        let info = SessionInfo {
            client,
            server,
            origin: if self.options.given.is_empty() { Origin::Inferred } else { Origin::Given },
            dialect: guess.dialect.name.clone().into_owned(),
            session_id: None,
            crc_seed: guess.seed,
            crc_length: guess.crc_length,
            passes: guess.passes,
            udp_length: None,
            version: None,
            protocol_name: None,
            inferred,
        };
        self.adopt(cx, key, info, guess.dialect.clone(), pending, false)
    }

    /// Opens a session without a handshake and gives it what was kept. Its channels begin at 0 if the capture has it from
    /// its first packet on.
    fn adopt(
        &mut self,
        cx: &mut Context<'_>,
        key: FlowKey,
        info: SessionInfo,
        dialect: Dialect,
        pending: &Pending,
        is_from_start: bool,
    ) -> io::Result<()> {
        let time = pending.datagrams().next().map_or(0, |datagram| datagram.time);
        let Some(mut session) = self.session(self.next_number, info, dialect, time) else { return Ok(()) };
        session.is_from_start = is_from_start;
        self.next_number += 1;
        self.totals.sessions += 1;
        session.opened(cx, At { time, direction: Direction::ToServer })?;
        for datagram in pending.datagrams().filter(|datagram| is_checked(datagram.payload)) {
            self.totals.claimed += 1;
            session.datagram(cx, &datagram)?;
        }
        match self.flows.get_mut(key) {
            Some(flow) => flow.state = State::Known(Box::new(session)),
            // Asked for the last time, after the end of the capture.
            None => self.close(cx, Box::new(session))?,
        }
        Ok(())
    }
}
