//! A state folder that was damaged: every file is right at the end, or a word is said and the exit code
//! says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::command::{Folder, files_below};
use crate::web::WebServer;

const FILES: usize = 20;
/// Runs beside each other.
const AT_ONCE: usize = 8;

fn copy(from: &Path, to: &Path) {
    for name in files_below(from) {
        let copied = to.join(&name);
        fs::create_dir_all(copied.parent().unwrap()).unwrap();
        fs::copy(from.join(&name), copied).unwrap();
    }
}

/// Damages a file of the state and tells how.
fn damage(state: &Path, random: &mut SmallRng) -> String {
    let found: Vec<String> = files_below(state).into_iter().collect();
    // The results have most to lose.
    let results = "results".to_owned();
    let name = if random.random() { &results } else { found.choose(random).unwrap() };
    let path = state.join(name);
    let mut bytes = fs::read(&path).unwrap();
    let at = random.random_range(0..bytes.len());
    let what = match random.random_range(0..4) {
        0 => {
            bytes[at] ^= 1 << random.random_range(0..8);
            format!("a bit of byte {at}")
        }
        1 => {
            let end = (at + random.random_range(1..300)).min(bytes.len());
            bytes[at..end].fill_with(|| random.random());
            format!("bytes {at} to {end}")
        }
        2 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        _ => {
            fs::remove_file(&path).unwrap();
            return format!("{name} gone");
        }
    };
    fs::write(&path, bytes).unwrap();
    format!("{name}: {what}")
}

/// Takes away, or cuts, some files of the target.
fn lose_files(target: &Path, names: &[String], random: &mut SmallRng) {
    for _ in 0..3 {
        let path: PathBuf = target.join(names.choose(random).unwrap());
        if random.random() {
            let _may_be_gone = fs::remove_file(path);
        } else if path.exists() {
            fs::write(path, "x").unwrap();
        }
    }
}

/// Damages a copy of what a run left and runs again. Whether that is refused, with a word; otherwise every
/// file is right.
fn is_refused(seed: u64, whole: &Folder, web: &WebServer, names: &[String]) -> bool {
    let mut random = SmallRng::seed_from_u64(seed);
    let folder = Folder::new();
    folder.list(names.iter().map(|name| web.url(name)));
    copy(&whole.target(), &folder.target());
    copy(&whole.state(), &folder.state());
    let what = damage(&folder.state(), &mut random);
    lose_files(&folder.target(), names, &mut random);
    let ended = folder.run();
    if ended.code == Some(0) {
        for name in names {
            assert_eq!(folder.content(name), name.as_bytes(), "seed {seed}, {what}, {name}");
        }
        return false;
    }
    assert!(!ended.stderr.is_empty() && ended.code.is_some(), "seed {seed}, {what}: {ended:?}");
    // A panic is no refusal.
    assert_ne!(ended.code, Some(101), "seed {seed}, {what}: {ended:?}");
    true
}

#[test]
fn damage_to_the_state_never_costs_a_file_without_a_word() {
    let seeds = std::env::var("LONGSHORE_DAMAGES").map_or(24, |seeds| seeds.parse().unwrap());
    let (web, whole) = (WebServer::start(), Folder::new());
    let names: Vec<String> = (0..FILES).map(|number| format!("files/{number}.bin")).collect();
    // One is not there yet, so the state has a dead letter.
    for name in names.iter().filter(|name| **name != names[7]) {
        web.serve(name, name.as_bytes());
    }
    whole.list(names.iter().map(|name| web.url(name)));
    whole.run().expect_code(3);
    web.serve(&names[7], names[7].as_bytes());
    // A run waits for the disk, and for its results to gather, more than it computes.
    let next = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let of_this = || Some(next.fetch_add(1, Relaxed)).filter(|seed| *seed < seeds);
                while let Some(seed) = of_this() {
                    refused.fetch_add(is_refused(seed, &whole, &web, &names).into(), Relaxed);
                }
            });
        }
    });
    let refused = refused.into_inner();
    println!("{seeds} damages: {refused} runs refused, the files of the others are right");
    assert!(refused < seeds / 2, "{refused}");
}
