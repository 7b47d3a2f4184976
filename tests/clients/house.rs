//! A house with a forward proxy, and an S3 far away: a local one under Amazon's name for a region, with a
//! certificate of a private authority, where `resolve` leads to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dripline::config::{Config, Sources};
use dripline::demo::origin::{Origin, OriginOptions};
use dripline::server::{Server, Stop};
use dripline::shape::Shaper;
use tokio::task::JoinHandle;

use crate::support::eventually;
use crate::support::pki::{Authority, Kind};
use crate::tools::{BUCKET, Home};

/// S3's name in the region.
pub const SERVICE: &str = "s3.ap-southeast-2.amazonaws.com";

/// All of it, in this process.
pub struct House {
    /// S3.
    pub origin: Origin,
    /// The proxy.
    pub proxy: SocketAddr,
    /// The class tree.
    pub shaper: Arc<Shaper>,
    /// The authority's certificate.
    pub ca: PathBuf,
    /// For whatever files there are.
    pub dir: tempfile::TempDir,
    served: JoinHandle<std::io::Result<usize>>,
}

impl House {
    /// With these classes, in YAML; tunnels feed the one named `bulk`.
    pub async fn new(classes: &str) -> Self {
        let authority = Authority::new(Kind::Ecdsa);
        let bucket = format!("{BUCKET}.{SERVICE}");
        let identity = authority.issue(&[SERVICE, &bucket]);
        let origin = Origin::start(OriginOptions {
            bucket: BUCKET.into(),
            tls: Some((identity.chain().to_vec(), identity.key().clone())),
            virtual_host_suffix: Some(SERVICE.into()),
            ..OriginOptions::default()
        })
        .await
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let s3 = origin.addr();
        let env = [
            ("DRIPLINE__SHAPING__CLASSES", classes.to_owned()),
            ("DRIPLINE__ADMIN__ADDR", "127.0.0.1:0".to_owned()),
            (
                "DRIPLINE__FORWARD_PROXY",
                format!(
                    "{{addr: '127.0.0.1:0', class: bulk, resolve: {{{SERVICE}: '{s3}', {bucket}: '{s3}'}}}}"
                ),
            ),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let config = Config::load(&Sources { env, ..Sources::default() });
        let server = Server::bind(&config.unwrap_or_else(|errors| panic!("{errors}"))).unwrap();
        let proxy = server.forward_proxy_address().unwrap();
        let (state, shaper) = (server.state(), server.shaper().unwrap());
        let served = tokio::spawn(server.run(std::future::pending::<Stop>()));
        eventually(Duration::from_secs(5), || state.lifecycle.is_ready()).await.expect("ready");
        Self { origin, proxy, shaper, ca, dir, served }
    }

    /// A user's home.
    pub fn home(&self) -> Home {
        let dir = self.dir.path().join("home");
        std::fs::create_dir_all(&dir).unwrap();
        let keys = self.origin.options();
        Home::new(&dir, self.proxy, &self.ca, (&keys.access_key, &keys.secret_key))
    }

    /// Bytes that a class has let through.
    pub fn bytes(&self, class: &str) -> u64 {
        let report = self.shaper.report();
        report.iter().find(|one| &*one.name == class).map_or(0, |one| one.bytes)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.served.abort();
    }
}
