//! The command line: `args` defines it, each command has a file. Exit codes are those of sysexits.h.
//!
//! A command reads its configuration, calls one room of the crate and prints the result. This
//! room must not know how anything is done.

mod args;
mod check;
mod health;
mod probe;
mod run;
mod url;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::config::{Config, ConfigErrors, Sources};
use crate::units::ByteSize;
use args::{Cli, Command, ConfigArgs};

/// The arguments are wrong.
const EX_USAGE: u8 = 64;
/// The input is wrong: not a presigned URL, or one of another bucket.
const EX_DATAERR: u8 = 65;
/// Another process or server does not answer, or refuses.
const EX_UNAVAILABLE: u8 = 69;
/// The operating system refuses: no threads, no signals, a socket that fails.
const EX_OSERR: u8 = 71;
/// The configuration is wrong or missing.
const EX_CONFIG: u8 = 78;

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
        Command::Run(args) => run::main(args),
        Command::Check(args) => check::main(args),
        #[cfg(feature = "demo")]
        Command::Demo => crate::demo::main(),
        Command::Probe(args) => probe::main(args),
        Command::Url { presigned, base, config } => url::main(&presigned, &base, config),
        Command::Health(args) => health::main(args),
    }
}

/// The command line of [`args`], with the parsers of this crate's types.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("probe", |probe| {
        let bytes = |text: &str| text.parse::<ByteSize>().map(ByteSize::bytes);
        probe.mut_arg("fits", |fits| fits.value_parser(bytes))
    })
}

impl ConfigArgs {
    fn load(self) -> Result<Config, ConfigErrors> {
        Config::load(&self.sources())
    }

    fn sources(self) -> Sources {
        // No variable of dripline's has a value that is not UTF-8; such variables are skipped.
        let env = std::env::vars_os();
        let env = env.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Sources { file: self.config, env_file: self.env_file, env: env.collect() }
    }
}

/// Writes a message to standard error in one call: a successor shares standard error with the process
/// that started it, and their lines must not mix.
fn complain(what: &impl Display) {
    // There is no other place to report a failure of standard error.
    let _ = io::stderr().write_all(format!("{what}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::args::ProbeArgs;
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_lists_its_exit_codes() {
        let line = command();
        assert!(line.get_subcommands().count() >= 5);
        for subcommand in line.get_subcommands() {
            let help = subcommand.clone().render_long_help().to_string();
            assert!(help.contains("Exit code 0 "), "{}: {help}", subcommand.get_name());
        }
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
