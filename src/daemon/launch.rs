//! Starts the successor of this process: the same command with `--upgrade`.
//!
//! It is forked twice, so that it is a child of the service manager from the start and not of a process
//! that is about to end: systemd does not notice the end of a main process that is not its child. It
//! inherits this process's cgroup, environment and standard error.

#![expect(unsafe_code, reason = "fork before exec, and what runs between the two")]

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

/// A successor that was started here. It keeps running when this is dropped.
pub(super) struct Launched {
    /// Its process id, for the log.
    pub(super) pid: u32,
    /// None if it has ended already.
    handle: Option<OwnedFd>,
    /// Its standard output, to which it writes nothing; closed when it ends.
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Launched {
    /// Starts the program that this process was started from, as it is now.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(super) async fn start() -> io::Result<Self> {
        let mut args = std::env::args_os();
        let program = args.next().ok_or(io::ErrorKind::NotFound)?;
        let mut args: Vec<OsString> = args.collect();
        if !args.iter().any(|arg| arg == "--upgrade") {
            args.push("--upgrade".into());
        }
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        // It names the process that the watchdog watches, which will be another one.
        command.env_remove("WATCHDOG_PID");
        // SAFETY: between fork and exec only calls that are async-signal-safe are made (fork, _exit,
        // getpid, write), and no memory is allocated.
        unsafe { command.pre_exec(fork_again) };
        let mut between = command.spawn()?;
        let stdout = between.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        between.wait().await?;
        let mut stdout = BufReader::new(stdout).lines();
        let pid = stdout.next_line().await?.and_then(|line| line.parse().ok());
        let pid: i32 = pid.ok_or(io::ErrorKind::UnexpectedEof)?;
        let named = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        // If it has ended already, its id may belong to another process, but ids are not reused so soon.
        let handle = pidfd_open(named, PidfdFlags::empty()).ok();
        Ok(Self { pid: pid.unsigned_abs(), handle, stdout })
    }

    /// Resolves when the successor has ended.
    pub(super) async fn ended(&mut self) {
        while let Ok(Some(_)) = self.stdout.next_line().await {}
    }

    /// Kills the successor.
    pub(super) fn kill(&self) {
        if let Some(handle) = &self.handle {
            // It may have ended already.
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }
}

/// Forks again, in the child between this process and the successor. The child in between writes the
/// successor's process id to its standard output and exits.
fn fork_again() -> io::Result<()> {
    // SAFETY: this process has one thread, and the child goes on to exec.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let mut line = [b'\n'; 12];
            let mut start = line.len() - 1;
            // SAFETY: it takes nothing and cannot fail.
            let mut pid = unsafe { libc::getpid() }.unsigned_abs();
            while pid > 0 {
                start -= 1;
                line[start] = b'0' + (pid % 10) as u8;
                pid /= 10;
            }
            let line = &line[start..];
            // SAFETY: the bytes outlive the call.
            let sent = unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
            if sent == line.len().cast_signed() { Ok(()) } else { Err(io::Error::last_os_error()) }
        }
        // SAFETY: it does not return, and runs nothing of this process's at its exit.
        _ => unsafe { libc::_exit(0) },
    }
}
