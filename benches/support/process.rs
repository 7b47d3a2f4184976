//! The programs of a run, and dripline first of all. Each listens on loopback alone and dies with its
//! value, with the run, and even with a run that is killed. It must not know what is measured.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::lab::{BUCKET, Lab};

/// A program may take this long to answer; a debug build on a busy machine takes a few seconds.
const START: Duration = Duration::from_secs(30);
/// A free port may be taken by somebody else before the program binds it: tries.
const TRIES: usize = 3;
/// A program that is asked to stop its processes may take so long.
const STOP: Duration = Duration::from_secs(5);

/// What a drip is fed from.
pub enum Spool {
    /// S3 itself.
    Off,
    /// Private files in this directory, within 1 GiB.
    On(PathBuf),
}

impl Spool {
    fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Off => vec![("DRIPLINE__SPOOL__MAX_BYTES", "0".to_owned())],
            Self::On(dir) => vec![
                ("DRIPLINE__SPOOL__DIR", dir.display().to_string()),
                ("DRIPLINE__SPOOL__MAX_BYTES", "1GiB".to_owned()),
            ],
        }
    }
}

/// What dripline is told.
pub struct Settings<'a> {
    /// Plaintext bytes per record.
    pub chunk: usize,
    /// Time between two records.
    pub wait: Duration,
    /// What drips are fed from.
    pub spool: Spool,
    /// The origin's URL; HTTPS with the lab's certificate.
    pub origin: String,
    /// Further environment variables.
    pub environment: &'a [(String, String)],
}

/// How a program is ended.
#[derive(Clone, Copy)]
pub enum End {
    /// One process: SIGKILL.
    Kill,
    /// A process with children of its own, which would outlive its SIGKILL: SIGTERM.
    Ask,
}

/// A running program that serves TLS on a loopback port.
pub struct Proxy {
    /// For messages.
    pub name: &'static str,
    /// Its TLS port.
    pub port: u16,
    child: Child,
    end: End,
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

    /// Whether it has logged something that contains `part`.
    pub fn logged(&self, part: &str) -> bool {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(part)
    }

    /// Sends it a signal: `libc::SIGTERM` and so on.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes two numbers, and the child has not been waited for yet, or it takes no
        // signals any more.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    /// Waits until it has ended, for `within` at most; looks every 5 ms. Returns when, and its exit code
    /// (-1 if a signal ended it).
    pub async fn ended(&mut self, within: Duration) -> Result<(Instant, i32), String> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Ok((Instant::now(), status.code().unwrap_or(-1)));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(format!("{} had not ended after {within:?}:\n{}", self.name, self.log_tail()))
    }

    /// Waits until `ready` says so. An early exit is an error that carries the log.
    pub async fn started(mut self, ready: impl Fn(&Self) -> bool) -> Result<Self, String> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended with {status}:\n{}", self.name, self.log_tail()));
            }
            if ready(&self) {
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
        if matches!(self.end, End::Ask) {
            // SAFETY: kill takes two numbers, and the child has not been waited for yet.
            unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
            let deadline = Instant::now() + STOP;
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // Both can only fail if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts dripline with the environment alone, its one TLS listener on a free port.
pub async fn start_dripline(
    lab: &Lab,
    binary: &Path,
    settings: &Settings<'_>,
) -> Result<Proxy, String> {
    tries(async |tls| {
        let ports = Ports { tls, plain: None, admin: free_port()? };
        let command = dripline(lab, binary, settings, ports);
        let proxy = spawn(lab, "dripline", tls, End::Kill, command)?;
        proxy.started(|_| is_ready(loopback(ports.admin))).await
    })
    .await
}

/// Where a dripline listens on loopback.
#[derive(Clone, Copy)]
pub struct Ports {
    /// HTTPS.
    pub tls: u16,
    /// Plain HTTP, if at all.
    pub plain: Option<u16>,
    /// Metrics and readiness.
    pub admin: u16,
}

/// `dripline run`, with the environment alone.
pub fn dripline(lab: &Lab, binary: &Path, settings: &Settings<'_>, ports: Ports) -> Command {
    let mut listen = vec![serde_json::json!({
        "addr": loopback(ports.tls).to_string(),
        "tls": { "cert": lab.cert(), "key": lab.key() },
    })];
    let plain = |port| serde_json::json!({ "addr": loopback(port).to_string() });
    listen.extend(ports.plain.map(plain));
    let mut command = Command::new(binary);
    command
        .arg("run")
        .env_clear() // a developer's own AWS_REGION must not decide the result
        .env("DRIPLINE__LISTEN", serde_json::Value::from(listen).to_string()) // JSON is YAML
        .env("DRIPLINE__S3__ENDPOINT", &settings.origin)
        .env("DRIPLINE__S3__CA", lab.ca())
        .env("DRIPLINE__ADMIN__ADDR", loopback(ports.admin).to_string())
        .env("S3_BUCKET", BUCKET)
        .env("CHUNK_SIZE", settings.chunk.to_string())
        .env("TLS_WAIT_TIME", settings.wait.as_millis().to_string())
        .envs(settings.spool.environment())
        .envs(settings.environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Starts a program on a free port, again if it did not come up: somebody may have taken the port.
pub async fn tries<T>(start: impl AsyncFn(u16) -> Result<T, String>) -> Result<T, String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match start(free_port()?).await {
            Ok(proxy) => return Ok(proxy),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A program's path: Debian keeps daemons in /usr/sbin, which an ordinary user's PATH may lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Starts `command`, which is to listen on `port`. What it says goes into a file of the lab.
pub fn spawn(
    lab: &Lab,
    name: &'static str,
    port: u16,
    end: End,
    mut command: Command,
) -> Result<Proxy, String> {
    let log = lab.path(&format!("{name}.log"));
    let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let signal = match end {
        End::Kill => libc::SIGKILL,
        End::Ask => libc::SIGTERM,
    };
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
    unsafe {
        command.pre_exec(move || {
            // The child ends with the thread that started it, should this process be killed.
            libc::prctl(libc::PR_SET_PDEATHSIG, signal);
            Ok(())
        });
    }
    let child = command
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
    Ok(Proxy { name, port, child, end, log })
}

/// Whether dripline is ready, as its admin port has it.
pub fn is_ready(admin: SocketAddr) -> bool {
    ask(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// One of dripline's counters: `name`, or `name{label="value"}` for one of several.
pub fn counter(admin: SocketAddr, name: &str) -> Result<u64, String> {
    let answer = ask(admin, "/metrics").map_err(|error| format!("metrics: {error}"))?;
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    match line {
        // What never happened is not listed.
        None => Ok(0),
        Some(value) => value.trim().parse().map_err(|_| format!("{name} is {value:?}")),
    }
}

fn ask(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(loopback(0)).and_then(|listener| listener.local_addr());
    listener.map(|addr| addr.port()).map_err(|error| format!("no free port: {error}"))
}

/// An IPv4 loopback address.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Raises this process's limit of open files as far as it goes, and so that of everything that it
/// starts. It must be at least `needed`.
pub fn allow_open_files(needed: u64) -> Result<(), String> {
    let allowed = rlimit::increase_nofile_limit(u64::MAX);
    let allowed = allowed.map_err(|error| format!("cannot raise the limit of files: {error}"))?;
    if allowed >= needed {
        return Ok(());
    }
    Err(format!(
        "{needed} open files are needed and {allowed} allowed: raise the hard limit or lower --drips"
    ))
}
