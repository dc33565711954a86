//! Two sessions in memory: a channel's whole life, from send through datagrams, receipt and acknowledgement.
//!
//! Every figure is for both sides together.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use soe_core::{Message, SessionConfig, SessionConfigBuilder};

use crate::{
    content::{noise, records},
    pair::{Pair, drain, echo, send},
};

const BULK: usize = 256 * 1024;
const SMALL: usize = 64;
const MESSAGES: usize = 256;

pub(crate) fn bench(criterion: &mut Criterion) {
    bulk(criterion);
    small(criterion);
    round_trips(criterion);
}

/// One long message: full datagrams, windows, acknowledgements.
fn bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session/bulk");
    group.throughput(Throughput::Bytes(BULK as u64));
    let message = Message::reliable(noise(BULK));
    let compressible = Message::reliable(records(BULK));
    for (name, config, message) in [
        ("udp 512", config(), &message),
        ("udp 1400", config().udp_length(1_400), &message),
        ("udp 512, zlib", config().compression(true), &compressible),
    ] {
        let mut pair = Pair::connected(build(config));
        group.bench_function(name, |bencher| {
            bencher.iter(|| transfer(&mut pair, message, 1));
        });
    }
    let mut pair = Pair::connected(build(config()));
    pair.client.set_send_key(Some(KEY)).expect("a valid key");
    pair.server.set_recv_key(Some(KEY)).expect("a valid key");
    group.bench_function("udp 512, rc4", |bencher| bencher.iter(|| transfer(&mut pair, &message, 1)));
    group.finish();
}

/// Many short messages at once, grouped into full datagrams, until all are acknowledged.
fn small(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session/small messages");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    let message = Bytes::from(noise(SMALL));
    for (name, message) in
        [("reliable", Message::reliable(message.clone())), ("unreliable", Message::unreliable(message))]
    {
        let mut pair = Pair::connected(build(config()));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| transfer(&mut pair, &message, MESSAGES));
        });
    }
    group.finish();
}

/// Short messages there and back, a number of them at a time.
fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session/echo of 64 bytes");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    let message = Message::reliable(noise(SMALL));
    for outstanding in [1, 8] {
        let mut pair = Pair::connected(build(config()));
        group.bench_function(BenchmarkId::new("outstanding", outstanding), |bencher| {
            bencher.iter(|| {
                for _ in 0..outstanding {
                    send(&mut pair.client, message.clone());
                }
                let (mut sent, mut received) = (outstanding, 0);
                pair.run(|client, server| {
                    echo(server);
                    let arrived = drain(client);
                    received += arrived;
                    for _ in 0..arrived.min(MESSAGES - sent) {
                        send(client, message.clone());
                        sent += 1;
                    }
                    received == MESSAGES
                });
            });
        });
    }
    group.finish();
}

/// The message so many times from the client to the server, until the last is acknowledged.
fn transfer(pair: &mut Pair, message: &Message, times: usize) {
    for _ in 0..times {
        send(&mut pair.client, message.clone());
    }
    let mut received = 0;
    pair.run(|client, server| {
        received += drain(server);
        received == times && client.is_idle()
    });
}

fn config() -> SessionConfigBuilder {
    SessionConfig::builder("Micro")
}

fn build(config: SessionConfigBuilder) -> SessionConfig {
    config.build().expect("the settings are valid")
}

const KEY: &[u8] = b"0123456789abcdef";
