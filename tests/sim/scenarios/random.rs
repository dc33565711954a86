//! Two ends of a session, with everything that can be chosen chosen at random.

use std::{num::NonZeroU32, time::Duration};

use soe_core::{AdmissionConfig, ChannelOptions, Dialect, EscapeRule, Pass, ReliableChannel, SessionConfig};

use super::{MS, SECOND, address, finish};
use crate::{
    app::{Keys, Plan, Reading},
    network::{Bottleneck, Burst, Faults},
    pattern::{RELIABLE_NUMBERED, Sizes},
    rng::Rng,
    runner::Outcome,
    world::World,
};

/// Two sessions, any dialect, any settings, any traffic, over a bad network.
pub(crate) fn everything(seed: u64) -> Outcome {
    let mut world = drawn(seed, 60, |_| {});
    world.run_until(90 * SECOND, |world| {
        world.clients[0].endpoint.is_quiet() && world.peer_end(0).is_some_and(|peer| peer.is_quiet())
    });
    world.calm();
    // A window of one packet takes its time.
    finish(world, 7_200 * SECOND)
}

/// A world with a client that connects, everything about it drawn from the seed: up to `most` messages on a channel.
pub(crate) fn drawn(seed: u64, most: u64, prepare: impl FnOnce(&mut World)) -> World {
    let mut rng = Rng::of(seed, 100);
    let dialect = Dialect::by_name(rng.pick(&Dialect::ALL_NAMES)).unwrap();
    let rule = if rng.chance(0.9) { EscapeRule::Always } else { EscapeRule::WhenEncrypted };
    // A sender must not have more under way than its peer holds.
    let mut window = || rng.pick(&[1, 4, 16, 64, 256, 256, 256, 1_000, 30_000]);
    let windows = [window(), window()];
    let [client, server] = [0, 1].map(|n| config(&dialect, rule, [windows[n], windows[1 - n]], &mut rng));
    let limit = client.udp_length.min(server.udp_length) as usize;
    let crc = server.crc_length;
    let faults = [faults(crc, &mut rng), faults(crc, &mut rng)];
    // Without escapes a plain message that begins like a packet is taken for one.
    let leads = rule == EscapeRule::Always;
    let keys = rng.pick(&[Keys::Never, Keys::Session, Keys::Channels]);
    let plans = [(&client, &server), (&server, &client)].map(|(own, peer)| {
        let mut plan = Plan { keys, leads, ..plan(limit, most, &mut rng) };
        for channel in 0..ReliableChannel::COUNT {
            plan.unordered[channel] = own.channels[channel].unordered;
            if peer.channels[channel].unordered {
                // What arrives out of turn must say where it belongs, and can be encrypted with no key stream.
                plan.keys = Keys::Never;
                let (count, sizes) = plan.messages[channel];
                plan.messages[channel] = (count, Sizes::Range(RELIABLE_NUMBERED, sizes.most().max(RELIABLE_NUMBERED)));
            }
        }
        plan
    });
    let mut world = World::new(seed, AdmissionConfig::from(server));
    prepare(&mut world);
    world.connect(client, address(0), faults, plans);
    world
}

/// A configuration within all ranges that fits its peers of the same dialect.
fn config(dialect: &Dialect, rule: EscapeRule, [recv, send]: [usize; 2], rng: &mut Rng) -> SessionConfig {
    let offer = dialect.offer;
    let buffer = |rng: &mut Rng| rng.pick(&[1, 2_000, 20_000, 200_000, 1 << 20]);
    let mut builder = SessionConfig::with_dialect(dialect.clone())
        .protocol_name("Simulated".into())
        .udp_length(rng.pick(&[64, 65, 100, 255, 256, 300, offer.udp_length, offer.udp_length, 512, 1_400, 8_192]))
        .crc_length(if rng.chance(0.5) { offer.crc_length } else { rng.range(0, 4) as u8 })
        .allow_unchecked(true)
        .recv_window(recv)
        .recv_window_bytes(rng.pick(&[2_048, 20_000, 2 << 20]))
        .send_window(rng.size(send.div_ceil(2), send))
        .assumed_window(rng.size(send.div_ceil(2), send).min(256))
        .window_discovery(rng.chance(0.7))
        .send_window_bytes(rng.pick(&[2_048, 10_000, 128 * 1024, 1 << 20]))
        .ack_packets(rng.pick(&[1, 2, 32, 32, 1_000]))
        .ack_every_packet(rng.chance(0.1))
        .max_ack_delay(rng.pick(&[0, 1, 2, 2, 20, 100]) * MS)
        .send_buffer(buffer(rng))
        .recv_buffer(buffer(rng))
        .max_message_size(256 * 1024)
        .net_status_interval(rng.pick(&[0, 1, 10, 45]) * SECOND)
        .heartbeat_after(rng.pick(&[5, 9, 25]) * SECOND)
        .inactivity_timeout(rng.pick(&[0, 120]) * SECOND)
        .connect_timeout(300 * SECOND)
        .refusal_grace(rng.pick(&[0, 20, 1_000]) * MS)
        .bundle_unreliable(rng.chance(0.8))
        .escape(rule);
    for channel in ReliableChannel::ALL {
        let mut options = ChannelOptions::default().with_priority(rng.range(0, 2) as u8);
        options.unordered = rng.chance(0.05);
        options.redundant = rng.chance(0.1);
        options.trickle_rate = NonZeroU32::new(rng.range(5_000, 100_000) as u32).filter(|_| rng.chance(0.05));
        builder = builder.channel(channel, options);
    }
    if rng.chance(0.1) {
        builder = builder.port_alive_interval(5 * SECOND);
    }
    // Passes that need a codec are only for dialects that have one.
    let compresses = dialect.codecs[0].is_some();
    if rng.chance(0.3) {
        let first = if compresses { rng.pick(&[Pass::None, Pass::UserCodec, Pass::Xor]) } else { Pass::None };
        builder = builder.passes([first, rng.pick(&[Pass::None, Pass::Xor])]);
    }
    builder.build().unwrap()
}

fn faults(crc: u8, rng: &mut Rng) -> Faults {
    let some = |rng: &mut Rng, high: f64| if rng.chance(0.4) { rng.share(high) } else { 0.0 };
    let damage = if crc == 0 { 0.0 } else { 0.1 };
    Faults {
        latency: rng.millis(0, 150),
        jitter: if rng.chance(0.5) { rng.millis(0, 40) } else { Duration::ZERO },
        loss: some(rng, 0.2),
        burst: rng.chance(0.2).then(|| Burst { enter: rng.share(0.03), leave: 0.1 + rng.share(0.4), loss: 0.9 }),
        reorder: some(rng, 0.2),
        reorder_by: rng.millis(0, 100),
        duplicate: some(rng, 0.2),
        corrupt: some(rng, damage),
        truncate: some(rng, damage),
        bottleneck: rng
            .chance(0.2)
            .then(|| Bottleneck { rate: rng.range(20_000, 2_000_000), queue: rng.range(5_000, 100_000) }),
        ..Faults::default()
    }
}

fn plan(limit: usize, messages: u64, rng: &mut Rng) -> Plan {
    let mut plan = Plan::idle();
    let most = rng.pick(&[16, 500, 500, 2_000, 20_000]);
    for channel in 0..4 {
        if rng.chance(if channel == 0 { 0.9 } else { 0.3 }) {
            plan = plan.and(channel, rng.range(1, messages), Sizes::Orders(most));
        }
    }
    if rng.chance(0.03) {
        plan = plan.and(rng.size(0, 3), 1, Sizes::Range(100_000, 200_000));
    }
    // Within what every framing leaves of the smallest datagram agreed on.
    let unreliable = Sizes::Range(6, limit - 16);
    for channel in 4..7 {
        if rng.chance(0.3) {
            plan = plan.and(channel, rng.range(1, messages), unreliable);
        }
    }
    plan.burst = rng.pick(&[1, 3, 10, u64::MAX]);
    plan.every = rng.pick(&[1, 10, 100]) * MS;
    if rng.chance(0.2) {
        plan.reading = Reading::Slowly { count: rng.size(1, 20), every: rng.millis(1, 100) };
    }
    plan
}
