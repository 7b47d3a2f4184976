//! The binary as its users have it: started with an environment that holds nothing but what the
//! test gives it, watched through its log, ended by signals.
//!
//! Invariant: every wait is bounded, and a daemon is gone with its [`Daemon`].
//!
//! It must not look into the daemon: ports, readiness and drips are read from the log or asked of
//! the admin port.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dripline::demo::origin::Origin;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::support::http1::{self, Response};

/// A start, a command, an answer: milliseconds on an idle machine, a debug build's seconds on a
/// busy one.
const LIMIT: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// What a command that ended has left.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `dripline` with these arguments and variables to its end.
pub async fn dripline(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let mut command = command(args);
    command.envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = within(LIMIT, "dripline's end", command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Outcome { code: code(output.status), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn command(args: &[&str]) -> Command {
    command_of(env!("CARGO_BIN_EXE_dripline"), args)
}

fn command_of(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| panic!("no exit code: {status}"))
}

/// Collects the arguments and the environment of a daemon and starts it.
pub struct Launch {
    program: std::path::PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Launch {
    /// `dripline run` with nothing in its environment.
    pub fn bare() -> Self {
        let program = env!("CARGO_BIN_EXE_dripline").into();
        Self { program, args: vec!["run".into()], env: Vec::new() }
    }

    /// `dripline run` for an origin's bucket, on free ports of loopback, without a wait.
    pub fn in_front_of(origin: &Origin) -> Self {
        Self::bare()
            .env("DRIPLINE__LISTEN", "[{addr: '127.0.0.1:0', tls: {}}, {addr: '127.0.0.1:0'}]")
            .env("DRIPLINE__ADMIN__ADDR", "127.0.0.1:0")
            .env("DRIPLINE__S3__ENDPOINT", &format!("http://{}", origin.addr()))
            .env("S3_BUCKET", &origin.options().bucket)
            // One for all: daemons share a directory.
            .env("DRIPLINE__SPOOL__DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/spool"))
            // A test must not reach a daemon that is installed on this machine.
            .env("DRIPLINE__SERVER__UPGRADE_SOCK", "off")
            .env("TLS_WAIT_TIME", "0")
    }

    /// Starts it by another name, a link to it for example.
    pub fn program(mut self, program: &std::path::Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    /// Removes a variable.
    pub fn without(mut self, name: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self
    }

    /// Adds an argument behind `run`.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts it and waits until /readyz says so.
    pub async fn start(self) -> Daemon {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let mut command = command_of(&self.program, &args);
        let mut child = command.envs(self.env).stderr(Stdio::piped()).spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::clone(&lines);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                log.lock().unwrap().push(line);
            }
        });
        let mut daemon = Daemon { child, lines, reader, http: None, https: None, admin: None };
        daemon.logged("ready: ").await;
        daemon.https = daemon.address("listening on https://");
        daemon.http = daemon.address("listening on http://");
        daemon.admin = daemon.address("health and metrics on http://");
        if daemon.admin.is_some() {
            daemon.until_readyz(200).await;
        }
        daemon
    }
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
    https: Option<SocketAddr>,
    http: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Daemon {
    /// The TLS listener.
    pub fn https(&self) -> SocketAddr {
        self.https.expect("a TLS listener")
    }

    /// The plain listener.
    pub fn http(&self) -> SocketAddr {
        self.http.expect("a plain listener")
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin listener")
    }

    /// The address in the first log line that has `prefix` before it.
    pub fn address(&self, prefix: &str) -> Option<SocketAddr> {
        let lines = self.lines();
        let found = lines.iter().find_map(|line| line.split_once(prefix))?;
        // A quote ends it in a JSON line.
        let addr = found.1.split('"').next()?;
        Some(addr.parse().unwrap_or_else(|e| panic!("{addr}: {e}")))
    }

    /// Asks the admin listener.
    pub async fn ask(&self, path: &str) -> Response {
        within(LIMIT, path, http1::get(self.admin(), path, "Connection: close\r\n")).await
    }

    /// Fetches `/file/<key>` from the plain listener.
    pub async fn fetch(&self, key: &str) -> Response {
        let target = format!("/file/{key}");
        within(LIMIT, &target, http1::get(self.http(), &target, "")).await
    }

    /// Begins to fetch `/file/<key>` from the plain listener.
    pub fn begin_fetch(&self, key: &str) -> JoinHandle<Response> {
        let (addr, target) = (self.http(), format!("/file/{key}"));
        tokio::spawn(async move { within(LIMIT, &target, http1::get(addr, &target, "")).await })
    }

    /// Waits until /readyz has this status; returns what else it said.
    pub async fn until_readyz(&self, status: u16) -> String {
        let start = Instant::now();
        loop {
            let answer = self.ask("/readyz").await;
            if answer.status == status {
                return answer.text();
            }
            assert!(start.elapsed() < LIMIT, "/readyz: {} {}", answer.status, answer.text());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for a log line that contains `part`, and returns the first.
    pub async fn logged(&self, part: &str) -> String {
        self.logged_times(part, 1).await.remove(0)
    }

    /// Waits for `count` log lines that contain `part`, and returns all that do.
    pub async fn logged_times(&self, part: &str, count: usize) -> Vec<String> {
        let start = Instant::now();
        loop {
            let found = self.matching(part);
            if found.len() >= count {
                return found;
            }
            let log = || self.lines().join("\n");
            // After the end of the daemon's stderr no further line can come.
            assert!(!self.reader.is_finished(), "the daemon is gone without {part:?}:\n{}", log());
            assert!(start.elapsed() < LIMIT, "no {part:?} in the log:\n{}", log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// The log lines so far that contain `part`.
    pub fn matching(&self, part: &str) -> Vec<String> {
        self.lines().iter().filter(|line| line.contains(part)).cloned().collect()
    }

    /// The log so far.
    pub fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap()
    }

    /// Sends a signal: `libc::SIGTERM` and so on.
    pub fn signal(&self, signal: i32) {
        let pid = self.child.id().expect("a daemon that runs");
        // SAFETY: kill takes two numbers. The child was not waited for, so its id is still its own.
        let sent = unsafe { libc::kill(pid.cast_signed(), signal) };
        assert_eq!(sent, 0, "signal {signal}: {}", std::io::Error::last_os_error());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("a daemon that runs")
    }

    /// Waits until it ends, which must be within `limit`. Returns the exit code. Its log may go on:
    /// a successor writes to it too.
    pub async fn ended(&mut self, limit: Duration) -> i32 {
        code(within(limit, "the daemon's end", self.child.wait()).await.unwrap())
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends, which must be within `limit`, and for the rest of its log. Returns the
    /// exit code.
    pub async fn exit(&mut self, limit: Duration) -> i32 {
        let status = within(limit, "the daemon's end", self.child.wait()).await.unwrap();
        within(LIMIT, "the end of the log", &mut self.reader).await.unwrap();
        code(status)
    }
}

/// The output of `future`, which must be ready within `limit`.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(limit, future).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// Gives the calling thread, and whatever it starts, a network of its own with nothing but a
/// loopback interface, so that fixed ports are free there. Without the right to do so the thread
/// stays where it is.
pub fn private_network() {
    // SAFETY: unshare takes a number and affects the calling thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return;
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: an ifreq is plain data, for which all zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: SIOCSIFFLAGS reads an ifreq, and this one outlives the call.
    let set = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(set, 0, "loopback: {}", std::io::Error::last_os_error());
}

/// Gives the calling thread, and whatever it starts, an empty /var/cache of its own, so that the
/// machine's stays as it is. False without the right to do so.
pub fn private_cache() -> bool {
    let (none, root, cache) = (c"none", c"/", c"/var/cache");
    // SAFETY: unshare takes a number and affects the calling thread alone; mount reads strings that
    // end in zero and outlive the calls.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                none.as_ptr(),
                root.as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(
                none.as_ptr(),
                cache.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                c"size=16m,mode=755".as_ptr().cast(),
            ) == 0
    }
}
