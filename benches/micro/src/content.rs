//! What the benchmarks carry.

/// Bytes that no codec makes shorter, the same in every run.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8
        })
        .collect()
}

/// Bytes as games send them: small records of which a few fields change, which zlib brings to about a third.
pub(crate) fn records(length: usize) -> Vec<u8> {
    let noise = noise(length);
    let record = |n: usize| [0x21, 0x07, n as u8, 0, 0, 0, noise[n], noise[n / 2], 0x41, 0, 0, 0x80, 0x3f, 0, 1, 0];
    (0..length.div_ceil(16)).flat_map(record).take(length).collect()
}
