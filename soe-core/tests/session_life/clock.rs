//! The server's clock, as its client knows it.

use std::time::{Duration, Instant};

use soe_core::{
    Framing, Session,
    wire::{NetStatusResponse, Packet},
};

use super::link::{Link, MS, Numbers, SECOND};

/// A server whose clock is too fast by this share, one way to it and one way back from it.
struct Server {
    framing: Framing,
    start: Instant,
    drift: f64,
    there: Duration,
    back: Duration,
}

impl Server {
    fn clock(&self, at: Instant) -> f64 {
        77_000.0 + (at - self.start).as_secs_f64() * 1_000.0 * (1.0 + self.drift)
    }

    /// Lets the client ask until this moment. Returns by how much it was wrong at worst, in milliseconds.
    fn serve(
        &self,
        client: &mut Session,
        now: &mut Instant,
        end: Instant,
        mut jitter: impl FnMut() -> Duration,
    ) -> f64 {
        let mut worst = 0.0_f64;
        let mut check = |client: &Session, at: Instant| {
            if let Some(told) = client.server_clock(at) {
                worst = worst.max((f64::from(told) - self.clock(at)).abs());
            }
        };
        while *now < end {
            let mut buf = Vec::new();
            while client.poll_transmit(*now, &mut buf).is_some() {
                let answer = Packet::decode(&buf[..buf.len() - 2]).ok().and_then(|packet| match packet {
                    Packet::NetStatusRequest(request) => Some(request),
                    _ => None,
                });
                buf.clear();
                let Some(request) = answer else { continue };
                let (there, back) = (self.there + jitter(), self.back + jitter());
                let mut datagram = Vec::new();
                Packet::NetStatusResponse(NetStatusResponse {
                    request_clock: request.clock,
                    responder_clock: self.clock(*now + there) as u32,
                    ..NetStatusResponse::default()
                })
                .encode(&mut datagram);
                self.framing.seal(&mut datagram, 0);
                *now += there + back;
                check(client, *now);
                let _ = client.handle_datagram(*now, datagram[..].into());
                check(client, *now);
            }
            while client.poll_event().is_some() {}
            *now = client.poll_timeout().unwrap().clamp(*now, end);
            check(client, *now);
            client.handle_timeout(*now);
        }
        worst
    }
}

fn server(drift: f64, there: Duration, back: Duration) -> (Session, Server, Instant) {
    let link = Link::plain();
    let server = Server { framing: link.framing(), start: link.now, drift, there, back };
    (link.client, server, link.now)
}

/// The first exchange has shown another clock than the model's: let the next one replace it.
fn settle(client: &mut Session, server: &Server, now: &mut Instant) {
    let end = *now + 100 * SECOND;
    server.serve(client, now, end, || Duration::ZERO);
}

#[test]
fn the_servers_clock_is_followed_through_an_hour_of_drift() {
    for ppm in [-100.0, -20.0, 0.0, 100.0] {
        let (mut client, server, mut now) = server(ppm / 1e6, 30 * MS, 30 * MS);
        settle(&mut client, &server, &mut now);
        let end = now + 3_600 * SECOND;
        let worst = server.serve(&mut client, &mut now, end, || Duration::ZERO);
        assert!(worst <= 10.0, "{worst} ms off at {ppm} ppm, on a link that is the same both ways");
    }
}

#[test]
fn the_servers_clock_is_followed_over_a_link_that_has_become_slower() {
    for ppm in [-50.0, 50.0, 100.0] {
        let (mut client, mut server, mut now) = server(ppm / 1e6, 5 * MS, 5 * MS);
        settle(&mut client, &server, &mut now);
        // All of what the round trip has grown by is on one way: the most that can be wrong.
        server.there = 55 * MS;
        let end = now + 25 * 3_600 * SECOND;
        let worst = server.serve(&mut client, &mut now, end, || Duration::ZERO);
        assert!(worst <= 35.0, "{worst} ms off at {ppm} ppm and a round trip of 60 ms");
    }
}

#[test]
fn a_slow_exchange_now_and_then_does_not_mislead() {
    let (mut client, server, mut now) = server(50e-6, 20 * MS, 20 * MS);
    settle(&mut client, &server, &mut now);
    let mut numbers = Numbers::new(5);
    let end = now + 3_600 * SECOND;
    let jitter = || if numbers.chance(0.2) { numbers.below(500) as u32 * MS } else { Duration::ZERO };
    let worst = server.serve(&mut client, &mut now, end, jitter);
    assert!(worst <= 25.0, "{worst} ms off at a round trip of 40 ms");
}

#[test]
fn a_clock_that_is_set_is_believed_at_the_next_exchange() {
    let (mut client, mut server, mut now) = server(0.0, 20 * MS, 20 * MS);
    settle(&mut client, &server, &mut now);
    server.start = now - 500_000 * SECOND;
    settle(&mut client, &server, &mut now);
    let end = now + 100 * SECOND;
    let worst = server.serve(&mut client, &mut now, end, || Duration::ZERO);
    assert!(worst <= 25.0, "{worst} ms off");
}
