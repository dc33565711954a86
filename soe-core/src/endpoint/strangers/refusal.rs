//! Refusals of session requests.

use std::{net::SocketAddr, time::Instant};

use super::{
    handshakes::Handshakes,
    pending::{Name, PendingHandshake},
    request::{Asked, Outcome},
};
use crate::{
    config::SessionConfig,
    evidence::Evidence,
    framing::Framing,
    session::response,
    wire::{Disconnect, DisconnectReason},
};

/// In place of a configuration index: refuse the client when it has proved its address.
pub(super) const OVER_CAPACITY: u8 = 14;
pub(super) const MISMATCHED: u8 = 15;

impl Handshakes {
    /// Refuses a request in a form that the client understands: a response, followed by a Disconnect.
    ///
    /// Both are sent at once if they are at most 1.5 times as long as the request. Otherwise the Disconnect waits until
    /// the client has proved its address, so that forged requests are not amplified.
    pub(super) fn refuse(&mut self, now: Instant, from: SocketAddr, request: &Asked, refused: u8) -> Outcome {
        let config = self.session_config(0).clone();
        let session_id = request.session_id;
        let period_tag = self.cookies.period_tag();
        let Some(seed) = self.cookies.seed(from, session_id, period_tag) else { return self.ignored() };
        let passes = config.passes.map(u8::from);
        let Ok(framing) = Framing::new(seed, config.crc_length, passes, &config.dialect.codecs) else {
            return self.ignored();
        };
        let answer = response(&config, session_id, seed);
        let disconnect = refusal(&config, &framing, session_id, refused);
        let both = (answer.encoded_len() + disconnect.len()) * 2 <= request.length * 3;
        self.reply(|out| answer.encode(out));
        if both {
            self.reply_sealed(disconnect);
        }
        // Stored in both cases: if the Disconnect is lost, the client's next datagram causes another one.
        let pending = PendingHandshake {
            from,
            session_id,
            udp_length: 0,
            version: 0,
            period_tag,
            evidence: Evidence::default(),
            failures: 0,
            config: refused,
            name: Name::default(),
        };
        self.remember(now, &pending);
        self.owes_refusal |= !both;
        Outcome::Done
    }
}

/// The sealed Disconnect that refuses a session.
pub(super) fn refusal(config: &SessionConfig, framing: &Framing, session_id: u32, refused: u8) -> Vec<u8> {
    let reason = match refused {
        MISMATCHED => DisconnectReason::ProtocolMismatch,
        _ => DisconnectReason::ConnectionRefused,
    };
    let reason = config.dialect.policies.disconnect_reason.then_some(reason);
    let mut out = Vec::new();
    Disconnect { session_id, reason }.encode(&mut out);
    framing.seal(&mut out, 0);
    out
}
