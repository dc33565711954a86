//! What happens to a message before it is cut and bundled: RC4.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use soe_core::Rc4;

use crate::content::noise;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rc4");
    for length in [64, 1_024, 65_536] {
        let mut cipher = Rc4::new(b"0123456789abcdef").expect("16 bytes are a key");
        let mut message = noise(length);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("in place", length), |bencher| {
            bencher.iter(|| cipher.apply(black_box(&mut message)));
        });
    }
    group.bench_function("key schedule", |bencher| bencher.iter(|| Rc4::new(black_box(b"0123456789abcdef"))));
    group.finish();
}
