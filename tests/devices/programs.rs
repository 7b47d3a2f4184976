//! Other people's TLS clients, as processes: those that `tests/devices/build` made, and those of the
//! machine.
//!
//! Invariant: every run ends, and a program that is not there is a failure, never a skip.
//!
//! It must not know what a test expects of them.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// The slowest of them, with the machine's other tests beside it, takes a few seconds.
const LIMIT: Duration = Duration::from_secs(90);

/// What a program left.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The body in a stdout that is an HTTP response.
    pub fn body(&self) -> Option<&[u8]> {
        let head = self.stdout.windows(4).position(|window| window == b"\r\n\r\n")?;
        Some(&self.stdout[head + 4..])
    }
}

/// Where a program is that `tests/devices/build` made.
pub fn built(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("devices").join(name);
    assert!(path.exists(), "{} is missing: run tests/devices/build", path.display());
    path
}

/// Where a file of `tests/devices` is.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/devices").join(name)
}

/// Runs it to its end. Its stdin gets `input` and stays open: some take its end for their own.
pub async fn run<A: AsRef<std::ffi::OsStr>>(
    program: impl AsRef<Path>,
    args: &[A],
    input: &[u8],
) -> Outcome {
    let program = program.as_ref();
    let mut child = spawn(program, args);
    let mut stdin = child.stdin.take().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = tokio::time::timeout(LIMIT, async {
        // One that ended early reads nothing: its exit code tells.
        let _ = stdin.write_all(input).await;
        let _ = stdin.flush().await;
        let (status, ..) =
            tokio::join!(child.wait(), out.read_to_end(&mut stdout), err.read_to_end(&mut stderr));
        status
    });
    let status = ended.await.unwrap_or_else(|_| panic!("{}: no end", program.display())).unwrap();
    drop(stdin);
    let code = status.code().unwrap_or_else(|| panic!("{}: {status}", program.display()));
    Outcome { code, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

/// The same with a stdin that ends, for a program that reads all of it first.
pub async fn filter<A: AsRef<std::ffi::OsStr>>(
    program: impl AsRef<Path>,
    args: &[A],
    input: String,
) -> Outcome {
    let program = program.as_ref();
    let mut child = spawn(program, args);
    let mut stdin = child.stdin.take().unwrap();
    let feeding = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{}: no end", program.display())).unwrap();
    feeding.await.unwrap().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn spawn<A: AsRef<std::ffi::OsStr>>(program: &Path, args: &[A]) -> Child {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()))
}

/// A file with these bytes, for a program's argument. It goes when it is dropped.
pub fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// The server of `ordinary.py`: records of 16384 bytes for everyone. It ends when this is dropped.
pub struct Ordinary {
    /// Where it listens.
    pub addr: SocketAddr,
    _child: Child,
}

impl Ordinary {
    /// Starts it with a certificate and its key in PEM files, and the one body it has.
    pub async fn start(cert: &Path, key: &Path, body: &Path) -> Self {
        let script = source("ordinary.py");
        let mut child = spawn(&built("python/bin/python"), &[&script, cert, key, body]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        let port: u16 = line.expect("a port").parse().unwrap();
        Self { addr: SocketAddr::from(([127, 0, 0, 1], port)), _child: child }
    }
}
