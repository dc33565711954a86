//! Recording: every call that changes the session appends an entry before it does anything, and what came of it after.

use std::fmt;

use super::{
    Role, Session, State,
    types::{DatagramOutcome, Event},
};
use crate::{
    error::SendError,
    recording::{Origin, RecordOptions, Recorder, log},
    timestamp::Timestamp,
    wire::DisconnectReason,
};

/// A reason in a recording that has no number on the wire.
const PEER_NOT_READING: u32 = 1 << 16;

impl Session {
    /// Records all calls from now on and what comes of them: times, datagrams, messages to send, keys, results. The log can be
    /// replayed with [`Replay`](crate::replay::Replay). False: the session has been used already and is not recorded.
    ///
    /// Call it right after [`connect`](Self::connect). An endpoint does it for the sessions that clients open, see
    /// [`Endpoint::record`](crate::Endpoint::record).
    ///
    /// A recording holds passwords; see [`RecordOptions`]. Its memory does not count as the session's.
    pub fn record(&mut self, options: &RecordOptions) -> bool {
        let datagrams = u64::from(self.role == Role::Server);
        let stats = &self.stats;
        let is_used = stats.datagrams_received != datagrams
            || stats.datagrams_sent != datagrams
            || stats.messages_sent > 0
            || self.cold.is_some()
            || self.send_hooks.is_some()
            || self.recv_hooks.is_some();
        if is_used || matches!(self.state, State::Closing(_) | State::Closed(_)) {
            return false;
        }
        let created = self.last_sent;
        let origin = Origin {
            is_client: self.role == Role::Client,
            session_id: self.session_id,
            clock_age: created - self.epoch,
            crc_seed: self.crc_seed(),
            udp_length: self.udp_length,
            answers: self.outbox.response_due.then_some(self.stats.bytes_received),
            config: self.config.clone(),
        };
        self.cold().recorder = Some(Recorder::new(options, created, |out| origin.put(out)));
        true
    }

    /// The session's recorder, if it is recorded.
    #[inline]
    pub fn recorder(&mut self) -> Option<&mut Recorder> {
        self.cold.as_mut()?.recorder.as_deref_mut()
    }

    /// Ends the recording and returns it.
    pub fn stop_recording(&mut self) -> Option<Box<Recorder>> {
        self.cold.as_mut()?.recorder.take()
    }

    pub(super) fn record_outcome(&mut self, outcome: &DatagramOutcome) {
        let number = match outcome {
            DatagramOutcome::Authentic => 0,
            DatagramOutcome::Unproven => 1,
            DatagramOutcome::Rejected(_) => 2,
            DatagramOutcome::ForEndpoint(_) => 3,
        };
        if let Some(recorder) = self.recorder() {
            recorder.result(log::OUTCOME, number);
        }
    }

    pub(super) fn record_refusal(&mut self, error: &SendError) {
        let number = match error {
            SendError::Blocked(_) => 1,
            SendError::Empty(_) => 2,
            SendError::TooLarge { .. } => 3,
            SendError::NoReceipt(_) => 4,
            SendError::Closed(_) => 5,
        };
        if let Some(recorder) = self.recorder() {
            recorder.result(log::REFUSED, number);
        }
    }

    pub(super) fn record_ending(&mut self, tag: u8, now: Timestamp, reason: DisconnectReason, tell_peer: Option<bool>) {
        if let Some(recorder) = self.recorder() {
            let number = match reason {
                DisconnectReason::PeerNotReading => PEER_NOT_READING,
                reason => u16::from(reason).into(),
            };
            recorder.ending(tag, now, number, tell_peer);
        }
    }

    /// The reason with this number in a recording.
    pub(crate) fn recorded_reason(number: u32) -> Option<DisconnectReason> {
        match number {
            PEER_NOT_READING => Some(DisconnectReason::PeerNotReading),
            number => u16::try_from(number).ok().map(DisconnectReason::from),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Remapped => f.write_str("the peer has moved"),
            Self::Delivered(receipt) => write!(f, "message {} is delivered", receipt.0),
            Self::LargeDatagramsLost { smallest_lost, largest_delivered } => {
                write!(f, "packets from {smallest_lost} bytes on are lost, up to {largest_delivered} they arrive")
            }
            Self::PeerNotReading(channel) => write!(f, "the peer reads nothing on channel {channel}"),
            Self::Closed(closed) => match &closed.negotiation {
                Some(error) => write!(f, "{closed}: {error}"),
                None => closed.fmt(f),
            },
        }
    }
}
