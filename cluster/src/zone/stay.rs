//! One player's stay in a zone, from the ticket to the next zone.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use soe_tokio::{DisconnectReason, SoeSession};
use tokio::{sync::mpsc, task::AbortHandle, time::Instant};

use super::Zone;
use crate::{
    bus::{Attempt, until_done},
    chat::Line,
    login::{TICKET_SUBJECT, TicketAnswer, TicketRequest},
    records::{Lost, Record},
    tickets::{new_id, redeem},
    wire::{FromZone, ToZone, Way, decode, encode},
};

/// What both the player's task and the task that writes its record look at.
#[derive(Debug, Default)]
struct Play {
    points: u64,
    /// The record is being handed over: nothing counts any more.
    is_frozen: bool,
}

#[derive(Debug)]
struct Stay {
    zone: Arc<Zone>,
    player: String,
    play: Mutex<Play>,
    /// An asynchronous lock: it is held while NATS is waited for.
    record: tokio::sync::Mutex<Record>,
}

/// What the tasks around a stay tell it.
#[derive(Debug)]
enum News {
    /// Everything is ready for the player to go on.
    Go(Way),
    /// There is no such zone.
    NoWay,
    /// Another zone has the player.
    Lost,
}

/// Ends a task when it is dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts a player as present until it is dropped, also by a panic: a zone that counts one too many never drains.
struct Present(Arc<Zone>);

impl Present {
    fn new(zone: Arc<Zone>) -> Self {
        zone.present.fetch_add(1, Ordering::Relaxed);
        Self(zone)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Zone {
    /// One session, until it ends.
    pub(super) async fn serve(self: Arc<Self>, mut session: SoeSession) {
        let Some((player, record)) = self.enter(&mut session).await else { return };
        let _present = Present::new(Arc::clone(&self));
        let play = Mutex::new(Play { points: record.points, is_frozen: false });
        let stay = Arc::new(Stay { zone: Arc::clone(&self), player, play, record: tokio::sync::Mutex::new(record) });
        stay.live(&mut session).await;
    }

    /// Takes the ticket. `None`: it is not good, or the player has left.
    async fn enter(&self, session: &mut SoeSession) -> Option<(String, Record)> {
        let first = tokio::time::timeout(FIRST_MESSAGE, session.recv()).await.ok()??.ok()?;
        let ToZone::Enter { player, ticket } = decode(&first.payload)? else { return None };
        let entering = async {
            redeem(&self.tickets, &ticket, &player, &self.name).await?;
            Ok(Record::take_over(&self.players, &player).await)
        };
        let entered = tokio::select! {
            entered = entering => entered,
            // A player says nothing before it is in. Whoever leaves is not waited for.
            _ = session.recv() => return None,
        };
        match entered {
            Ok(record) => {
                session.send(encode(&FromZone::Entered { points: record.points })).await.ok()?;
                Some((player, record))
            }
            Err(refusal) => {
                let refusal: crate::tickets::Refusal = refusal;
                session.send(encode(&FromZone::Refused { why: format!("{refusal:?}") })).await.ok()?;
                let _ = tokio::time::timeout(FIRST_MESSAGE, session.closed()).await;
                None
            }
        }
    }
}

impl Stay {
    async fn live(self: &Arc<Self>, session: &mut SoeSession) {
        let (tell, mut news) = mpsc::channel(4);
        let _saving = Task(tokio::spawn(Arc::clone(self).keep_saved(tell.clone())).abort_handle());
        let mut drain = self.zone.drain.subscribe();
        let mut leaving = None;
        loop {
            tokio::select! {
                message = session.recv() => {
                    let Some(Ok(message)) = message else { return };
                    let answered = match decode(&message.payload) {
                        Some(ToZone::Play { number }) => self.played(session, number).await,
                        Some(ToZone::Say { text }) => {
                            // A zone that has more to say than it can is silent.
                            let _ = self.zone.lines.try_send(Line { from: self.player.clone(), text });
                            true
                        }
                        Some(ToZone::Move { to }) => {
                            leaving.get_or_insert_with(|| self.leave(Some(to), tell.clone()));
                            true
                        }
                        Some(ToZone::Enter { .. }) | None => false,
                    };
                    if !answered {
                        return;
                    }
                }
                () = async { drop(drain.wait_for(|drain| *drain).await) }, if leaving.is_none() => {
                    leaving = Some(self.leave(None, tell.clone()));
                }
                told = news.recv() => match told {
                    Some(News::Go(way)) => {
                        if session.send(encode(&FromZone::Go { way })).await.is_err() {
                            return;
                        }
                    }
                    Some(News::NoWay) => leaving = None,
                    Some(News::Lost) | None => {
                        session.abort(DisconnectReason::NewConnectionAttempt, true);
                        return;
                    }
                },
            }
        }
    }

    /// Counts a point, and says so. Nothing is said once the record is being handed over: the player asks again in the next zone.
    async fn played(&self, session: &mut SoeSession, number: u64) -> bool {
        let points = {
            let mut play = self.play();
            if play.is_frozen {
                return true;
            }
            play.points += 1;
            play.points
        };
        session.send(encode(&FromZone::Played { number, points })).await.is_ok()
    }

    /// Writes the record once a second for as long as the stay lasts. While NATS is away, play goes on.
    async fn keep_saved(self: Arc<Self>, tell: mpsc::Sender<News>) {
        loop {
            tokio::time::sleep(SAVE_EVERY).await;
            let points = self.play().points;
            if let Err(Lost) = self.record.lock().await.save(points).await {
                let _ = tell.send(News::Lost).await;
                return;
            }
        }
    }

    /// Sends the player on: gets a ticket, hands the record over, and says where to.
    fn leave(self: &Arc<Self>, to: Option<String>, tell: mpsc::Sender<News>) -> Task {
        let stay = Arc::clone(self);
        let leaving = async move {
            let news = stay.prepare(to).await;
            let _ = tell.send(news).await;
        };
        Task(tokio::spawn(leaving).abort_handle())
    }

    async fn prepare(&self, to: Option<String>) -> News {
        let mut unknown_since = None;
        loop {
            // Play goes on while the ticket is waited for, however long NATS is away.
            let Some(way) = self.ask_for_way(to.clone()).await else {
                // A zone may have been forgotten for a moment, and whoever has to leave finds one in the end.
                let since = *unknown_since.get_or_insert_with(Instant::now);
                if to.is_some() && since.elapsed() > UNKNOWN_ZONE {
                    return News::NoWay;
                }
                tokio::time::sleep(ASK_EVERY).await;
                continue;
            };
            let points = {
                let mut play = self.play();
                play.is_frozen = true;
                play.points
            };
            let saved = tokio::time::timeout(HAND_OVER, async { self.record.lock().await.save(points).await }).await;
            match saved {
                Ok(Ok(())) => return News::Go(way),
                Ok(Err(Lost)) => return News::Lost,
                Err(_) => self.play().is_frozen = false,
            }
        }
    }

    async fn ask_for_way(&self, zone: Option<String>) -> Option<Way> {
        let avoid = zone.is_none().then(|| self.zone.name.clone());
        let request = TicketRequest { id: new_id(), player: self.player.clone(), zone, avoid };
        let request = serde_json::to_vec(&request).expect("it has no keys that JSON lacks");
        until_done!({
            let answer = self.zone.bus.client.request(TICKET_SUBJECT, request.clone().into()).await;
            match answer.map(|answer| serde_json::from_slice::<TicketAnswer>(&answer.payload)) {
                Ok(Ok(answer)) => Attempt::Done(answer.way),
                _ => Attempt::Again,
            }
        })
    }

    fn play(&self) -> MutexGuard<'_, Play> {
        self.play.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const FIRST_MESSAGE: Duration = Duration::from_secs(5);
const SAVE_EVERY: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long a zone is asked for that nobody knows.
const UNKNOWN_ZONE: Duration = Duration::from_secs(10);
/// How long play may stand still for the record to be written.
const HAND_OVER: Duration = Duration::from_secs(1);
