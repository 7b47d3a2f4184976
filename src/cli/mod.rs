//! The command line: `run`, `check`, `demo`, `probe`, `url`, `health`. Exit codes are those of
//! sysexits.h.

mod args;

use std::io::{IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use log::{error, warn};

use crate::config::{Config, ConfigErrors, Sources, report_addresses};
use crate::daemon::{self, Failure};
use crate::logging;
use crate::probe::{self, Misfit};
use crate::runtime;
use crate::s3::presigned::PresignedUrl;
use crate::server::StartError;
use crate::units::ByteSize;
use args::{Cli, Command, ConfigArgs, ProbeArgs, RunArgs};

const EX_USAGE: u8 = 64;
const EX_DATAERR: u8 = 65;
const EX_UNAVAILABLE: u8 = 69;
const EX_OSERR: u8 = 71;
const EX_CONFIG: u8 = 78;

/// How long `dripline health` waits for an answer; an orchestrator's own limit is often 5 s.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// How long cut drips get to write their last log line.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl ConfigArgs {
    fn load(self) -> Result<Config, ConfigErrors> {
        Config::load(&self.sources())
    }

    fn sources(self) -> Sources {
        // A variable that is not UTF-8 is none of ours.
        let env = std::env::vars_os();
        let env = env.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Sources { file: self.config, env_file: self.env_file, env: env.collect() }
    }
}

/// Parses the arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    let parsed = command().try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { EX_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run(args) => run(args),
        Command::Check(args) => check(args),
        #[cfg(feature = "demo")]
        Command::Demo => crate::demo::main(),
        Command::Probe(args) => probe(args),
        Command::Url { presigned, base, config } => url(&presigned, &base, config),
        Command::Health(args) => health(args),
    }
}

/// The command line of [`args`], with the parsers of this crate's types.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("probe", |probe| {
        let bytes = |text: &str| text.parse::<ByteSize>().map(ByteSize::bytes);
        probe.mut_arg("fits", |fits| fits.value_parser(bytes))
    })
}

/// Says it on standard error in one write: a successor shares that with the process that started it,
/// and their lines must not mix.
fn complain(what: &impl std::fmt::Display) {
    // If that fails, nobody is there to be told.
    let _ = std::io::stderr().write_all(format!("{what}\n").as_bytes());
}

fn with_config(args: ConfigArgs, command: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match args.load() {
        Ok(config) => command(config),
        Err(errors) => {
            complain(&errors);
            EX_CONFIG.into()
        }
    }
}

fn check(args: ConfigArgs) -> ExitCode {
    with_config(args, |config| {
        for warning in &config.warnings {
            println!("warning: {warning}");
        }
        println!("ok");
        ExitCode::SUCCESS
    })
}

fn run(args: RunArgs) -> ExitCode {
    let sources = args.config.sources();
    let config = match Config::load(&sources) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors);
            return EX_CONFIG.into();
        }
    };
    logging::init(config.log);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    // Every drip is two sockets; the default soft limit of 1,024 is for programs that use select.
    if let Err(e) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!("cannot raise the limit of open files: {e}");
    }
    match runtime::multi_threaded(config.server.threads) {
        Ok(runtime) => {
            let code = match runtime.block_on(daemon::serve(config, sources, args.upgrade)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    error!("{e}");
                    let os = matches!(
                        e,
                        Failure::Signals(_)
                            | Failure::Serve(_)
                            | Failure::Start(StartError::Threads { .. })
                    );
                    (if os { EX_OSERR } else { EX_UNAVAILABLE }).into()
                }
            };
            runtime.shutdown_timeout(LAST_WORDS);
            code
        }
        Err(e) => {
            error!("cannot start threads: {e}");
            EX_OSERR.into()
        }
    }
}

fn probe(args: ProbeArgs) -> ExitCode {
    // A paced server takes its time: someone who waits is told what for.
    let waiting = std::io::stderr().is_terminal();
    let options = probe::Options { url: args.url, ca: args.ca };
    let probed = probe::run_with(&options, &mut |offer| {
        if waiting {
            eprintln!("{offer} …");
        }
    });
    let report = match probed {
        Ok(report) => report,
        Err(e) => {
            eprintln!("{e}");
            return if e.is_usage() { EX_USAGE.into() } else { EX_UNAVAILABLE.into() };
        }
    };
    let fit = args.fits.map(|bytes| (ByteSize::new(bytes), report.fits(bytes)));
    if args.json {
        let mut json = report.to_json();
        json["fits"] = fit.as_ref().map_or(serde_json::Value::Null, |(size, fit)| {
            let misfit = fit.as_ref().err().map(Misfit::to_string);
            serde_json::json!({ "bytes": size.bytes(), "misfit": misfit })
        });
        println!("{json:#}");
    } else {
        print!("{report}");
        match &fit {
            Some((size, Ok(()))) => println!("{size} fits"),
            Some((size, Err(misfit))) => println!("{size} does not fit: {misfit}"),
            None => {}
        }
    }
    match fit {
        Some((_, Err(_))) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn url(presigned: &str, base: &str, args: ConfigArgs) -> ExitCode {
    let url = match PresignedUrl::parse(presigned) {
        Ok(url) => url,
        Err(e) => {
            eprintln!("{e}");
            return EX_DATAERR.into();
        }
    };
    match args.load() {
        Err(errors) => {
            println!("not configured yet; this URL needs:");
            for (key, value) in url.settings() {
                println!("  {key}: {value}");
            }
            if url.is_ambiguous() {
                println!(
                    "  (if the first part of its path is not the bucket, set s3.bucket first)"
                );
            }
            complain(&errors);
            EX_CONFIG.into()
        }
        Ok(Config { s3: None, .. }) => {
            eprintln!("s3.bucket is not configured: there are no /file/ URLs here");
            EX_CONFIG.into()
        }
        Ok(Config { s3: Some(s3), .. }) => match url.check(&s3.endpoint) {
            Ok(path) => {
                println!("{}{path}", base.trim_end_matches('/'));
                if !url.headers().is_empty() {
                    eprintln!("the client must send what was signed: {}", url.headers().join(", "));
                }
                ExitCode::SUCCESS
            }
            Err(mismatch) => {
                eprintln!("{mismatch}");
                EX_DATAERR.into()
            }
        },
    }
}

fn health(args: ConfigArgs) -> ExitCode {
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

fn ask_ready(mut addr: SocketAddr) -> std::io::Result<String> {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_size_may_have_a_unit() {
        let fits = |size| {
            let line = ["dripline", "probe", "https://a.example/", "--fits", size];
            let matches = command().try_get_matches_from(line).map_err(|e| e.to_string())?;
            match Cli::from_arg_matches(&matches).map(|cli| cli.command) {
                Ok(Command::Probe(ProbeArgs { fits, .. })) => Ok(fits),
                _ => Err("not a probe".to_owned()),
            }
        };
        assert_eq!(fits("4KiB"), Ok(Some(4096)));
        let error = fits("4Kb").unwrap_err();
        let first = error.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("error: invalid value '4Kb' for '--fits <BYTES>': `4Kb`"),
            "{first}"
        );
    }
}
