//! nginx in its three parts: the HTTPS origin of the direct benchmark, a proxy without a cache, and
//! one with `proxy_cache`. Settings that cost or save something have their reason beside them. It
//! must not know what is measured.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::lab::{BUCKET, Lab};
use super::process::{self, End, Proxy, loopback};

/// Starts the origin: an nginx that serves the lab's buckets in path style over HTTPS.
pub async fn start_origin(lab: &Lab) -> Result<Proxy, String> {
    start(lab, "origin", |port| {
        // `localhost` may mean ::1 first. The send buffer is bounded because 1,000 connections of
        // 4 MB each would put the machine under TCP memory pressure, which shrinks what is
        // measured; the timeout is long because a drip takes 40 minutes to read what S3 has.
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok();
        let v6 = if v6 {
            format!("listen [::1]:{port} ssl backlog=4096 sndbuf=64k;")
        } else {
            String::new()
        };
        format!(
            "listen 127.0.0.1:{port} ssl backlog=4096 sndbuf=64k; {v6}
             root {root};
             keepalive_requests 1000000;
             send_timeout 1h;",
            root = lab.origin_root().display(),
        )
    })
    .await
}

/// Starts an nginx proxy that comes as near to the same job as nginx can, with as little memory as
/// it can: small records from the fewest buffers that it accepts (without buffering it ignores
/// `limit_rate`), no temporary file, no pool that is larger than its use. It has no setting for the
/// upstream socket's receive buffer.
pub async fn start_direct(
    lab: &Lab,
    origin_port: u16,
    chunk: usize,
    wait: Duration,
) -> Result<Proxy, String> {
    let rate = (chunk as f64 / wait.as_secs_f64()) as u64;
    start(lab, "nginx", |port| {
        format!(
            "listen 127.0.0.1:{port} ssl backlog=4096;
             ssl_buffer_size {chunk};
             connection_pool_size 256;
             request_pool_size 1k;
             client_header_buffer_size 512;
             large_client_header_buffers 2 4k;
             location /file/ {{
                 proxy_pass https://localhost:{origin_port}/{BUCKET}/;
                 proxy_ssl_trusted_certificate {ca};
                 proxy_ssl_verify on;
                 proxy_ssl_name localhost;
                 proxy_ssl_protocols TLSv1.3;
                 proxy_buffer_size {buffer};
                 proxy_buffers 2 {buffer};
                 proxy_busy_buffers_size {buffer};
                 proxy_read_timeout 1h;
                 proxy_max_temp_file_size 0;
                 limit_rate {rate};
             }}",
            ca = lab.ca().display(),
            buffer = chunk.max(4096), // the response head has to fit
        )
    })
    .await
}

/// The proxy with a cache, as nginx.conf beside this file has it.
const CACHED: &str = include_str!("nginx.conf");

/// Starts nginx with `proxy_cache` before the origin at `origin`, which speaks plain HTTP. Without
/// a wait it sends as fast as it can.
pub async fn start_cached(
    lab: &Lab,
    origin: SocketAddr,
    chunk: usize,
    wait: Duration,
) -> Result<Proxy, String> {
    let pace = match wait.as_millis() {
        // 2 x 32k is the default: fewer reads, and memory is not what counts without a pace.
        0 => "output_buffers 2 32k;".to_owned(),
        // After a record nginx waits for its bytes / limit_rate, in whole ms, and one more.
        wait => format!("output_buffers 1 {chunk}; limit_rate {};", chunk as u128 * 1000 / wait),
    };
    // Its workers would become `nobody`, who may not enter the lab's directory. Only root can say so.
    let root = rustix::process::geteuid().is_root();
    process::tries(async |port| {
        let conf = CACHED
            .replace("@USER@", if root { "user root;" } else { "" })
            .replace("@PORT@", &port.to_string())
            .replace("@CERT@", &lab.cert().display().to_string())
            .replace("@KEY@", &lab.key().display().to_string())
            .replace("@CHUNK@", &chunk.to_string())
            .replace("@PACE@", &pace)
            .replace("@BUCKET@", &format!("http://{origin}/{BUCKET}/"));
        run(lab, "nginx", port, End::Ask, &conf).await
    })
    .await
}

/// One process without a master: less to add up.
const ONE_PROCESS: &str = "master_process off;
    events { worker_connections 16384; }";

/// Starts an nginx whose `server` block says what `server` returns for its port.
async fn start(
    lab: &Lab,
    name: &'static str,
    server: impl Fn(u16) -> String,
) -> Result<Proxy, String> {
    process::tries(async |port| {
        let conf = format!(
            "daemon off; pid nginx.pid; error_log stderr warn;
             {ONE_PROCESS}
             http {{
                 access_log off;
                 default_type application/octet-stream;
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                 server {{
                     ssl_certificate {cert}; ssl_certificate_key {key};
                     ssl_protocols TLSv1.3; ssl_ecdh_curve X25519;
                     ssl_session_cache off; ssl_session_tickets off;
                     {server}
                 }}
             }}",
            cert = lab.cert().display(),
            key = lab.key().display(),
            server = server(port),
        );
        run(lab, name, port, End::Kill, &conf).await
    })
    .await
}

async fn run(
    lab: &Lab,
    name: &'static str,
    port: u16,
    end: End,
    conf: &str,
) -> Result<Proxy, String> {
    let program = process::find("nginx").ok_or("nginx is missing: run benches/install-peers")?;
    let prefix = lab.path(name);
    // One of the same name that ran before has left its cache.
    let _ = std::fs::remove_dir_all(&prefix);
    std::fs::create_dir_all(&prefix).map_err(|error| format!("{}: {error}", prefix.display()))?;
    let path = prefix.join("nginx.conf");
    std::fs::write(&path, conf).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&prefix).arg("-c").arg(&path).arg("-e").arg("stderr");
    let proxy = process::spawn(lab, name, port, end, command)?;
    proxy.started(|_| TcpStream::connect(loopback(port)).is_ok()).await
}
