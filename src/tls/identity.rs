//! What a TLS listener authenticates with: a certificate chain and its private key.
//!
//! Invariant: every [`Identity`] is usable: it was parsed, and its key belongs to its certificate. The
//! key never appears in a message or in `Debug` output. This file must not know who it is for.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};

use super::failure;

/// How long a self-signed certificate is valid, in days. Browsers refuse more than 398.
const SELF_SIGNED_DAYS: u32 = 397;

/// A certificate chain, leaf first, and its private key.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<X509>,
    key: PKey<Private>,
}

impl Identity {
    /// Parses PEM text: the chain, leaf first, and an unencrypted private key.
    ///
    /// # Errors
    ///
    /// If either does not parse, or the key is not the leaf's.
    pub fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = X509::stack_from_pem(cert).map_err(|e| IdentityError::Cert(reason(&e)))?;
        let leaf = chain
            .first()
            .ok_or_else(|| IdentityError::Cert("it holds no PEM certificate".into()))?;
        // An empty passphrase instead of a prompt on the terminal for an encrypted key.
        let key = PKey::private_key_from_pem_callback(key, |_| Ok(0))
            .map_err(|e| IdentityError::Key(reason(&e)))?;
        let public = leaf.public_key().map_err(|e| IdentityError::Cert(reason(&e)))?;
        if !public.public_eq(&key) {
            return Err(IdentityError::Mismatch);
        }
        Ok(Self { chain, key })
    }

    /// Reads and parses two PEM files, which may be the same one.
    ///
    /// # Errors
    ///
    /// As [`Self::from_pem`], and if a file cannot be read.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Self, IdentityError> {
        let cert_pem = std::fs::read(cert)
            .map_err(|source| IdentityError::CertFile { path: cert.into(), source })?;
        let key_pem = std::fs::read(key)
            .map_err(|source| IdentityError::KeyFile { path: key.into(), source })?;
        Self::from_pem(&cert_pem, &key_pem)
    }

    /// A fresh self-signed P-256 certificate for `names`, in memory only. The first name is also
    /// the subject.
    ///
    /// # Errors
    ///
    /// If OpenSSL fails; no value of `names` makes it fail.
    pub fn self_signed(names: &[&str]) -> Result<Self, ErrorStack> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
        let mut subject = X509Name::builder()?;
        subject
            .append_entry_by_nid(Nid::COMMONNAME, names.first().copied().unwrap_or("dripline"))?;
        let subject = subject.build();
        let mut serial = BigNum::new()?;
        serial.rand(127, MsbOption::MAYBE_ZERO, false)?;

        let mut cert = X509::builder()?;
        cert.set_version(2)?; // X.509 v3
        cert.set_serial_number(&*serial.to_asn1_integer()?)?;
        cert.set_subject_name(&subject)?;
        cert.set_issuer_name(&subject)?;
        cert.set_not_before(&*Asn1Time::days_from_now(0)?)?;
        cert.set_not_after(&*Asn1Time::days_from_now(SELF_SIGNED_DAYS)?)?;
        cert.set_pubkey(&key)?;
        let mut san = SubjectAlternativeName::new();
        for name in names {
            match name.parse::<std::net::IpAddr>() {
                Ok(_) => san.ip(name),
                Err(_) => san.dns(name),
            };
        }
        let san = san.build(&cert.x509v3_context(None, None))?;
        cert.append_extension(san)?;
        cert.append_extension(BasicConstraints::new().critical().build()?)?;
        cert.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
        cert.sign(&key, MessageDigest::sha256())?;
        Ok(Self { chain: vec![cert.build()], key })
    }

    /// The chain, leaf first; never empty.
    #[must_use]
    pub fn chain(&self) -> &[X509] {
        &self.chain
    }

    /// The leaf's private key.
    #[must_use]
    pub fn key(&self) -> &PKey<Private> {
        &self.key
    }

    /// Whether the leaf is a certificate for that host name, in lower case: one of its DNS names, or
    /// one with a wildcard for the first label (RFC 6125 §6.4.3).
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        self.all_names().iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest == domain),
            None => name == host,
        })
    }

    /// Whether both certificates have a DNS name in common.
    #[must_use]
    pub fn shares_a_name_with(&self, other: &Self) -> bool {
        let names = other.all_names();
        self.all_names().iter().any(|name| names.contains(name))
    }

    /// Whether the leaf has that host, in lower case, among its names, not counting wildcards.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        self.all_names().iter().any(|name| name == host)
    }

    /// The leaf's DNS names, in lower case.
    fn all_names(&self) -> Vec<String> {
        let names = self.chain[0].subject_alt_names();
        let names = names.iter().flatten().filter_map(|name| name.dnsname());
        names.map(str::to_ascii_lowercase).collect()
    }

    /// The length of the Certificate message that carries the chain, in bytes. Many devices need it to fit
    /// their buffer in one piece. TLS 1.3 (RFC 8446 §4.4.2) needs 1 byte and 2 for each certificate
    /// more than TLS 1.2 (RFC 5246 §7.4.2); this is the larger figure.
    #[must_use]
    pub fn certificate_message(&self) -> usize {
        const HEADER: usize = 4 + 1 + 3; // type and length, context, length of the list
        const EACH: usize = 3 + 2; // length, extensions
        let certificates = self.chain.iter().map(|c| c.to_der().map_or(0, |der| der.len()) + EACH);
        HEADER + certificates.sum::<usize>()
    }

    /// The leaf certificate as PEM, for a client that is to trust it.
    ///
    /// # Errors
    ///
    /// If OpenSSL fails.
    pub fn cert_pem(&self) -> Result<Vec<u8>, ErrorStack> {
        self.chain[0].to_pem()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificates", &self.chain.len())
            .field("key", &"MASKED")
            .finish()
    }
}

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    CertFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificate does not parse.
    #[error("not a PEM certificate chain: {0}")]
    Cert(String),
    /// The key does not parse.
    #[error("not an unencrypted PEM private key: {0}")]
    Key(String),
    /// Key and certificate are not a pair.
    #[error("the key is not the one of the certificate")]
    Mismatch,
}

/// OpenSSL's reason.
fn reason(stack: &ErrorStack) -> String {
    failure::reason(stack).unwrap_or("it does not parse").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> (Vec<u8>, Vec<u8>) {
        let identity = Identity::self_signed(&["localhost", "127.0.0.1", "::1"]).unwrap();
        (identity.cert_pem().unwrap(), identity.key().private_key_to_pem_pkcs8().unwrap())
    }

    #[test]
    fn a_self_signed_identity_reads_back() {
        let (cert, key) = pem();
        let identity = Identity::from_pem(&cert, &key).unwrap();
        let names = identity.chain()[0].subject_alt_names().unwrap();
        assert_eq!(names.len(), 3);
        assert_eq!(names[0].dnsname(), Some("localhost"));
        assert_eq!(names[1].ipaddress(), Some(&[127, 0, 0, 1][..]));
    }

    #[test]
    fn every_error_says_which_part_is_wrong() {
        let (cert, key) = pem();
        let (_, other) = pem();
        let error =
            |cert: &[u8], key: &[u8]| Identity::from_pem(cert, key).unwrap_err().to_string();
        assert_eq!(error(&cert, &other), "the key is not the one of the certificate");
        assert_eq!(error(b"", &key), "not a PEM certificate chain: it holds no PEM certificate");
        assert!(
            error(b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n", &key)
                .starts_with("not a PEM certificate chain: ")
        );
        assert!(error(&cert, b"no key").starts_with("not an unencrypted PEM private key: "));
        let missing =
            Identity::from_files(Path::new("/nonexistent/c"), Path::new("/nonexistent/k"));
        assert_eq!(
            missing.unwrap_err().to_string(),
            "cannot read /nonexistent/c: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn names_match_with_a_wildcard_for_one_label() {
        let identity = Identity::self_signed(&["a.example", "*.B.example"]).unwrap();
        for (host, fits) in [
            ("a.example", true),
            ("x.b.example", true),
            ("b.example", false),
            ("x.y.b.example", false),
            ("x.a.example", false),
            ("", false),
        ] {
            assert_eq!(identity.is_for(host), fits, "{host}");
        }
        let other = Identity::self_signed(&["c.example", "a.example"]).unwrap();
        assert!(identity.shares_a_name_with(&other));
        assert!(!identity.shares_a_name_with(&Identity::self_signed(&["c.example"]).unwrap()));
    }

    #[test]
    fn the_key_is_not_for_the_log() {
        let identity = Identity::self_signed(&["localhost"]).unwrap();
        assert_eq!(format!("{identity:?}"), "Identity { certificates: 1, key: \"MASKED\" }");
    }
}
