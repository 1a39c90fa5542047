//! Certificates for TLS: an authority of the broker's own, and a server certificate that it signs.
//!
//! ```text
//! <cert dir>/ca.pem   the authority, for clients to trust
//! <cert dir>/ca.key   its key, made once and readable by its owner only
//! ```
//!
//! The server's certificate and key are made anew at every start and stay in memory: the names may
//! have changed, and clients trust the authority, not the certificate.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::EmulatorError;
use super::private;

const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Some clients take no server certificate that is valid for longer.
const SERVER_LIFE: Duration = Duration::days(397);
/// Modes of files.
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;
/// The clock of a client may be behind.
const BACKDATED: Duration = Duration::days(1);

/// What a server needs for TLS, and its clients for trust.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) authority_pem: String,
    /// Where the authority is, when it is in a file.
    pub(super) authority_path: Option<PathBuf>,
    pub(super) server: Arc<ServerConfig>,
}

impl Certificates {
    /// Makes or finds the authority in `folder`, or makes one for this run only, and a certificate
    /// for this machine's own names and `host_names`. Blocks.
    pub(super) fn prepare(
        folder: Option<&Path>,
        host_names: &[String],
    ) -> Result<Self, EmulatorError> {
        let (key, authority_path) = match folder {
            None => (KeyPair::generate().map_err(failed)?, None),
            Some(folder) => (authority_key(folder)?, Some(folder.join("ca.pem"))),
        };
        let params = authority_params(&key);
        let made = params.self_signed(&key).map_err(failed)?.pem();
        let authority_pem = match &authority_path {
            None => made,
            Some(path) => keep_authority(path, made)?,
        };
        let server = server_config(&Issuer::new(params, key), host_names)?;
        Ok(Self { authority_pem, authority_path, server })
    }
}

fn failed(error: rcgen::Error) -> EmulatorError {
    EmulatorError::Certificate { source: Box::new(error) }
}

/// The same for the same key, so that the authority can be known by its key alone.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let id: String = Sha256::digest(key.public_key_raw())[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("longshore emulator {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_LIFE);
    params
}

fn valid_for(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now - BACKDATED + life;
}

/// The key of the folder, which is made if there is none.
fn authority_key(folder: &Path) -> Result<KeyPair, EmulatorError> {
    private::create_folder(folder)
        .map_err(|error| EmulatorError::storage("create", folder, error))?;
    let path = folder.join("ca.key");
    let pem = match private::read_text(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pem = KeyPair::generate().map_err(failed)?.serialize_pem();
            match publish_new(&path, &pem, PRIVATE) {
                Ok(()) => Ok(pem),
                // Another emulator was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    private::read_text(&path)
                }
                Err(error) => return Err(EmulatorError::storage("write", &path, error)),
            }
        }
        read => read,
    };
    let pem = pem.map_err(|error| EmulatorError::storage("read", &path, error))?;
    KeyPair::from_pem(&pem)
        .map_err(|source| EmulatorError::CertificateFile { path, source: Box::new(source) })
}

/// The authority of the folder, which becomes `made` if there is none.
fn keep_authority(path: &Path, made: String) -> Result<String, EmulatorError> {
    let read = || private::read_text(path);
    match read() {
        Ok(pem) => Ok(pem),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match publish_new(path, &made, PUBLIC) {
                Ok(()) => Ok(made),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    read().map_err(|error| EmulatorError::storage("read", path, error))
                }
                Err(error) => Err(EmulatorError::storage("write", path, error)),
            }
        }
        Err(error) => Err(EmulatorError::storage("read", path, error)),
    }
}

/// Writes a file that is not there yet: whole or not at all.
fn publish_new(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let written = create(&temporary, mode)
        .and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::hard_link(&temporary, path));
    let _ = std::fs::remove_file(&temporary);
    written
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options.open(path)
}

fn server_config(
    authority: &Issuer<'_, KeyPair>,
    host_names: &[String],
) -> Result<Arc<ServerConfig>, EmulatorError> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut names = vec![
        "localhost".to_owned(),
        Ipv4Addr::LOCALHOST.to_string(),
        Ipv6Addr::LOCALHOST.to_string(),
    ];
    for name in host_names {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "longshore emulator");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    valid_for(&mut params, SERVER_LIFE);
    let certificate = params.signed_by(&key, authority).map_err(failed)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let tls_failed = |error| EmulatorError::Certificate { source: Box::new(error) };
    // Named on purpose: with two providers compiled in, rustls chooses none by itself.
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(tls_failed)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(tls_failed)?;
    Ok(Arc::new(config))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("certs");
        let first = Certificates::prepare(Some(&folder), &[]).unwrap();
        let second = Certificates::prepare(Some(&folder), &["broker.test".into()]).unwrap();
        assert_eq!(first.authority_pem, second.authority_pem);
        let file = std::fs::read_to_string(first.authority_path.unwrap()).unwrap();
        assert_eq!(file, first.authority_pem);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(folder.join("ca.key")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let mut names: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["ca.key", "ca.pem"]);
    }

    #[test]
    fn a_key_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.key"), "no key").unwrap();
        match Certificates::prepare(Some(dir.path()), &[]) {
            Err(EmulatorError::CertificateFile { path, .. }) => assert!(path.ends_with("ca.key")),
            other => panic!("{other:?}"),
        }
    }
}
