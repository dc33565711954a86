use std::time::Duration;

use super::{SessionConfigBuilder, UDP_LENGTH};

/// Packets per channel that a server of the same operator, on the same network, can be expected to hold.
const INTERNAL_WINDOW_PACKETS: usize = 4_096;
const INTERNAL_WINDOW_BYTES: usize = 4 << 20;
const INTERNAL_BUFFER: usize = 16 << 20;

/// Presets for the roles that the original library distinguishes. Each sets several settings at once; later setters can
/// still change single ones.
impl SessionConfigBuilder {
    /// For servers of one operator on one fast network: large datagrams and windows, delayed acknowledgements, early
    /// detection of a dead peer. Both sides must use it; no game client holds this much.
    pub fn internal(self) -> Self {
        self.udp_length(8_192)
            .window(INTERNAL_WINDOW_PACKETS, INTERNAL_WINDOW_BYTES)
            .send_buffer(INTERNAL_BUFFER)
            .recv_buffer(INTERNAL_BUFFER)
            .heartbeat_after(Duration::from_secs(5))
            .inactivity_timeout(Duration::from_secs(20))
    }

    /// For a server that faces players: the defaults, with a limit on what one player can make it hold.
    pub fn external_server(self) -> Self {
        self.max_message_size(1 << 20).recv_buffer(256 << 10).recv_window_bytes(256 << 10)
    }

    /// For a player's client: the defaults, and a datagram every few seconds that keeps the port mapping of a home
    /// router alive. That datagram does not reach the server.
    pub fn external_client(self) -> Self {
        self.port_alive_interval(Duration::from_secs(5))
    }

    /// For two own peers far apart on a fast link: windows for 400 MB/s at 20 ms, or 40 MB/s at 200 ms.
    pub fn long_fat_link(self) -> Self {
        self.udp_length(1_400).window(16_384, 8 << 20).send_buffer(INTERNAL_BUFFER).recv_buffer(INTERNAL_BUFFER)
    }

    /// Fixes the windows of both directions: packets held, packets under way, and bytes under way. The peer is assumed to
    /// hold as much from the start, without having named its window; if it names a smaller one, that holds.
    pub fn window(self, packets: usize, bytes: usize) -> Self {
        let held = packets.saturating_mul(*UDP_LENGTH.end() as usize);
        self.recv_window(packets)
            .recv_window_bytes(held)
            .send_window(packets)
            .send_window_bytes(bytes)
            .assumed_window(packets)
            .assumed_window_bytes(bytes)
    }
}
