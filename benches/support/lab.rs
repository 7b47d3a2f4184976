//! What a run needs: a private CA, one server certificate for `localhost`, random objects. Files
//! live in a temporary directory that goes with the value. It must not know which programs use it.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
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
/// How far each object begins beyond the one before, in the random bytes that all of them share:
/// ten objects take the memory of one, and no byte offset holds the same in two of them. A prime,
/// so that records never coincide.
const STRIDE: usize = 4099;

/// One object: some of the lab's random bytes.
#[derive(Clone)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// What a device asks the proxy for.
    pub target: String,
    random: Arc<[u8]>,
    bytes: Range<usize>,
}

impl Object {
    /// What must come back.
    pub fn body(&self) -> &[u8] {
        &self.random[self.bytes.clone()]
    }

    /// Its first `size` bytes, as an object of their own.
    pub fn beginning(&self, key: &str, size: usize) -> Self {
        Self {
            key: key.to_owned(),
            target: format!("/file/{key}"),
            random: Arc::clone(&self.random),
            bytes: self.bytes.start..self.bytes.start + size.min(self.bytes.len()),
        }
    }

    /// The same, asked for with this query.
    pub fn asked_with(&self, query: &str) -> Self {
        Self { target: format!("{}?{query}", self.target), ..self.clone() }
    }
}

/// The temporary directory and what is in it.
pub struct Lab {
    dir: TempDir,
    objects: Vec<Object>,
}

impl Lab {
    /// Makes the certificates and `count` objects of `size` random bytes each.
    pub fn new(count: usize, size: usize) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("dripline-bench-").tempdir();
        let dir = dir.map_err(|error| format!("no temporary directory: {error}"))?;
        let mut random = vec![0; size + count * STRIDE];
        openssl::rand::rand_bytes(&mut random)
            .map_err(|error| format!("no random bytes: {error}"))?;
        let random: Arc<[u8]> = random.into();
        let object = |number: usize| Object {
            key: format!("object{number}"),
            target: format!("/file/object{number}"),
            random: Arc::clone(&random),
            bytes: number * STRIDE..number * STRIDE + size,
        };
        let lab = Self { dir, objects: (0..count).map(object).collect() };
        lab.write_certificates().map_err(|error| format!("cannot make certificates: {error}"))?;
        Ok(lab)
    }

    /// The objects. They share their bytes.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Writes the objects as files of the bucket, below [`Lab::origin_root`].
    pub fn write_objects(&self) -> Result<(), String> {
        let bucket = self.origin_root().join(BUCKET);
        fs::create_dir_all(&bucket).map_err(|error| format!("{}: {error}", bucket.display()))?;
        for object in &self.objects {
            fs::write(bucket.join(&object.key), object.body())
                .map_err(|error| format!("cannot write an object: {error}"))?;
        }
        Ok(())
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

    /// The server certificate and its key in one file, which is what HAProxy reads.
    pub fn cert_and_key(&self) -> PathBuf {
        self.path("cert-and-key.pem")
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
        fs::write(self.ca(), ca.to_pem()?)?;
        let (cert, key) = (cert.to_pem()?, key.private_key_to_pem_pkcs8()?);
        fs::write(self.cert(), &cert)?;
        fs::write(self.key(), &key)?;
        fs::write(self.cert_and_key(), [cert, key].concat())?;
        Ok(())
    }
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
