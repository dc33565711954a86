//! The known games. The source is section 3 of `docs/protocol.md`; inferred values are marked.

use std::borrow::Cow;
use std::time::Duration;

use super::{AsksNetStatus, Dialect, Handshake, Offer, OpensOn, Policies, ResponseTrailer, Timing, Versions};
use crate::framing::{Codec, Pass, ZlibCodec};

impl Dialect {
    /// The names of all presets, for command lines.
    pub const ALL_NAMES: [&'static str; PRESETS.len()] = names();

    /// The preset of this name, one of [`Dialect::ALL_NAMES`].
    pub fn by_name(name: &str) -> Option<Self> {
        PRESETS.iter().find(|(known, _)| *known == name).map(|(_, preset)| preset())
    }

    /// Version 3 of the transport, without passes: what its games have in common.
    ///
    /// Source: public implementations of several version 3 games, and captures of PlanetSide 2 and H1Z1.
    pub fn version3() -> Self {
        Self {
            name: Cow::Borrowed("version3"),
            handshake: Handshake {
                version: 3,
                accepts: Versions::Exactly(3),
                named: true,
                trailer: ResponseTrailer::Version(3),
            },
            offer: Offer { crc_length: 2, passes: [Pass::None, Pass::None], udp_length: 512 },
            codecs: [Some(Codec::Zlib(ZlibCodec::VERSION_3)), None],
            policies: Policies {
                answers_heartbeat: true,
                disconnect_reason: true,
                asks_net_status: AsksNetStatus::Client,
                opens_on: OpensOn::FirstDatagram,
            },
            timing: Timing::default(),
        }
    }

    /// PlanetSide 2, without passes.
    ///
    /// Source: a public implementation and a retail capture.
    pub fn planetside2() -> Self {
        Self::version3().with_name("planetside2")
    }

    /// H1Z1, with zlib. Not for the servers and clients of the public emulator, see [`Dialect::h1emu`].
    ///
    /// Source: a public server and its test data, from captures. Which passes the retail servers offered is inferred.
    pub fn h1z1() -> Self {
        Self::version3().with_name("h1z1").with_passes([Pass::UserCodec, Pass::None])
    }

    /// H1Z1's public emulator and its clients: like [`Dialect::h1z1`] without passes.
    ///
    /// The emulator offers no compression, and what was written for it was never tested with any: of what was tried under
    /// the passes of [`Dialect::h1z1`], one program stalls and another stops at the first compressed NetStatusRequest.
    ///
    /// Source: the public emulator's configuration.
    pub fn h1emu() -> Self {
        Self::h1z1().with_name("h1emu").with_passes([Pass::None, Pass::None])
    }

    /// The public emulator of Free Realms and its clients: like [`Dialect::free_realms`] without passes.
    ///
    /// Source: the public emulator. What holds for [`Dialect::h1emu`] holds here.
    pub fn sanctuary() -> Self {
        Self::free_realms().with_name("sanctuary").with_passes([Pass::None, Pass::None])
    }

    /// Free Realms, with zlib. Not for the servers and clients of the public emulator, see [`Dialect::sanctuary`].
    ///
    /// Source: a public port of the original library. Which passes the retail servers offered is inferred.
    pub fn free_realms() -> Self {
        Self::version3().with_name("free-realms").with_passes([Pass::UserCodec, Pass::None])
    }

    /// Landmark, without passes.
    ///
    /// Inferred from the other version 3 games; not captured.
    pub fn landmark() -> Self {
        Self::version3().with_name("landmark")
    }

    /// EverQuest from Titanium to Rain of Fear 2: login and world servers, without passes.
    ///
    /// Source: a public server and vectors made from it. The acceptance of version 3 requests with a name, as live clients
    /// are said to send, is inferred and not captured.
    pub fn everquest_login() -> Self {
        Self {
            name: Cow::Borrowed("everquest-login"),
            handshake: Handshake {
                version: 2,
                accepts: Versions::OneOf([2, 3].into()),
                named: false,
                trailer: ResponseTrailer::None,
            },
            offer: Offer { crc_length: 2, passes: [Pass::None, Pass::None], udp_length: 512 },
            codecs: [Some(Codec::Zlib(ZlibCodec::EVERQUEST)), None],
            policies: Policies {
                answers_heartbeat: true,
                disconnect_reason: false,
                asks_net_status: AsksNetStatus::Client,
                opens_on: OpensOn::FirstDatagram,
            },
            timing: Timing::default().with_heartbeat_after(EVERQUEST_HEARTBEAT),
        }
    }

    /// EverQuest zone servers: like [`Dialect::everquest_login`] with zlib.
    pub fn everquest_zone() -> Self {
        Self::everquest_login().with_name("everquest-zone").with_passes([Pass::UserCodec, Pass::None])
    }

    /// EverQuest chat and mail servers: like [`Dialect::everquest_login`] with the XOR chain.
    pub fn everquest_chat() -> Self {
        Self::everquest_login().with_name("everquest-chat").with_passes([Pass::Xor, Pass::None])
    }

    /// Star Wars Galaxies: zlib, then the XOR chain.
    ///
    /// Source: public servers and retail captures. Which side sends NetStatusRequests comes from the captures.
    pub fn star_wars_galaxies() -> Self {
        Self {
            name: Cow::Borrowed("star-wars-galaxies"),
            handshake: Handshake {
                version: 2,
                accepts: Versions::Exactly(2),
                named: false,
                trailer: ResponseTrailer::None,
            },
            offer: Offer { crc_length: 2, passes: [Pass::UserCodec, Pass::Xor], udp_length: 496 },
            codecs: [Some(Codec::Zlib(ZlibCodec::STAR_WARS_GALAXIES)), None],
            policies: Policies {
                answers_heartbeat: true,
                disconnect_reason: true,
                asks_net_status: AsksNetStatus::Client,
                opens_on: OpensOn::FirstDatagram,
            },
            timing: Timing::default(),
        }
    }

    /// EverQuest II: no passes; messages go through [`EverQuest2Hook`](crate::cipher::EverQuest2Hook).
    ///
    /// Source: a public server and vectors made from it; not captured. That a server opens with its response, to send its
    /// key request, is inferred, and so is the version that a client sends.
    pub fn everquest2() -> Self {
        Self {
            name: Cow::Borrowed("everquest2"),
            handshake: Handshake {
                version: 2,
                accepts: Versions::Any,
                named: false,
                trailer: ResponseTrailer::Version(0),
            },
            offer: Offer { crc_length: 2, passes: [Pass::None, Pass::None], udp_length: 512 },
            codecs: [None, None],
            policies: Policies {
                answers_heartbeat: true,
                disconnect_reason: true,
                asks_net_status: AsksNetStatus::Client,
                opens_on: OpensOn::Response,
            },
            timing: Timing::default(),
        }
    }
}

const fn names() -> [&'static str; PRESETS.len()] {
    let mut names = [""; PRESETS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = PRESETS[i].0;
        i += 1;
    }
    names
}

type Preset = fn() -> Dialect;

/// Every preset under its name, in the order of the games' families.
const PRESETS: [(&str, Preset); 12] = [
    ("version3", Dialect::version3),
    ("planetside2", Dialect::planetside2),
    ("h1z1", Dialect::h1z1),
    ("h1emu", Dialect::h1emu),
    ("free-realms", Dialect::free_realms),
    ("sanctuary", Dialect::sanctuary),
    ("landmark", Dialect::landmark),
    ("everquest-login", Dialect::everquest_login),
    ("everquest-zone", Dialect::everquest_zone),
    ("everquest-chat", Dialect::everquest_chat),
    ("star-wars-galaxies", Dialect::star_wars_galaxies),
    ("everquest2", Dialect::everquest2),
];

/// The public EverQuest server sends a heartbeat after this long.
const EVERQUEST_HEARTBEAT: Duration = Duration::from_secs(9);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_the_dialect_that_carries_it() {
        for name in Dialect::ALL_NAMES {
            assert_eq!(Dialect::by_name(name).map(|dialect| dialect.name).as_deref(), Some(name));
        }
        assert!(Dialect::by_name("tetris").is_none());
    }

    #[test]
    fn every_preset_can_do_what_it_offers() {
        for (name, preset) in PRESETS {
            let Dialect { offer, .. } = preset();
            let passes = offer.passes.map(u8::from);
            assert!(preset().framing(1, offer.crc_length, passes).is_ok(), "{name}");
        }
    }

    #[test]
    fn emulators_are_offered_no_compression() {
        for emulator in [Dialect::h1emu(), Dialect::sanctuary()] {
            assert_eq!(emulator.offer.passes, [Pass::None, Pass::None], "{}", emulator.name);
        }
    }

    #[test]
    fn every_server_accepts_its_own_clients() {
        for (name, preset) in PRESETS {
            let Dialect { handshake, .. } = preset();
            assert!(handshake.accepts.accept(handshake.version), "{name}");
        }
    }
}
