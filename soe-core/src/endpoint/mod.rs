//! What a socket decides about addresses: who may open a session, and what everybody else is told (sections 6 and 9 of
//! `docs/protocol.md`).

mod cookie;
mod handshakes;
mod limiter;
mod pending;
mod refusal;
mod selection;
mod types;

pub use self::{
    handshakes::Admission,
    types::{AdmissionStats, Admit, Newcomer},
};
