//! Packets to datagrams and back, for the passes that games use, and zlib by level.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use soe_core::framing::{Codec, Framing, ZlibCodec};

use crate::content::{noise, records};

const SEED: u32 = 0x5a17_c0de;
/// The largest packet at udp length 512 with the flag of a codec and a CRC of 2 bytes.
const FULL: usize = 509;

pub(crate) fn bench(criterion: &mut Criterion) {
    let none = framing([0, 0], ZlibCodec::VERSION_3);
    let xor = framing([4, 0], ZlibCodec::VERSION_3);
    let zlib = framing([1, 0], ZlibCodec::VERSION_3);
    for (name, framing, content) in [
        ("none", &none, noise(FULL)),
        ("xor", &xor, noise(FULL)),
        ("zlib, records", &zlib, records(FULL)),
        ("zlib, noise", &zlib, noise(FULL)),
    ] {
        both_ways(criterion, "framing", name, framing, &packet(content));
    }
    for level in [1, 6, 9] {
        let framing = framing([1, 0], ZlibCodec::VERSION_3.with_level(level));
        both_ways(criterion, "zlib", &format!("level {level}"), &framing, &packet(records(FULL)));
    }
}

fn framing(passes: [u8; 2], codec: ZlibCodec) -> Framing {
    Framing::new(SEED, 2, passes, &[Some(Codec::Zlib(codec)), None]).expect("the passes exist")
}

/// Makes the content a packet of reliable channel 0.
fn packet(mut content: Vec<u8>) -> Vec<u8> {
    content[..4].copy_from_slice(&[0, 9, 0, 0]);
    content
}

fn both_ways(criterion: &mut Criterion, group: &str, name: &str, framing: &Framing, packet: &[u8]) {
    let mut datagram = packet.to_vec();
    framing.seal(&mut datagram, 0);
    let opened = framing.open(datagram[..].into()).expect("what was sealed opens");
    assert_eq!(opened, packet);

    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Bytes(packet.len() as u64));
    let mut buf = Vec::with_capacity(2 * packet.len());
    group.bench_function(BenchmarkId::new("seal", name), |bencher| {
        bencher.iter(|| {
            buf.clear();
            buf.extend_from_slice(packet);
            framing.seal(black_box(&mut buf), 0);
        });
    });
    group.bench_function(BenchmarkId::new("open", name), |bencher| {
        bencher.iter_batched(
            || BytesMut::from(&datagram[..]),
            |datagram| framing.open(datagram),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}
