//! What a run needs on disk: a private CA, one server certificate for `localhost`, one random
//! object. All of it lives in a temporary directory that goes with the value. It must not know
//! which programs use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslMethod, SslVersion};
use openssl::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use tempfile::TempDir;

/// The bucket's name, and so the first segment of an object's path at the origin.
pub const BUCKET: &str = "bucket";
/// The object's key.
pub const KEY: &str = "object";

/// The temporary directory and what is in it.
pub struct Lab {
    dir: TempDir,
    object: Arc<[u8]>,
}

impl Lab {
    /// Makes the certificates and an object of `size` random bytes.
    pub fn new(size: usize) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("dripline-bench-").tempdir();
        let dir = dir.map_err(|error| format!("no temporary directory: {error}"))?;
        let mut object = vec![0; size];
        openssl::rand::rand_bytes(&mut object)
            .map_err(|error| format!("no random bytes: {error}"))?;
        let lab = Self { dir, object: object.into() };
        lab.write_certificates().map_err(|error| format!("cannot make certificates: {error}"))?;
        let bucket = lab.origin_root().join(BUCKET);
        fs::create_dir_all(&bucket).map_err(|error| format!("{}: {error}", bucket.display()))?;
        fs::write(bucket.join(KEY), &lab.object)
            .map_err(|error| format!("cannot write the object: {error}"))?;
        Ok(lab)
    }

    /// The object's bytes, shared by every device.
    pub fn object(&self) -> Arc<[u8]> {
        Arc::clone(&self.object)
    }

    /// A path inside the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the origin's buckets are.
    pub fn origin_root(&self) -> PathBuf {
        self.path("origin-root")
    }

    /// The CA that signed the server certificate, in PEM.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The server certificate for `localhost`, in PEM.
    pub fn cert(&self) -> PathBuf {
        self.path("cert.pem")
    }

    /// The server certificate's key, in PEM.
    pub fn key(&self) -> PathBuf {
        self.path("key.pem")
    }

    /// A device's side of TLS: 1.3, X25519, the lab's CA and no other. Read-ahead stays off, so that
    /// OpenSSL asks for a record's header by itself and one read returns one record.
    pub fn connector(&self) -> Result<SslConnector, String> {
        let make = || -> Result<SslConnector, ErrorStack> {
            let mut builder = SslConnector::builder(SslMethod::tls_client())?;
            builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
            builder.set_groups_list("X25519")?;
            builder.set_ca_file(self.ca())?;
            Ok(builder.build())
        };
        make().map_err(|error| format!("no TLS client: {error}"))
    }

    fn write_certificates(&self) -> Result<(), Box<dyn std::error::Error>> {
        let ca_key = p256()?;
        let ca = certificate("dripline benchmark CA", &ca_key, None)?;
        let key = p256()?;
        let cert = certificate("localhost", &key, Some((&ca, &ca_key)))?;
        write(&self.ca(), &ca.to_pem()?)?;
        write(&self.cert(), &cert.to_pem()?)?;
        write(&self.key(), &key.private_key_to_pem_pkcs8()?)?;
        Ok(())
    }
}

fn write(path: &Path, pem: &[u8]) -> std::io::Result<()> {
    fs::write(path, pem)
}

fn p256() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// A certificate for `name`: signed by `issuer`, or a CA of its own without one.
fn certificate(
    name: &str,
    key: &PKey<Private>,
    issuer: Option<(&X509, &PKey<Private>)>,
) -> Result<X509, ErrorStack> {
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
    let subject = subject.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;

    let mut builder = X509::builder()?;
    builder.set_version(2)?; // X.509 v3
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(issuer.map_or(&*subject, |(ca, _)| ca.subject_name()))?;
    builder.set_pubkey(key)?;
    // A day is more than any run, and the file is gone with it.
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(1)?)?;
    match issuer {
        None => {
            builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
            builder.append_extension(KeyUsage::new().critical().key_cert_sign().build()?)?;
        }
        Some((ca, _)) => append_leaf_extensions(&mut builder, ca)?,
    }
    builder.sign(issuer.map_or(key, |(_, ca_key)| ca_key), MessageDigest::sha256())?;
    Ok(builder.build())
}

fn append_leaf_extensions(builder: &mut X509Builder, ca: &X509) -> Result<(), ErrorStack> {
    let names = SubjectAlternativeName::new()
        .dns("localhost")
        .ip("127.0.0.1")
        .build(&builder.x509v3_context(Some(ca), None))?;
    builder.append_extension(names)?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)
}
