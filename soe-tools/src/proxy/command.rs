//! What an operator says to a running proxy, a line at a time.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use crate::{
    link::{Profile, Spec, SpecError, UnknownProfile},
    units::{self, UnitError},
};

/// A change to what a proxy does.
///
/// ```text
/// set [CLIENT] [up|down] SPEC       changes a link, such as: set up loss=5%,delay=40ms
/// profile [CLIENT] NAME             a named link in both directions
/// blackout [CLIENT] [up|down] TIME  nothing passes for TIME, beginning now
/// rebind [CLIENT]                   the client appears to the server under a new port
/// ```
///
/// CLIENT is `#3` or `127.0.0.1:5000`; without it all are meant, and `set` and `profile` also apply to those to come. Without
/// a direction both are meant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Changes links.
    Set(Target, Side, Spec),
    /// Gives both links of clients a name.
    Profile(Target, Profile),
    /// Lets nothing pass for a time.
    BlackOut(Target, Side, Duration),
    /// Replaces the sockets towards the server.
    Rebind(Target),
}

/// Which clients are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// All.
    All,
    /// The one with this number.
    Number(u32),
    /// The one at this address.
    Address(SocketAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Number(number) => write!(f, "#{number}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Which directions are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a proxy has two sides")]
pub enum Side {
    /// To the server.
    Up,
    /// To the client.
    Down,
    /// Both.
    Both,
}

/// A command that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Not a command.
    #[error("'{0}' is not one of set, profile, blackout, rebind, show, json, help, quit")]
    Unknown(String),
    /// Something is missing.
    #[error("'{0}' needs more words: see help")]
    Incomplete(String),
    /// Something is left over.
    #[error("'{0}' is one word too many")]
    TooMany(String),
    /// Not what a link can do.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Not the name of a link.
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    /// Not a time.
    #[error(transparent)]
    Time(#[from] UnitError),
    /// Not a client of the proxy.
    #[error("there is no client {0}")]
    NoSuchClient(String),
    /// The proxy has ended.
    #[error("the proxy has ended")]
    Ended,
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut words = line.split_whitespace().peekable();
        let verb = words.next().unwrap_or_default();
        let has_side = match verb {
            "set" | "blackout" => true,
            "profile" | "rebind" => false,
            _ => return Err(CommandError::Unknown(verb.to_owned())),
        };
        let target = words.next_if(|word| client(word).is_some()).and_then(client).unwrap_or(Target::All);
        let side = match words.next_if(|word| has_side && matches!(*word, "up" | "down" | "both")) {
            Some("up") => Side::Up,
            Some("down") => Side::Down,
            _ => Side::Both,
        };
        let mut argument = || words.next().ok_or_else(|| CommandError::Incomplete(verb.to_owned()));
        let command = match verb {
            "set" => Self::Set(target, side, argument()?.parse()?),
            "profile" => Self::Profile(target, argument()?.parse()?),
            "blackout" => Self::BlackOut(target, side, units::duration(argument()?)?),
            _ => Self::Rebind(target),
        };
        match words.next() {
            Some(word) => Err(CommandError::TooMany(word.to_owned())),
            None => Ok(command),
        }
    }
}

fn client(word: &str) -> Option<Target> {
    match word.strip_prefix('#') {
        Some(number) => number.parse().ok().map(Target::Number),
        None => word.parse().ok().map(Target::Address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let spec = || "loss=5%".parse::<Spec>().unwrap();
        let read = |line: &str| line.parse::<Command>().unwrap();
        assert_eq!(read("set loss=5%"), Command::Set(Target::All, Side::Both, spec()));
        assert_eq!(read(" set  #3 up loss=5% "), Command::Set(Target::Number(3), Side::Up, spec()));
        let address = Target::Address("[::1]:9".parse().unwrap());
        assert_eq!(read("set [::1]:9 down loss=5%"), Command::Set(address, Side::Down, spec()));
        assert_eq!(read("profile #1 mobile"), Command::Profile(Target::Number(1), "mobile".parse().unwrap()));
        assert_eq!(read("blackout up 2s"), Command::BlackOut(Target::All, Side::Up, Duration::from_secs(2)));
        assert_eq!(read("rebind"), Command::Rebind(Target::All));
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |line: &str| line.parse::<Command>().unwrap_err().to_string();
        assert!(refused("").contains("is not one of set"));
        assert!(refused("sett loss=5%").starts_with("'sett' is not one of"));
        assert!(refused("set up").starts_with("'set' needs more words"));
        assert!(refused("set loss=5").starts_with("loss: '5'"));
        assert!(refused("set loss=5% now").starts_with("'now' is one word too many"));
        assert!(refused("profile nope").starts_with("'nope' is not one of clean"));
        assert!(refused("rebind up").starts_with("'up' is one word too many"));
        assert!(refused("blackout 5").starts_with("'5' is not a time"));
    }
}
