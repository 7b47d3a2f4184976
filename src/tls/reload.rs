//! Certificates that change while the daemon runs. They are read again when their files change or on
//! request, and used for new handshakes only.
//!
//! Invariant: running connections keep their certificates, and files that cannot be used change nothing.
//! This file must not know how a certificate is checked or used.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use log::{info, warn};
use openssl::error::ErrorStack;
use openssl::ssl::SslAcceptor;
use tokio::sync::watch;

use super::failure;
use super::identity::{Identity, IdentityError};
use super::listener::{self, Settings};

/// How often the files are checked for changes. Renewal tools replace them days before the old ones expire.
const EVERY: Duration = Duration::from_secs(5);

/// The acceptor of one listener, replaced when its certificates are.
pub struct Reloading {
    /// The key of the configuration that names the certificates, for the log.
    key: String,
    current: ArcSwap<SslAcceptor>,
    material: Mutex<Material>,
}

/// What the acceptor is built from.
#[derive(Clone)]
struct Material {
    identities: Vec<Arc<Identity>>,
    /// Empty if the identities are not from files.
    files: Vec<(PathBuf, PathBuf)>,
    settings: Settings,
    /// The state of the files when they were last read.
    stamps: Vec<Option<Stamp>>,
}

/// Identifies a state of a file, by its time and length. A renewed certificate is a new file, or has a new
/// time.
type Stamp = (SystemTime, u64);

impl Reloading {
    /// The acceptor for `identities`, which were read from `files` (empty if they were not).
    ///
    /// # Errors
    ///
    /// If OpenSSL refuses a setting.
    pub fn new(
        key: String,
        identities: &[Arc<Identity>],
        files: Vec<(PathBuf, PathBuf)>,
        settings: Settings,
    ) -> Result<Self, ErrorStack> {
        let current = ArcSwap::from_pointee(listener::acceptor(identities, &settings)?);
        let (identities, stamps) = (identities.to_vec(), stamps(&files));
        let material = Mutex::new(Material { identities, files, settings, stamps });
        Ok(Self { key, current, material })
    }

    /// The acceptor for the next handshake.
    #[must_use]
    pub fn current(&self) -> Arc<SslAcceptor> {
        self.current.load_full()
    }

    /// Reads the files again, whether they have changed or not. Files that cannot be used are logged and
    /// change nothing.
    pub fn reload(&self) {
        let mut material = self.material();
        if material.files.is_empty() {
            return;
        }
        material.stamps = stamps(&material.files);
        match material.read() {
            Ok((identities, acceptor)) => {
                material.identities = identities;
                self.current.store(Arc::new(acceptor));
                info!("{}: certificates read again, for new connections", self.key);
            }
            Err(e) => warn!("{}: the old certificates stay: {e}", self.key),
        }
    }

    /// Applies a new configuration: `identities` (None: those in use stay), which were read from `files`,
    /// the number of tickets of a client, and whether TLS 1.2 is preferred.
    ///
    /// # Errors
    ///
    /// If OpenSSL refuses a setting; nothing changes then.
    pub fn renew(
        &self,
        identities: Option<&[Arc<Identity>]>,
        files: &[(PathBuf, PathBuf)],
        tickets: u8,
        mfl_prefers_tls12: bool,
    ) -> Result<(), ErrorStack> {
        let mut material = self.material();
        let settings = Settings { tickets, mfl_prefers_tls12, ..material.settings.clone() };
        let identities = identities.map_or_else(|| material.identities.clone(), <[_]>::to_vec);
        let acceptor = listener::acceptor(&identities, &settings)?;
        let (files, stamps) = (files.to_vec(), stamps(files));
        *material = Material { identities, files, settings, stamps };
        self.current.store(Arc::new(acceptor));
        Ok(())
    }

    fn changed(&self) -> bool {
        let material = self.material();
        material.stamps != stamps(&material.files)
    }

    fn material(&self) -> MutexGuard<'_, Material> {
        // Nothing panics while it is held.
        self.material.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reloads when the files change and whenever `asked` changes. Never returns.
    pub async fn watch(self: Arc<Self>, mut asked: watch::Receiver<u64>) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            let due = tokio::select! {
                _ = ticks.tick() => false,
                changed = asked.changed() => changed.is_ok(),
            };
            let this = Arc::clone(&self);
            // Reading files and checking keys would block a thread that drips.
            let work = move || {
                if due || this.changed() {
                    this.reload();
                }
            };
            if tokio::task::spawn_blocking(work).await.is_err() {
                return;
            }
        }
    }
}

impl Material {
    fn read(&self) -> Result<(Vec<Arc<Identity>>, SslAcceptor), ReadError> {
        let mut identities = Vec::new();
        for (cert, key) in &self.files {
            let identity = Identity::from_files(cert, key);
            let named = |e| ReadError::Identity(cert.display().to_string(), e);
            identities.push(Arc::new(identity.map_err(named)?));
        }
        let acceptor = listener::acceptor(&identities, &self.settings)?;
        Ok((identities, acceptor))
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}: {1}")]
    Identity(String, IdentityError),
    #[error("{}", failure::reason(.0).unwrap_or("OpenSSL refuses them"))]
    Tls(#[from] ErrorStack),
}

fn stamps(files: &[(PathBuf, PathBuf)]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().flat_map(|(cert, key)| [stamp(cert), stamp(key)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::record::ChunkSize;

    #[test]
    fn a_new_pair_is_taken_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        let write = |identity: &Identity| {
            std::fs::write(&cert, identity.cert_pem().unwrap()).unwrap();
            std::fs::write(&key, identity.key().private_key_to_pem_pkcs8().unwrap()).unwrap();
        };
        let first = Arc::new(Identity::self_signed(&["one.example"]).unwrap());
        write(&first);
        let settings = Settings {
            cap: Arc::new(|_| ChunkSize::default()),
            tickets: 1,
            mfl_prefers_tls12: true,
        };
        let files = vec![(cert.clone(), key.clone())];
        let reloading = Reloading::new("listen[0].tls".into(), &[first], files, settings).unwrap();
        assert!(!reloading.changed());

        let before = reloading.current();
        write(&Identity::self_signed(&["two.example", "a.longer.name.example"]).unwrap());
        assert!(reloading.changed());
        reloading.reload();
        let second = reloading.current();
        assert!(!Arc::ptr_eq(&before, &second) && !reloading.changed());

        std::fs::write(&cert, "no certificate").unwrap();
        assert!(reloading.changed());
        reloading.reload();
        assert!(Arc::ptr_eq(&second, &reloading.current()));
        std::fs::remove_file(&key).unwrap();
        reloading.reload();
        assert!(Arc::ptr_eq(&second, &reloading.current()));
    }
}
