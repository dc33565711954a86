//! The life of a session, driven through the public API in virtual time: how it opens, stays alive, and ends.

mod clock;
mod endings;
mod guesses;
mod habits;
mod healing;
mod hits;
mod limits;
mod link;
mod named_windows;
mod narrow;
mod opening;
mod pauses;
mod reading;
mod silence;
mod windows;
