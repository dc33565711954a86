//! The fuzz targets without the fuzzer: on their seeds, and on a few thousand inputs made of them.
//!
//! The seeds come from `tests/vectors/vectors.json`: `cargo test --test fuzz_smoke -- --ignored` writes them anew.

#[allow(unreachable_pub, reason = "public where the fuzz targets use it")]
#[path = "../soe-core/fuzz/src/bodies/mod.rs"]
mod bodies;

use std::{collections::BTreeSet, fs, path::PathBuf};

/// Inputs per target beside the seeds.
const MUTATED: u64 = 2_000;

fn seeds(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("soe-core/fuzz/seeds").join(target)
}

fn read_seeds(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(seeds(target)).unwrap_or_else(|error| panic!("the seeds of {target}: {error}"));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

fn scramble(word: &mut u64) -> usize {
    *word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = (*word ^ (*word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^= mixed >> 27;
    (mixed >> 8) as usize
}

/// Damages a seed, or joins two.
fn mutate(word: &mut u64, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[scramble(word) % seeds.len()].clone();
    for _ in 0..1 + scramble(word) % 4 {
        let place = scramble(word) % (bytes.len() + 1);
        match scramble(word) % 5 {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, scramble(word) as u8),
            2 => bytes.extend_from_slice(&seeds[scramble(word) % seeds.len()]),
            _ if place < bytes.len() => bytes[place] ^= 1 << (scramble(word) % 8),
            _ => bytes.push(255),
        }
    }
    bytes
}

#[test]
fn no_target_fails_on_its_seeds_or_what_is_made_of_them() {
    for (name, target) in bodies::ALL {
        let seeds = read_seeds(name);
        assert!(seeds.len() >= 10, "{name} has {} seeds", seeds.len());
        seeds.iter().for_each(|seed| target(seed));
        let mut word = name.len() as u64;
        for n in 0..MUTATED {
            let input = mutate(&mut word, &seeds);
            let failed = std::panic::catch_unwind(|| target(&input)).is_err();
            assert!(!failed, "{name}, input {n}: {input:02x?}");
        }
    }
}

/// The vectors as `(packet, datagram)`, the latter as it stands on the wire.
fn vectors() -> Vec<(Vec<u8>, Vec<u8>)> {
    let text = include_str!("vectors/vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let hex = |value: &serde_json::Value| -> Vec<u8> {
        let text = value.as_str().unwrap_or_default();
        (0..text.len() / 2).filter_map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()).collect()
    };
    let vectors = vectors["dialect_vectors"].as_array().unwrap();
    vectors.iter().map(|vector| (hex(&vector["plain"]), hex(&vector["wire"]))).collect()
}

/// A chunk as the targets read it.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().min(254);
    [&[length as u8][..], &bytes[..length]].concat()
}

#[test]
#[ignore = "writes the seeds of the fuzz targets"]
fn write_the_seeds() {
    let vectors = vectors();
    for (name, _) in bodies::ALL {
        let mut inputs = BTreeSet::new();
        for (n, (packet, datagram)) in vectors.iter().enumerate() {
            let config = (n * 37) as u8;
            let either = if packet.is_empty() { datagram } else { packet };
            inputs.insert(match name {
                "datagram_to_session" => {
                    [&[config, n as u8, 0][..], &chunk(either), &[4], &chunk(datagram), &[6, 30, 5, 40]].concat()
                }
                "datagram_to_endpoint" => [&[config, 0, 3, 0][..], &chunk(datagram), &[4], &chunk(either)].concat(),
                "handshake" => [&[config, config, 40][..], &chunk(datagram)].concat(),
                "fragments" => match either[..] {
                    [0, 9..=16, _, sequence, ref body @ ..] => {
                        [&[config, either[1] - 9, sequence][..], &chunk(body), &[0x84, 1], &chunk(body)].concat()
                    }
                    _ => {
                        [&[config, 4, 0][..], &chunk(&[0, 0, 0, n as u8, 1, 2, 3]), &[4, 1], &chunk(&[1; 40])].concat()
                    }
                },
                "nesting" => [&[config, n as u8 % 12, 0, 0, 0, n as u8][..], either].concat(),
                "inflate" => [&[config][..], datagram.get(1..).unwrap_or_default()].concat(),
                _ => either.clone(),
            });
        }
        let directory = seeds(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        // A few suffice: the fuzzer finds the rest.
        let step = inputs.len().div_ceil(32);
        for (n, input) in inputs.iter().step_by(step.max(1)).enumerate() {
            fs::write(directory.join(format!("{n:02}")), input).unwrap();
        }
    }
}
