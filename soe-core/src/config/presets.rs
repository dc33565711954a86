use std::time::Duration;

use super::SessionConfigBuilder;

/// What a server of the same operator, on the same network, can be asked to hold per channel.
const INTERNAL_WINDOW_PACKETS: usize = 4_096;
const INTERNAL_WINDOW_BYTES: usize = 4 << 20;
const INTERNAL_BUFFER: usize = 16 << 20;

/// Settings for the roles that the original library has presets for. Each changes several knobs at once; later setters
/// still change single ones.
impl SessionConfigBuilder {
    /// Between servers of one operator, on one fast network: large datagrams and windows, acknowledgements at leisure, a peer
    /// that is gone is noticed soon. Both sides must be set up this way; no game client holds this much.
    pub fn internal(self) -> Self {
        self.udp_length(8_192)
            .window(INTERNAL_WINDOW_PACKETS, INTERNAL_WINDOW_BYTES)
            .send_buffer(INTERNAL_BUFFER)
            .recv_buffer(INTERNAL_BUFFER)
            .heartbeat_after(Duration::from_secs(5))
            .inactivity_timeout(Duration::from_secs(20))
    }

    /// A server towards players: the defaults, and a limit on what one of them can make it hold.
    pub fn external_server(self) -> Self {
        self.max_message_size(1 << 20).recv_buffer(256 << 10)
    }

    /// A player towards a server: the defaults, and a sign of life every few seconds that keeps the port mapping of a home
    /// router alive without reaching the server.
    pub fn external_client(self) -> Self {
        self.port_alive_interval(Duration::from_secs(5))
    }

    /// Own peers far apart on a link with bandwidth: windows for 400 MB/s at 20 ms, or 40 MB/s at 200 ms.
    pub fn long_fat_link(self) -> Self {
        self.udp_length(1_400).window(16_384, 8 << 20).send_buffer(INTERNAL_BUFFER).recv_buffer(INTERNAL_BUFFER)
    }

    /// Sets the windows of both directions: packets held and under way, and bytes under way.
    pub fn window(self, packets: usize, bytes: usize) -> Self {
        self.recv_window(packets).send_window(packets).send_window_bytes(bytes)
    }
}
