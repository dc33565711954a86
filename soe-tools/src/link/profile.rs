//! Links that have a name.

use std::str::FromStr;

use super::Impairment;

/// A named link: what happens on the way up to the server and down to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    name: &'static str,
    about: &'static str,
    up: &'static str,
    down: &'static str,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self { name: "clean", about: "everything passes at once", up: "none", down: "none" },
        Self {
            name: "wifi-bad",
            about: "a crowded wireless network: 5 % lost in bursts, up to 40 ms of jitter, some overtaken",
            up: "none,burst=5%/4,delay=8ms,jitter=40ms,reorder=1%/20ms,duplicate=0.1%,rate=16mbit/256kB",
            down: "none,burst=5%/4,delay=8ms,jitter=40ms,reorder=1%/20ms,duplicate=0.1%,rate=16mbit/256kB",
        },
        Self {
            name: "mobile",
            about: "a moving phone: 40 ms, 30 ms of jitter, 1 % lost in bursts, a handover of 800 ms every minute",
            up: "none,burst=1%/3,delay=40ms,jitter=30ms,rate=2mbit/250kB,blackout=800ms/60s",
            down: "none,burst=1%/3,delay=40ms,jitter=30ms,rate=8mbit/1MB,blackout=800ms/60s",
        },
        Self {
            name: "lag-switch",
            about: "a player who cuts his own upload for 1.5 s out of every 10 s",
            up: "none,blackout=1500ms/10s",
            down: "none",
        },
        Self {
            name: "transatlantic",
            about: "a good line across an ocean: 45 ms each way, 0.1 % lost",
            up: "none,loss=0.1%,delay=45ms,jitter=2ms,rate=80mbit/1MB",
            down: "none,loss=0.1%,delay=45ms,jitter=2ms,rate=80mbit/1MB",
        },
        Self {
            name: "dial-up",
            about: "a modem: 90 ms, 33.6 kbit/s up and 48 kbit/s down, three seconds of queue",
            up: "none,loss=0.2%,delay=90ms,jitter=20ms,rate=33600bit/12kB",
            down: "none,loss=0.2%,delay=90ms,jitter=20ms,rate=48kbit/18kB",
        },
    ];

    /// Its name on a command line.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// One line about it.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// What happens on the way to the server.
    pub fn up(&self) -> Impairment {
        read(self.up)
    }

    /// What happens on the way to the client.
    pub fn down(&self) -> Impairment {
        read(self.down)
    }
}

fn read(text: &str) -> Impairment {
    // The texts are constants, and a test reads each.
    text.parse().unwrap_or_default()
}

/// Not the name of a [`Profile`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not one of clean, wifi-bad, mobile, lag-switch, transatlantic, dial-up")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|profile| profile.name == name).ok_or_else(|| UnknownProfile(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_found_by_its_name_and_reads_without_error() {
        let complaint = "nothing".parse::<Profile>().unwrap_err().to_string();
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(profile));
            assert!(complaint.contains(profile.name()), "{complaint}");
            assert!(profile.up.parse::<Impairment>().is_ok() && profile.down.parse::<Impairment>().is_ok());
            let calm = profile.up() == Impairment::default() && profile.down() == Impairment::default();
            assert_eq!(calm, profile.name() == "clean");
        }
    }
}
