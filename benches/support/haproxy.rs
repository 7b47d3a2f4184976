//! HAProxy with its cache, as haproxy.cfg beside this file has it. It must not know what is measured.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::lab::{BUCKET, Lab};
use super::process::{self, End, Proxy, loopback};

const CONF: &str = include_str!("haproxy.cfg");
/// What a buffer holds beside a record: `tune.maxrewrite`, and HTX's own description of the content.
const BUFFER_EXTRA: usize = 2048;

/// What HAProxy is told.
pub struct Settings {
    /// The S3, in plain HTTP.
    pub origin: SocketAddr,
    /// Plaintext bytes per record.
    pub chunk: usize,
    /// Time between two records; zero is as fast as it can.
    pub wait: Duration,
    /// Bytes of an object.
    pub object: usize,
    /// Connections at a time.
    pub drips: usize,
}

/// Starts HAProxy. The second address serves the same without a pace, for filling the cache.
pub async fn start(
    lab: &Lab,
    program: &Path,
    settings: &Settings,
) -> Result<(Proxy, SocketAddr), String> {
    let warm = process::free_port()?;
    let proxy = process::tries(async |port| {
        // Per period one record, of which nothing less is worth a system call.
        let pace = format!(
            "filter bwlim-out drip default-limit {limit} default-period {period}ms min-size {chunk}
             http-request set-bandwidth-limit drip if {{ dst_port {port} }}",
            chunk = settings.chunk,
            limit = 2 * settings.chunk,
            period = 2 * settings.wait.as_millis(),
        );
        let pace = std::env::var("BW").map_or(pace.clone(), |bw| format!("filter bwlim-out drip {bw}\n http-request set-bandwidth-limit drip if {{ dst_port {port} }}"));
        let conf = CONF
            .replace("@PORT@", &port.to_string())
            .replace("@WARM@", &warm.to_string())
            .replace("@CERT@", &lab.cert_and_key().display().to_string())
            .replace("@MAXCONN@", &(settings.drips + 256).to_string())
            .replace("@BUFSIZE@", &(settings.chunk + BUFFER_EXTRA).to_string())
            .replace("@CHUNK@", &settings.chunk.to_string())
            .replace("@OBJECT@", &(settings.object + 65_536).to_string())
            .replace("@PACE@", if settings.wait.is_zero() { "" } else { &pace })
            .replace("@BUCKET@", BUCKET)
            .replace("@ORIGIN@", &settings.origin.to_string());
        let path = lab.path("haproxy.cfg");
        std::fs::write(&path, conf).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&path); // -db: in the foreground, one process
        let proxy = process::spawn(lab, "haproxy", port, End::Kill, command)?;
        proxy.started(|_| TcpStream::connect(loopback(port)).is_ok()).await
    });
    Ok((proxy.await?, loopback(warm)))
}

/// A HAProxy that can limit bandwidth: the one that benches/install-peers built, or the system's.
pub fn find(built: &Path) -> Option<PathBuf> {
    let built = built.join("haproxy");
    let found = [built.is_file().then_some(built), process::find("haproxy")];
    found.into_iter().flatten().find(|program| {
        let about = Command::new(program).arg("-vv").output();
        about.is_ok_and(|about| String::from_utf8_lossy(&about.stdout).contains("[BWLIM]"))
    })
}
