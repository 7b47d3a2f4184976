//! The programs of a run: the origin, and the proxy that is measured. Each listens on loopback
//! alone and dies with its value, with the run, and even with a run that is killed. It must not
//! know what is measured.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::lab::{BUCKET, Lab};

/// A program may take this long to answer; a debug build on a busy machine takes a few seconds.
const START: Duration = Duration::from_secs(30);
/// A free port may be taken by somebody else before the program binds it: tries.
const TRIES: usize = 3;

/// What dripline is told.
pub struct Settings<'a> {
    /// Plaintext bytes per record.
    pub chunk: usize,
    /// Time between two records.
    pub wait: Duration,
    /// Further environment variables.
    pub environment: &'a [(String, String)],
}

/// A running program that serves TLS on a loopback port.
pub struct Proxy {
    /// For messages.
    pub name: &'static str,
    /// Its TLS port.
    pub port: u16,
    child: Child,
    log: PathBuf,
}

impl Proxy {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where devices connect.
    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// The last lines that it logged.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Waits until `ready` says so. An early exit is an error that carries the log.
    async fn started(mut self, ready: impl Fn() -> bool) -> Result<Self, String> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended with {status}:\n{}", self.name, self.log_tail()));
            }
            if ready() {
                return Ok(self);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!(
            "{} was not ready within {} s:\n{}",
            self.name,
            START.as_secs(),
            self.log_tail()
        ))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Both can only fail if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts dripline with the environment alone, its one TLS listener on a free port.
pub async fn start_dripline(
    lab: &Lab,
    binary: &Path,
    origin_port: u16,
    settings: &Settings<'_>,
) -> Result<Proxy, String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        let (port, admin) = (free_port()?, free_port()?);
        let listen = serde_json::json!([{
            "addr": loopback(port).to_string(),
            "tls": { "cert": lab.cert(), "key": lab.key() },
        }]);
        let mut command = Command::new(binary);
        command
            .arg("run")
            .env_clear() // a developer's own AWS_REGION must not decide the result
            .env("DRIPLINE__LISTEN", listen.to_string()) // JSON is YAML
            .env("DRIPLINE__S3__ENDPOINT", format!("https://localhost:{origin_port}"))
            .env("DRIPLINE__S3__CA", lab.ca())
            .env("DRIPLINE__ADMIN__ADDR", loopback(admin).to_string())
            .env("S3_BUCKET", BUCKET)
            .env("CHUNK_SIZE", settings.chunk.to_string())
            .env("TLS_WAIT_TIME", settings.wait.as_millis().to_string())
            .envs(settings.environment.iter().map(|(name, value)| (name, value)));
        let proxy = spawn(lab, "dripline", port, command)?;
        match proxy.started(|| is_ready(loopback(admin))).await {
            Ok(proxy) => return Ok(proxy),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Starts the origin: an nginx that serves the lab's buckets in path style over HTTPS.
pub async fn start_origin(lab: &Lab) -> Result<Proxy, String> {
    start_with_conf(lab, "origin", |port| {
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
pub async fn start_nginx(
    lab: &Lab,
    origin_port: u16,
    chunk: usize,
    wait: Duration,
) -> Result<Proxy, String> {
    let rate = (chunk as f64 / wait.as_secs_f64()) as u64;
    start_with_conf(lab, "nginx", |port| {
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

/// Starts an nginx of one process whose `server` block says what `server` returns for its port.
async fn start_with_conf(
    lab: &Lab,
    name: &'static str,
    server: impl Fn(u16) -> String,
) -> Result<Proxy, String> {
    let prefix = lab.path(name);
    std::fs::create_dir_all(&prefix).map_err(|error| format!("{}: {error}", prefix.display()))?;
    let mut last = String::new();
    for _ in 0..TRIES {
        let port = free_port()?;
        let conf = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr warn;
             events {{ worker_connections 16384; }}
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
        let path = prefix.join("nginx.conf");
        std::fs::write(&path, conf).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut command = Command::new(nginx()?);
        command.arg("-p").arg(&prefix).arg("-c").arg(&path).arg("-e").arg("stderr");
        let proxy = spawn(lab, name, port, command)?;
        match proxy.started(|| TcpStream::connect(loopback(port)).is_ok()).await {
            Ok(proxy) => return Ok(proxy),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// nginx's path: Debian keeps it in /usr/sbin, which an ordinary user's PATH may lack.
fn nginx() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join("nginx"))
        .find(|file| file.is_file())
        .ok_or_else(|| "nginx is missing: apt-get install nginx-light".to_owned())
}

fn spawn(lab: &Lab, name: &'static str, port: u16, mut command: Command) -> Result<Proxy, String> {
    let log = lab.path(&format!("{name}.log"));
    let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
    unsafe {
        command.pre_exec(|| {
            // The child ends with the thread that started it, should this process be killed.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let child = command
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
    Ok(Proxy { name, port, child, log })
}

fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(loopback(0)).and_then(|listener| listener.local_addr());
    listener.map(|addr| addr.port()).map_err(|error| format!("no free port: {error}"))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Raises this process's limit of open files as far as it goes, and so that of everything that it
/// starts. It must be at least `needed`.
pub fn allow_open_files(needed: u64) -> Result<(), String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid rlimit and keep no reference to it.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if raised && limit.rlim_cur >= needed {
        return Ok(());
    }
    Err(format!(
        "{needed} open files are needed and {} allowed: raise the hard limit or lower --drips",
        limit.rlim_cur
    ))
}
