//! The loop that one would write by hand: the files of a list, ten at once, each under a temporary name,
//! hashed, flushed and renamed; with the sums that the command has of each, SHA-256 and CRC-64/NVME.
//! `scripts/compare` measures the command beside it. It remembers nothing, tries nothing again and trusts every
//! URL.
//!
//! `cargo run --release --example plain_loop -- LIST FOLDER [AT-ONCE]`

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, Digest as Crc};
use futures::StreamExt;
use reqwest::Client;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use url::Url;

type Failed = Box<dyn Error + Send + Sync>;

/// What is collected before it is written.
const CHUNK_BYTES: usize = 256 * 1024;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let (Some(list), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("plain_loop LIST FOLDER [AT-ONCE]".into());
    };
    let at_once = arguments.next().map_or(Ok(10), |number| number.parse())?;
    let folder = PathBuf::from(folder);
    let partial = folder.join(".partial");
    fs::create_dir_all(&partial)?;
    let client = Client::new();
    let urls: Vec<Url> =
        fs::read_to_string(list)?.lines().map(Url::parse).collect::<Result<_, _>>()?;
    let downloads = urls.into_iter().enumerate().map(|(number, url)| {
        let (client, target) = (client.clone(), folder.join(url.path().trim_start_matches('/')));
        let partial = partial.join(number.to_string());
        // A task for each, so that both cores hash.
        async move { tokio::spawn(download(client, url, partial, target)).await? }
    });
    let mut results = futures::stream::iter(downloads).buffer_unordered(at_once);
    let mut hashes = 0_u64;
    while let Some(sums) = results.next().await {
        let (crc64, sha256) = sums?;
        hashes ^= crc64 ^ u64::from(sha256[0]);
    }
    fs::remove_dir_all(folder.join(".partial"))?;
    println!("{hashes:016x}");
    Ok(())
}

async fn download(
    client: Client,
    url: Url,
    partial: PathBuf,
    target: PathBuf,
) -> Result<(u64, [u8; 32]), Failed> {
    let mut response = client.get(url).send().await?.error_for_status()?;
    let (mut crc, mut hasher) = (Crc::new(CrcAlgorithm::Crc64Nvme), Sha256::new());
    let (mut file, mut buffer) = (None, Vec::new());
    while let Some(chunk) = response.chunk().await? {
        crc.update(&chunk);
        hasher.update(&chunk);
        buffer.extend_from_slice(&chunk);
        if buffer.len() >= CHUNK_BYTES {
            let (opened, partial) = (file.take(), partial.clone());
            let written = move || {
                let mut file = opened.map_or_else(|| File::create(&partial), Ok)?;
                file.write_all(&buffer)?;
                buffer.clear();
                Ok::<_, std::io::Error>((file, buffer))
            };
            let (opened, emptied) = spawn_blocking(written).await??;
            (file, buffer) = (Some(opened), emptied);
        }
    }
    let commit = move || {
        let mut file = file.map_or_else(|| File::create(&partial), Ok)?;
        file.write_all(&buffer)?;
        file.sync_all()?;
        fs::create_dir_all(target.parent().unwrap_or(Path::new(".")))?;
        fs::rename(&partial, &target)
    };
    spawn_blocking(commit).await??;
    Ok((crc.finalize(), hasher.finalize().into()))
}
