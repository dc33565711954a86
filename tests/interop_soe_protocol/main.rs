//! Sessions with the crate `soe-protocol`, an implementation of version 3 of the protocol by other hands, in both roles:
//! over real UDP on loopback what depends on sockets, and in virtual time what depends on time. The peer's state machine
//! takes the time as an argument, so that both sides run on Tokio's paused clock; no timer of either side is shortened.
//!
//! The peer reads some rules of the wire otherwise than this library. Where that matters, the test arranges the traffic
//! so that the two readings agree, and says so:
//!
//! * The peer's size limit is its own `udp_length`, whatever the other side says: both sides use 512 here.
//! * It escapes leading zeros of encrypted messages only: plain payloads here begin with another byte, unless our side is
//!   told to do likewise.
//! * Its unreliable datagrams carry no flag byte under compression, and it knows raw data as a whole datagram only, not as
//!   a piece of a Multi: unreliable messages travel here without compression, and while no acknowledgement is owed.
//! * It acknowledges a repeated packet again only while its delay for acknowledgements runs: the delay is set long and
//!   the packet count that cuts it short is set to the minimum.
//! * It widens an acknowledged sequence around the highest acknowledged one: its limit in flight is set above the window
//!   of the receiver.
//! * It sends its request for a session once, and waits for the answer until its inactivity time-out: a lossy path spares
//!   its handshake, and a client of its that was not let in connects again.
//! * It takes a repeated request for a fault and ends the session that it has just answered, with `ConnectError`: a client
//!   of ours whose response was lost gets in with a later request, or connects again.
//! * Any datagram with a wrong CRC ends its session, also one of an earlier session on the same port: its client that
//!   reconnects after a crash may need another attempt while our server still resends to its predecessor.
//! * Its session ids follow from a number in its configuration, 0 if nothing else is said: every endpoint here gets one of
//!   its own, or a client that starts anew would look like a repetition of the last one.
//! * Its server says nothing to a client that it refuses, or does not know: ours finds out by its time-outs.
//! * A heartbeat is the only sign of life that it answers, on a server; its client answers none, and sends one in each
//!   tick from 25 s of silence on until it hears something.

mod common;
mod endings;
mod idle;
mod loss;
mod messages;
mod reconnects;
#[path = "../common/relay.rs"]
mod relay;
mod restarts;
mod virtual_time;
