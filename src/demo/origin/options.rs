//! What an origin is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

/// What an [`Origin`](super::Origin) is to be.
#[derive(Clone)]
pub struct OriginOptions {
    /// Where to listen; port 0 takes a free one. Default 127.0.0.1:0.
    pub listen: SocketAddr,
    /// The only bucket there is.
    pub bucket: String,
    /// The only access key there is.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Whether GET and HEAD are allowed without a signature. Default no.
    pub public: bool,
    /// With `s3.localhost`, a Host of `bucket.s3.localhost` (any port) is virtual-hosted; any
    /// other Host is path style. Without it, every Host is.
    pub virtual_host_suffix: Option<String>,
    /// Certificate chain, leaf first, and key; plain HTTP without.
    pub tls: Option<(Vec<X509>, PKey<Private>)>,
    /// How long every request waits for its answer. Default none.
    pub latency: Duration,
}

impl Default for OriginOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            bucket: "samples".into(),
            access_key: "AKIDEXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            public: false,
            virtual_host_suffix: None,
            tls: None,
            latency: Duration::ZERO,
        }
    }
}
