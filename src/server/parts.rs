//! Parts of a server that take more than a constructor's call: the connections to S3, the spool, Pingora's
//! settings.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::warn;
use openssl::x509::X509;
use pingora::prelude::fast_timeout;
use pingora_core::server::configuration::ServerConf;

use super::StartError;
use crate::config;
use crate::metrics::Metrics;
use crate::s3::client::Client;
use crate::s3::upstream::{self, Upstream};
use crate::spool::{self, Spool};

/// How connections to S3 are made.
pub(super) fn upstream(
    s3: &config::S3,
    settings: &upstream::Settings,
) -> Result<Upstream, StartError> {
    let ca = s3.ca.as_deref().map(authorities).transpose();
    Ok(Upstream {
        endpoint: s3.endpoint.clone(),
        ca: ca.map_err(|source| StartError::Ca { source })?,
        authorization: s3.authorization,
        settings: *settings,
    })
}

/// The spool, if it is configured and its directory can be used. A server starts without it too, since
/// downloads work all the same.
pub(super) fn spool(
    settings: Option<&spool::Settings>,
    client: Client,
    metrics: &Metrics,
) -> Option<Arc<Spool>> {
    let settings = settings?;
    let open = Spool::open(settings.clone(), client, metrics.spool.clone());
    open.inspect_err(|e| {
        let dir = settings.dir.display();
        warn!("spool.dir: {dir}: {e}; every download goes to S3 directly");
    })
    .ok()
}

/// The certificates of a PEM file.
fn authorities(path: &Path) -> io::Result<Arc<Box<[X509]>>> {
    let pem = std::fs::read(path)?;
    Ok(Arc::new(X509::stack_from_pem(&pem)?.into_boxed_slice()))
}

/// Makes Pingora use tokio's timers, in the whole process. Pingora's own have a thread that wakes every
/// 10 ms, with or without timeouts, and takes a twentieth of the CPU time of 1,000 drips.
pub(super) fn use_tokio_timers() {
    fast_timeout::set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
}

/// Pingora's own settings. They name the system's certificates, which a vendored OpenSSL does not find.
pub(super) fn pingora_conf() -> Arc<ServerConf> {
    let ca_file = openssl_probe::probe().cert_file;
    let ca_file = ca_file.map(|path| path.to_string_lossy().into_owned());
    Arc::new(ServerConf { ca_file, ..ServerConf::default() })
}
