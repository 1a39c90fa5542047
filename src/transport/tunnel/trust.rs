//! Which certificates of servers are taken.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::InvalidConfig;

/// Which certificates of servers are taken.
#[derive(Clone, Default)]
pub(crate) enum Trust {
    /// Those of authorities that the system trusts.
    #[default]
    System,
    /// Those, and the ones of these authorities.
    SystemAnd(Arc<[CertificateDer<'static>]>),
    /// Any: whoever is on the way can read and change everything.
    Anything,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::SystemAnd(authorities) => {
                f.debug_tuple("SystemAnd").field(&authorities.len()).finish()
            }
            Self::Anything => f.write_str("Anything"),
        }
    }
}

/// The certificates of a PEM file. What else is in it is ignored.
pub(crate) fn read_authorities(
    path: &Path,
) -> Result<Arc<[CertificateDer<'static>]>, InvalidConfig> {
    let refused =
        |bound: String| InvalidConfig::new("certificate_authority_file", path.display(), bound);
    let damaged = |number: usize, why: &dyn fmt::Display| {
        refused(format!("certificate {number} in it is damaged: {why}"))
    };
    let pem =
        std::fs::read(path).map_err(|error| refused(format!("it cannot be read: {error}")))?;
    let mut authorities = Vec::new();
    // The store is a judge here: it takes what can be an authority.
    let mut store = RootCertStore::empty();
    for (at, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let certificate = certificate.map_err(|error| damaged(at + 1, &error))?;
        store.add(certificate.clone()).map_err(|error| damaged(at + 1, &error))?;
        authorities.push(certificate);
    }
    if authorities.is_empty() {
        return Err(refused(
            "there is no certificate in it; it must be PEM, with -----BEGIN CERTIFICATE-----"
                .to_owned(),
        ));
    }
    Ok(authorities.into())
}
