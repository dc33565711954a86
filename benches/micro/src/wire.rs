//! The wire format: packets to bytes and back.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use soe_core::{
    ReliableChannel,
    wire::{AcknowledgeAll, Group, Multi, Packet, ReliableData, group},
};

use crate::content::noise;

pub(crate) fn bench(criterion: &mut Criterion) {
    let content = noise(502);
    let channel = ReliableChannel::ZERO;
    let reliable = Packet::Reliable(ReliableData { channel, sequence: 7, payload: &content });
    let acknowledgement = Packet::AcknowledgeAll(AcknowledgeAll { channel, sequence: 7 });
    let mut pieces = Vec::new();
    for _ in 0..7 {
        group::put_element(&mut pieces, &content[..64]);
    }
    // At this length the pieces of a Multi look like the elements of a Group.
    let multi = Packet::Multi(Multi::new(&pieces));
    let elements = Packet::Group(Group::new(&pieces));

    let mut group = criterion.benchmark_group("wire");
    for (name, packet) in [
        ("acknowledgement", acknowledgement),
        ("reliable of 502", reliable),
        ("multi of 7 x 64", multi),
        ("group of 7 x 64", elements),
    ] {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        assert_eq!(Packet::decode(&bytes), Ok(packet));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("decode", name), |bencher| bencher.iter(|| walk(black_box(&bytes))));
        let mut out = Vec::with_capacity(bytes.len());
        group.bench_function(BenchmarkId::new("encode", name), |bencher| {
            bencher.iter(|| {
                out.clear();
                black_box(&packet).encode(black_box(&mut out));
            });
        });
    }
    group.finish();
}

/// Reads a packet and what stands in it; gives the bytes of content.
fn walk(bytes: &[u8]) -> usize {
    match Packet::decode(bytes) {
        Ok(Packet::Multi(multi)) => multi.pieces().flatten().map(<[u8]>::len).sum(),
        Ok(Packet::Group(group)) => group.elements().flatten().map(<[u8]>::len).sum(),
        Ok(Packet::Reliable(reliable)) => reliable.payload.len(),
        _ => 0,
    }
}
