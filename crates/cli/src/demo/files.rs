//! The files that the demo moves.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use url::Url;

use crate::CommandError;
use longshore::blob_store::BlobName;

/// A file to move, and what it must be when it arrives.
pub(super) struct Source {
    pub(super) name: BlobName,
    /// How its URL spells the name.
    pub(super) url_path: String,
    pub(super) file: PathBuf,
    pub(super) sha256: [u8; 32],
    pub(super) bytes: u64,
}

/// How many files are made where none are named.
const FILES: usize = 120;
/// Half of them are larger.
const MEDIAN_BYTES: f64 = 160_000.0;

/// Fills `dir` with files whose sizes differ as those of real ones do: log-normal, sigma 1.
/// The same at each call, so that two runs compare.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    let mut random = SmallRng::seed_from_u64(1);
    for number in 1..=FILES {
        let mut content = vec![0; (MEDIAN_BYTES * normal(&mut random).exp()) as usize];
        random.fill_bytes(&mut content);
        std::fs::write(dir.join(format!("{number:03}.bin")), content)?;
    }
    Ok(())
}

/// Standard normal, by Box and Muller.
fn normal(random: &mut SmallRng) -> f64 {
    let (radius, angle): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// The files below `root`; at least one.
pub(super) fn collect(root: &Path) -> Result<Vec<Source>, CommandError> {
    let names = walk(root)?;
    let mut sources = BTreeMap::new();
    for name in names {
        let file = root.join(&name);
        // Links are left out: what they lead to may be anywhere.
        if !std::fs::symlink_metadata(&file).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let name = BlobName::parse(&name)?;
        let (sha256, bytes) = hash(&file)?;
        let mut url = Url::parse("http://localhost/")?;
        url.set_path(name.as_str());
        let url_path = url.path().trim_start_matches('/').to_owned();
        sources.insert(name.as_str().to_owned(), Source { name, url_path, file, sha256, bytes });
    }
    if sources.is_empty() {
        return Err(CommandError::new("there is no file to move; name another folder with --dir"));
    }
    Ok(sources.into_values().collect())
}

fn walk(dir: &Path) -> Result<Vec<String>, CommandError> {
    let mut names = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = dir.join(&folder);
        let entries = std::fs::read_dir(&path).map_err(|error| {
            CommandError::caused(format!("the folder {} cannot be read", path.display()), &error)
        })?;
        for entry in entries {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(name),
                kind if kind.is_file() => names.push(name.to_string_lossy().into_owned()),
                _ => {}
            }
        }
    }
    Ok(names)
}

pub(super) fn hash(path: &Path) -> Result<([u8; 32], u64), CommandError> {
    let mut hasher = Sha256::new();
    let copied =
        std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    let bytes = copied.map_err(|error| {
        CommandError::caused(format!("the file {} cannot be read", path.display()), &error)
    })?;
    Ok((hasher.finalize().into(), bytes))
}
