//! The CRC as the framing computes it, against the table of one byte at a time that peers use.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use soe_core::Framing;

use crate::content::noise;

const SEED: u32 = 0x5a17_c0de;
const CRC_LENGTH: usize = 4;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc");
    let framing = Framing::new(SEED, CRC_LENGTH as u8, [0, 0], &[None, None]).expect("a CRC of four bytes exists");
    let table = table();
    for length in [64, 510, 1_400] {
        let content = noise(length);
        let mut datagram = content.clone();
        framing.seal(&mut datagram, 0);
        assert_eq!(datagram[length..], byte_wise(&table, SEED, &content).to_be_bytes(), "both are the same checksum");
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("seeded hasher", length), |bencher| {
            bencher.iter(|| framing.verify(black_box(&datagram)));
        });
        group.bench_function(BenchmarkId::new("byte-wise table", length), |bencher| {
            bencher.iter(|| byte_wise(&table, SEED, black_box(&content)));
        });
    }
    group.finish();
}

fn byte_wise(table: &[u32; 256], seed: u32, content: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| table[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    let seeded = seed.to_le_bytes().iter().fold(!0, step);
    !content.iter().fold(seeded, step)
}

fn table() -> [u32; 256] {
    std::array::from_fn(|n| {
        (0..8).fold(n as u32, |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 })
    })
}
