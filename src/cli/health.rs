//! `dripline health`: asks the daemon's `/readyz`.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::args::ConfigArgs;
use super::{EX_CONFIG, EX_UNAVAILABLE, complain};
use crate::config::report_addresses;

/// How long `dripline health` waits for an answer; an orchestrator's own limit is often 5 s.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Prints whether the daemon of this configuration is ready.
pub(super) fn main(args: ConfigArgs) -> ExitCode {
    let (admin, health) = match report_addresses(&args.sources()) {
        Ok(addresses) => addresses,
        Err(errors) => {
            complain(&errors);
            return EX_CONFIG.into();
        }
    };
    let Some(addr) = admin.or(health) else {
        eprintln!("neither admin.addr nor health.addr is configured: there is nobody to ask");
        return EX_CONFIG.into();
    };
    match ask_ready(addr) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            let line = answer.lines().next_back().unwrap_or_default();
            eprintln!("not ready: {line}");
            EX_UNAVAILABLE.into()
        }
        Err(e) => {
            eprintln!("no answer from {addr}: {e}");
            EX_UNAVAILABLE.into()
        }
    }
}

fn ask_ready(mut addr: SocketAddr) -> io::Result<String> {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let mut stream = TcpStream::connect_timeout(&addr, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}
