//! The signals that a running process reacts to. Used by the daemon and by the demo.

use std::future::pending;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::Stop;

/// The watched signals. Once they are watched, none of them ends the process by itself.
pub(crate) struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hangup: Signal,
    user2: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalRequest {
    /// SIGTERM and SIGQUIT drain, SIGINT (Ctrl-C) stops at once.
    Stop(Stop),
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR2: start a successor, as in other servers.
    Upgrade,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal. No signal is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            Some(()) = self.terminate.recv() => SignalRequest::Stop(Stop::Drain),
            Some(()) = self.quit.recv() => SignalRequest::Stop(Stop::Drain),
            Some(()) = self.interrupt.recv() => SignalRequest::Stop(Stop::Now),
            Some(()) = self.hangup.recv() => SignalRequest::Reload,
            Some(()) = self.user2.recv() => SignalRequest::Upgrade,
            else => pending().await,
        }
    }

    /// The next signal that asks for an end.
    pub(crate) async fn stop(&mut self) -> Stop {
        loop {
            if let SignalRequest::Stop(stop) = self.next().await {
                return stop;
            }
        }
    }
}
