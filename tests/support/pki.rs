//! Certificates for tests: an authority and what it issues, with keys of either type.

use std::sync::LazyLock;

use dripline::tls::identity::Identity;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};

/// The type of every key of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// P-256.
    Ecdsa,
    /// 2048 bits. Making such a key takes a while, so all authorities share one, and all leaves.
    Rsa,
}

/// An authority that issues certificates.
pub struct Authority {
    kind: Kind,
    key: PKey<Private>,
    cert: X509,
}

impl Authority {
    /// A self-signed authority.
    pub fn new(kind: Kind) -> Self {
        static RSA: LazyLock<PKey<Private>> = LazyLock::new(rsa);
        let key = if kind == Kind::Rsa { RSA.clone() } else { p256() };
        let cert = certificate(&format!("{kind:?} authority"), &key, &[], None);
        Self { kind, key, cert }
    }

    /// The certificate that a client is to trust, PEM.
    pub fn pem(&self) -> Vec<u8> {
        self.cert.to_pem().unwrap()
    }

    /// A leaf for `names`, with the authority's own certificate after it in the chain.
    pub fn issue(&self, names: &[&str]) -> Identity {
        static RSA: LazyLock<PKey<Private>> = LazyLock::new(rsa);
        let key = if self.kind == Kind::Rsa { RSA.clone() } else { p256() };
        let leaf = certificate(names[0], &key, names, Some((&self.cert, &self.key)));
        let chain = [leaf, self.cert.clone()].map(|cert| cert.to_pem().unwrap()).concat();
        Identity::from_pem(&chain, &key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    }
}

fn p256() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn rsa() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

/// A certificate for a host if there are names, else of an authority.
fn certificate(
    subject: &str,
    key: &PKey<Private>,
    names: &[&str],
    issuer: Option<(&X509, &PKey<Private>)>,
) -> X509 {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", subject).unwrap();
    let name = name.build();
    let mut cert = X509::builder().unwrap();
    cert.set_version(2).unwrap();
    cert.set_subject_name(&name).unwrap();
    cert.set_issuer_name(issuer.map_or(&name, |(cert, _)| cert.subject_name())).unwrap();
    cert.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    cert.set_not_after(&Asn1Time::days_from_now(30).unwrap()).unwrap();
    cert.set_pubkey(key).unwrap();
    if names.is_empty() {
        cert.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    } else {
        let mut san = SubjectAlternativeName::new();
        for name in names {
            san.dns(name);
        }
        let context = cert.x509v3_context(None, None);
        let san = san.build(&context).unwrap();
        cert.append_extension(san).unwrap();
    }
    cert.sign(issuer.map_or(key, |(_, key)| key), MessageDigest::sha256()).unwrap();
    cert.build()
}
