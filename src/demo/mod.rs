//! `dripline demo`: the server on loopback, without AWS.
//!
//! It starts an embedded S3 with sample objects and, in front of it, the real server with a real
//! configuration and a self-signed certificate.
//!
//! Invariant: Ctrl-C ends it and leaves nothing behind; all files are in a directory that is removed.

pub mod origin;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{Config, Sources};
use crate::daemon::signals::Signals;
use crate::logging;
use crate::runtime;
use crate::server::{Server, Stop};
use crate::tls::identity::Identity;
use crate::transfers::Live;
use origin::{Origin, OriginOptions};

/// Where the daemon listens when nothing is configured; the demo takes the next free port.
const HTTPS_PORT: u16 = 8443;

/// How many ports after [`HTTPS_PORT`] are tried.
const PORTS: u16 = 100;

/// How often running drips are shown.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// How long the presigned URL is valid.
const PRESIGNED_FOR: Duration = Duration::from_secs(3600);

/// Why the demo cannot start, in one sentence.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the demo until Ctrl-C or SIGTERM.
pub fn main() -> ExitCode {
    logging::init(logging::Format::Text);
    let done = runtime::multi_threaded(0)
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(demo()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("the demo cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let options = OriginOptions { public: true, ..OriginOptions::default() };
    let bucket = options.bucket.clone();
    let origin = Origin::start(options).await?;
    for (key, content_type, body) in samples() {
        origin.put(key, body, content_type).await?;
    }
    let files = tempfile::Builder::new().prefix("dripline-demo-").tempdir()?;
    let identity = Identity::self_signed(&["localhost", "127.0.0.1", "::1"])?;
    let cert = files.path().join("cert.pem");
    std::fs::write(&cert, identity.cert_pem()?)?;

    let config = Config::load(&Sources {
        env: environment(&identity, &bucket, origin.addr(), &files.path().join("spool"))?,
        ..Sources::default()
    })?;
    let server = Server::bind(&config)?;
    let port = server.addresses()[0].port();
    let admin = server.admin_address();
    let transfers = server.state().transfers;
    explain(&mut io::stderr(), &origin, port, admin, &cert)?;
    let shown = tokio::spawn(show(transfers));
    server
        .run(async move {
            signals.stop().await;
            Stop::Now
        })
        .await?;
    shown.abort();
    Ok(())
}

/// The sample objects: a small text, a binary that takes a while, and an awkward name.
fn samples() -> [(&'static str, &'static str, Vec<u8>); 3] {
    let lines =
        (1..=400).map(|n| format!("{n:>4}  drip after drip, each in a record of its own\n"));
    let firmware = (0..1u64 << 20).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8);
    [
        ("hello.txt", "text/plain; charset=utf-8", lines.collect::<String>().into_bytes()),
        ("firmware/v1.bin", "application/octet-stream", firmware.collect()),
        ("a b+ü.txt", "text/plain; charset=utf-8", "spaces, plus and unicode\n".into()),
    ]
}

/// The configuration, in the environment as for a container.
fn environment(
    identity: &Identity,
    bucket: &str,
    origin: SocketAddr,
    spool: &Path,
) -> Result<Vec<(String, String)>, Failure> {
    let key = String::from_utf8(identity.key().private_key_to_pem_pkcs8()?)?;
    let listen = format!("[{{addr: '127.0.0.1:{}', tls: {{}}}}]", free_port());
    let settings = [
        ("S3_BUCKET", bucket.to_owned()),
        ("DRIPLINE__S3__ENDPOINT", format!("http://{origin}")),
        ("DRIPLINE__LISTEN", listen),
        ("DRIPLINE__ADMIN__ADDR", "127.0.0.1:0".to_owned()),
        ("DRIPLINE__SPOOL__DIR", spool.display().to_string()),
        ("DRIPLINE_TLS_CERT_PEM", String::from_utf8(identity.cert_pem()?)?),
        ("DRIPLINE_TLS_KEY_PEM", key),
    ];
    Ok(settings.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// The first free port from [`HTTPS_PORT`] on, or 0 for any.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (HTTPS_PORT..HTTPS_PORT + PORTS).find(free).unwrap_or(0)
}

/// Prints what to try.
fn explain(
    out: &mut impl Write,
    origin: &Origin,
    port: u16,
    admin: Option<SocketAddr>,
    cert: &Path,
) -> io::Result<()> {
    let base = format!("https://localhost:{port}/file");
    let curl = format!("curl --cacert {}", cert.display());
    let presigned = origin.presign("firmware/v1.bin").expires(PRESIGNED_FOR);
    let (key, query) = (presigned.escaped_key(), presigned.signed_query());
    writeln!(out, "\ndripline demo: an embedded S3, and dripline in front of it at {base}/…")?;
    writeln!(out, "Records of 4096 bytes, one every 500 ms. Try, in another terminal:\n")?;
    writeln!(out, "  {curl} -N {base}/hello.txt")?;
    writeln!(out, "  {curl} -o v1.bin {base}/firmware/v1.bin")?;
    writeln!(out, "  {curl} -r 1000-1099 {base}/firmware/v1.bin | xxd")?;
    writeln!(out, "  {curl} '{base}/a%20b%2B%C3%BC.txt'")?;
    writeln!(out, "\nThe same with a presigned URL, which S3 checks (change a character: 403):\n")?;
    writeln!(out, "  {curl} -o v1.bin '{base}/{key}?{query}'")?;
    writeln!(out, "\nOr open {base}/hello.txt in a browser (it will warn of the certificate).")?;
    if let Some(admin) = admin {
        writeln!(out, "Metrics: http://{admin}/metrics")?;
    }
    writeln!(out, "Running drips are shown here. Ctrl-C ends it and leaves nothing behind.\n")
}

/// Shows the running drips, one line each, once a second. Never returns.
#[expect(clippy::disallowed_methods, reason = "the elapsed time of a drip is shown")]
async fn show(transfers: Live) {
    let mut ticks = tokio::time::interval(SHOW_EVERY);
    loop {
        ticks.tick().await;
        for drip in transfers.running() {
            eprintln!("{}", line(drip.bytes(), drip.total, drip.name(), drip.began.elapsed()));
        }
    }
}

fn line(bytes: u64, total: Option<u64>, key: &str, elapsed: Duration) -> String {
    let bar = total.filter(|total| *total > 0).map_or_else(String::new, |total| {
        let percent = bytes.saturating_mul(100) / total;
        let full = usize::try_from(percent / 5).unwrap_or(20).min(20);
        format!("[{}{}] {percent:>3} % ", "=".repeat(full), " ".repeat(20 - full))
    });
    let total = total.map_or_else(|| "?".to_owned(), |total| total.to_string());
    format!("  drip {bar}{bytes} of {total} bytes in {:.1} s  {key}", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_how_far_a_drip_is() {
        let half = line(512, Some(1024), "fw.bin", Duration::from_secs(1));
        assert_eq!(half, "  drip [==========          ]  50 % 512 of 1024 bytes in 1.0 s  fw.bin");
        let unknown = line(0, None, "fw.bin", Duration::ZERO);
        assert!(unknown.starts_with("  drip 0 of ? bytes"), "{unknown}");
    }
}
