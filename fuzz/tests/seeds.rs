//! The seeds that are kept, inputs that once broke something among them, and what is near them.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use longshore_fuzz::{TARGETS, Target};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// So many changes of each seed.
const CHANGES: u64 = 64;

fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<PathBuf> = listed.map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    entries
}

#[test]
fn every_target_has_seeds_and_every_seed_a_target() {
    for target in TARGETS {
        assert!(!entries(&target.seeds()).is_empty(), "{}", target.name);
    }
    for folder in entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")) {
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(Target::named(name).is_some(), "{name}");
    }
}

#[test]
fn the_property_of_each_target_holds_for_its_seeds_and_what_is_near_them() {
    let mut broken = Vec::new();
    for target in TARGETS {
        for seed in entries(&target.seeds()) {
            let bytes = fs::read(&seed).expect("readable");
            let mut random = SmallRng::seed_from_u64(7);
            let near = (0..CHANGES).map(|_| changed(&bytes, &mut random));
            let all: Vec<Vec<u8>> = std::iter::once(bytes.clone()).chain(near).collect();
            // What it says of itself stands before.
            let found = all.iter().find(|bytes| catch_unwind(|| target.check(bytes)).is_err());
            let shown = |bytes: &Vec<u8>| format!("{}: {}", seed.display(), bytes.escape_ascii());
            broken.extend(found.map(shown));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Some bytes changed, taken out or put in, and the end perhaps cut.
fn changed(bytes: &[u8], random: &mut SmallRng) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=changed.len());
        match random.random_range(0..4) {
            0 => changed.insert(at, random.random()),
            1 if at < changed.len() => drop(changed.remove(at)),
            2 if random.random_range(0..4) == 0 => changed.truncate(at),
            _ => changed
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
        }
    }
    changed
}
