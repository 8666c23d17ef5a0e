//! A short run of every target, the same one each time.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use landfall_fuzz::mutate::{Numbers, mutate};
use landfall_fuzz::{TARGETS, Target};

/// How many inputs each target gets, unless `LANDFALL_FUZZ_INPUTS` says otherwise.
const INPUTS: u64 = 30_000;

#[cfg(test)]
fn seeds(target: Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target, and shows the bytes when it panics.
#[cfg(test)]
fn run(target: Target, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))) {
        eprintln!("target {}, input in hexadecimal: {}", target.name, hex(bytes));
        resume_unwind(panic);
    }
}

#[cfg(test)]
fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

#[test]
fn no_decoder_is_harmed_by_damaged_bytes() {
    let inputs = env::var("LANDFALL_FUZZ_INPUTS").map_or(INPUTS, |text| text.parse().unwrap());
    for target in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for seed in &seeds {
            run(target, seed);
        }
        for number in 0..inputs {
            run(target, &mutate(&seeds, &mut Numbers::from(number)));
        }
    }
}

#[test]
fn the_seeds_are_read_to_their_ends() {
    use landfall_speaker::nft::decode::{self, Reply};
    use landfall_speaker::nft::{conntrack, watch};
    let seeds = |name: &str| {
        let target = TARGETS.into_iter().find(|target| target.name == name).unwrap();
        seeds(target)
    };
    assert!(seeds("arp").iter().any(|seed| landfall_speaker::l2::arp::decode(seed).is_ok()));
    assert!(seeds("nft_batch").iter().all(|seed| decode::batch(seed).is_ok()));
    let answers: Vec<_> =
        seeds("nft_answers").iter().flat_map(|seed| decode::replies(seed).collect::<Vec<_>>()).collect();
    assert!(answers.iter().any(|reply| matches!(reply, Reply::Table(_))), "{answers:?}");
    assert!(answers.iter().any(|reply| matches!(reply, Reply::Generation(_))), "{answers:?}");
    assert!(answers.iter().any(|reply| matches!(reply, Reply::Ended { errno: 1.., .. })), "{answers:?}");
    assert!(seeds("nft_changes").iter().any(|seed| watch::touches(seed).count() > 10));
    let gone = landfall_fuzz::gone();
    assert!(seeds("conntrack").iter().any(|seed| !conntrack::deletions(seed, &gone).is_empty()));
    assert!(seeds("links").iter().any(|seed| landfall_speaker::link::understands(seed)));
}
