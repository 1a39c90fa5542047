//! Which certificates of servers are taken.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::error::InvalidConfig;
use crate::named_file::{self, MOST_CONFIGURATION_BYTES};

/// What to do about a certificate that is not trusted.
pub(crate) const ADVICE: &str =
    "if an authority of your own signed it, name the file with that authority's certificate";

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
    let pem = named_file::read(path, MOST_CONFIGURATION_BYTES)
        .map_err(|error| refused(format!("it cannot be read: {error}")))?;
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

/// What TLS needs to know. Reads what the system trusts, and blocks.
///
/// # Errors
/// If the system trusts nobody and there is no authority beside it.
pub(super) fn client_config(trust: &Trust) -> Result<ClientConfig, rustls::Error> {
    // Named on purpose: with two providers compiled in, rustls chooses none by itself.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::System => Arc::new(Verifier::new(Arc::clone(&provider))?),
        Trust::SystemAnd(authorities) => Arc::new(Verifier::new_with_extra_roots(
            authorities.iter().cloned(),
            Arc::clone(&provider),
        )?),
        Trust::Anything => Arc::new(TakeAny(Arc::clone(&provider))),
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Takes any certificate, of whoever has its key.
#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
