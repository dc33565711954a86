//! The settings, each written once: its name, its type, and the type that a configuration file is read into (feature
//! `serde`).

/// Calls a macro with the given arguments and every setting of a session.
macro_rules! session_fields {
    ($macro:ident! { $($arguments:tt)* }) => {
        $macro! { $($arguments)*
            protocol_name: String as String,
            udp_length: u32 as u32,
            crc_length: u8 as u8,
            allow_unchecked: bool as bool,
            passes: [Pass; 2] as Each<PassName, 2>,
            recv_window: usize as usize,
            recv_window_bytes: usize as usize,
            send_window: usize as usize,
            send_window_bytes: usize as usize,
            assumed_window: usize as usize,
            assumed_window_bytes: usize as usize,
            window_discovery: bool as bool,
            ack_packets: u32 as u32,
            ack_every_packet: bool as bool,
            max_ack_delay: Duration as Time,
            ack_ride_limit: Duration as Time,
            heartbeat_after: Duration as Time,
            inactivity_timeout: Duration as Time,
            unacknowledged_timeout: Duration as Time,
            unread_timeout: Duration as Time,
            connect_timeout: Duration as Time,
            refusal_grace: Duration as Time,
            close_timeout: Duration as Time,
            linger: Duration as Time,
            net_status_interval: Duration as Time,
            icmp_grace: Duration as Time,
            remap_timeout: Duration as Time,
            max_message_size: usize as usize,
            send_buffer: usize as usize,
            recv_buffer: usize as usize,
            overflow: Overflow as OverflowName,
            channels: [ChannelOptions; ReliableChannel::COUNT] as Each<ChannelKnobs, { ReliableChannel::COUNT }>,
            port_alive_interval: Duration as Time,
            port_alive_hops: u8 as u8,
            oversized_unreliable: Oversized as OversizedName,
            bundle_unreliable: bool as bool,
            escape: EscapeRule as EscapeName,
            escape_ordered: bool as bool,
        }
    };
}

/// Calls a macro with the given arguments and every setting of a server that a file can contain.
macro_rules! admission_fields {
    ($macro:ident! { $($arguments:tt)* }) => {
        $macro! { $($arguments)*
            others: Vec<SessionConfig> as Vec<SessionConfig>,
            max_sessions: usize as usize,
            accept_backlog: usize as usize,
            max_pending_handshakes: usize as usize,
            refuse_over_capacity: bool as bool,
            response_rate: u32 as u32,
            response_rate_per_prefix: u32 as u32,
            response_burst_per_prefix: u32 as u32,
            unproven_rate: u32 as u32,
            unknown_sender_replies: bool as bool,
            unknown_sender_rate: u32 as u32,
            unknown_sender_rate_per_prefix: u32 as u32,
            remap: RemapPolicy as RemapName,
        }
    };
}

pub(super) use admission_fields;
pub(crate) use session_fields;
