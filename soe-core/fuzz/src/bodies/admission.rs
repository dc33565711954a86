//! Datagrams at the server's door.

use std::net::SocketAddr;

use bytes::BytesMut;
use soe_core::{Admission, AdmissionConfig, Admit, wire};

use super::input::{Input, MS, start};

/// Strangers from a few addresses, who send what the bytes say.
pub fn datagram_to_admission(data: &[u8]) {
    let mut input = Input(data);
    let others = vec![input.config()];
    let config = AdmissionConfig::builder(input.config())
        .others(others)
        .max_strangers(1 + usize::from(input.byte()))
        .response_rate_per_prefix(10)
        .response_burst_per_prefix(50);
    let mut now = start();
    let mut admission = Admission::new(now, config.build().expect("within the ranges"), [7; 16]);
    let ceiling = admission.memory_ceiling();
    while !input.is_empty() {
        let op = input.byte();
        let from = match op & 3 {
            0 => SocketAddr::from(([192, 0, 2, op >> 4], 7)),
            1 => SocketAddr::from(([0xFE80, 0, 0, 0, 0, 0, 0, u16::from(op >> 4)], 7)),
            _ => SocketAddr::from(([192, 0, 2, 1], u16::from(op >> 4))),
        };
        now += MS * u32::from(op >> 2 & 3) * 50;
        admission.handle_timeout(now);
        admission.set_room(usize::from(op != 0xFF) * 10);
        let datagram = input.chunk();
        let admit = match op & 4 {
            0 => admission.handle_datagram(now, from, BytesMut::from(datagram)),
            _ => admission.handle_returned(now, from, BytesMut::from(datagram)),
        };
        let (mut answer, mut answers) = (Vec::new(), 0);
        while admission.poll_transmit(&mut answer).is_some() {
            answers += 1;
        }
        assert!(answers <= 2 && answer.len() <= 64);
        // Only a valid CRC, which proves the address, may be answered with more.
        let opcode = wire::opcode::of(datagram);
        if opcode.is_some_and(wire::opcode::is_exempt) || answer == [0, wire::opcode::UNKNOWN_SENDER] {
            assert!(answer.len() * 2 <= datagram.len() * 3, "{} bytes for {}", answer.len(), datagram.len());
        }
        assert_eq!(matches!(admit, Admit::Dropped), answer.is_empty() && matches!(admit, Admit::Dropped));
        assert_eq!(admission.memory_ceiling(), ceiling);
    }
}
