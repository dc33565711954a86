//! What both applications of a session did and were told, and what must hold of it after every run.

use std::{cell::Cell, rc::Rc, time::Instant};

use soe_core::{Closed, ReliableChannel, Undelivered};

/// The account of one end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    /// Messages that the session has accepted, by reliable channel, each with a receipt.
    pub(crate) sent: [u64; ReliableChannel::COUNT],
    /// Receipts that said "delivered".
    pub(crate) delivered: [u64; ReliableChannel::COUNT],
    /// Different messages that the application has read.
    pub(crate) received: [u64; ReliableChannel::COUNT],
    /// How and when the session ended, and what it said to be lost.
    pub(crate) end: Option<(Closed, Undelivered, Instant)>,
    /// The program was killed: nobody reads what its session had acknowledged, and nobody hears of an end.
    pub(crate) is_killed: bool,
}

/// Both ends of a session write to their accounts while others look.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedAccount(Rc<Cell<Account>>);

impl SharedAccount {
    pub(crate) fn get(&self) -> Account {
        self.0.get()
    }

    pub(crate) fn note(&self, note: impl FnOnce(&mut Account)) {
        let mut account = self.get();
        note(&mut account);
        self.0.set(account);
    }
}

/// Expects that the accounts of the two ends of a session agree. To be called after both have ended and have read what there was.
pub(crate) fn verify(own: &Account, peer: &Account) {
    let (sent, delivered): (u64, u64) = (own.sent.iter().sum(), own.delivered.iter().sum());
    if !peer.is_killed {
        for channel in 0..ReliableChannel::COUNT {
            let (told, arrived) = (own.delivered[channel], peer.received[channel]);
            assert!(
                told <= arrived,
                "channel {channel}: {told} messages were acknowledged, {arrived} reached the application"
            );
        }
    }
    let Some((closed, undelivered, _)) = own.end else {
        assert!(own.is_killed || sent == 0, "a session with messages never ended: {own:?}");
        return;
    };
    let open = sent - delivered;
    assert_eq!(open, undelivered.messages as u64, "receipts that say nothing, and messages said to be lost: {closed}");
    let arrived: u64 = peer.received.iter().sum();
    assert!(
        peer.is_killed || arrived + open >= sent,
        "{sent} sent, {arrived} arrived, {open} said to be lost: {closed}"
    );
}
