//! Against the parser of `soe-protocol`, for the packets that it makes public: requests, responses, disconnects, remaps and
//! acknowledgements, in the forms of version 3 that it knows. The rest of its parser is private, or reads otherwise where
//! `docs/protocol.md` says why.

use soe_core::wire::Packet;
use soe_protocol::packets as theirs;

pub fn differential(data: &[u8]) {
    let body = data.get(2..).unwrap_or_default();
    match Packet::decode(data) {
        Ok(Packet::SessionRequest(ours)) => {
            // It wants a name with its NUL, and takes one of any length.
            let Ok(theirs) = theirs::SessionRequest::deserialize(data, true) else { return };
            assert_eq!(
                (ours.version, ours.session_id, ours.udp_length),
                (theirs.soe_protocol_version, theirs.session_id, theirs.udp_length)
            );
            if let Some(name) = ours.protocol_name {
                let name = String::from_utf8_lossy(name);
                assert!(name == theirs.application_protocol || theirs.application_protocol.len() > 32);
            }
        }
        Ok(Packet::SessionResponse(ours)) => {
            let Ok(theirs) = theirs::SessionResponse::deserialize(data, true) else { return };
            assert_eq!(ours.session_id, theirs.session_id);
            assert_eq!((ours.crc_seed, ours.crc_length), (theirs.crc_seed, theirs.crc_length));
            assert_eq!(ours.passes[0] != 0, theirs.is_compression_enabled);
            assert_eq!(ours.passes[1], theirs.unknown_value_1);
            assert_eq!((ours.udp_length, ours.version), (theirs.udp_length, Some(theirs.soe_protocol_version)));
        }
        Ok(Packet::Disconnect(ours)) => {
            let Ok(theirs) = theirs::Disconnect::deserialize(body) else {
                assert_eq!(ours.reason, None);
                return;
            };
            assert_eq!(ours.session_id, theirs.session_id);
            // Numbers that it does not know become another one there.
            if ours.reason.is_some_and(|reason| (1..=15).contains(&u16::from(reason))) {
                assert_eq!(ours.reason.map(u16::from), Some(theirs.reason.as_u16()));
            }
        }
        Ok(Packet::RemapConnection(ours)) => {
            let theirs = theirs::RemapConnection::deserialize(data, true).expect("long enough");
            assert_eq!((ours.session_id, ours.crc_seed), (theirs.session_id, theirs.crc_seed));
        }
        Ok(Packet::Acknowledge(ours)) => {
            assert_eq!(Some(ours.sequence), theirs::Acknowledge::deserialize(body).ok().map(|ack| ack.sequence));
        }
        Ok(Packet::AcknowledgeAll(ours)) => {
            assert_eq!(Some(ours.sequence), theirs::AcknowledgeAll::deserialize(body).ok().map(|ack| ack.sequence));
        }
        Err(_) => match data {
            [0, 0x02, ..] => assert!(theirs::SessionResponse::deserialize(data, true).is_err()),
            [0, 0x05, ..] => assert!(theirs::Disconnect::deserialize(body).is_err()),
            [0, 0x1E, ..] => assert!(theirs::RemapConnection::deserialize(data, true).is_err()),
            [0, 0x11..=0x18, ..] => assert!(theirs::Acknowledge::deserialize(body).is_err()),
            _ => {}
        },
        _ => {}
    }
}
