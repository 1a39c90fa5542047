//! The files that the demo moves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use url::Url;

use crate::blob_store::BlobName;
use crate::cli::CommandError;

/// A file to move, and what it must be when it arrives.
pub(super) struct Source {
    pub(super) name: BlobName,
    /// How its URL spells the name.
    pub(super) url_path: String,
    pub(super) file: PathBuf,
    pub(super) sha256: [u8; 32],
    pub(super) bytes: u64,
}

/// The files of `dir`, or those git tracks here; at least one.
pub(super) fn collect(dir: Option<&Path>) -> Result<Vec<Source>, CommandError> {
    let (root, names) = match dir {
        Some(dir) => (dir.to_owned(), walk(dir)?),
        None => (PathBuf::from("."), tracked()?),
    };
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
        return Err(CommandError::new("there is no file to move; name a folder with --dir"));
    }
    Ok(sources.into_values().collect())
}

fn tracked() -> Result<Vec<String>, CommandError> {
    let advice = "name the files to move with --dir DIR, or run it in a git checkout";
    let listed = std::process::Command::new("git")
        .args(["ls-files", "-z"])
        .output()
        .map_err(|error| CommandError::caused(format!("git cannot be run; {advice}"), &error))?;
    if !listed.status.success() {
        return Err(CommandError::new(format!("this is no git checkout; {advice}")));
    }
    let names = listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
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
