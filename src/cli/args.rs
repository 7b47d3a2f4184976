//! The command line's definition: names, help texts and the plain values that they take.
//!
//! It stands alone, without any other file of this crate, so that man pages and shell completions
//! can be made from it at build time. What a value means beyond its plain type is checked by the
//! parsers that [`super`] adds.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Serves S3 objects to small devices as small TLS records on an exact schedule.
#[derive(Parser)]
#[command(
    version,
    about,
    max_term_width = 100,
    after_long_help = "Every command exits with 64 if its arguments are wrong. Exit codes are those of sysexits.h."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground, logging to stderr
    ///
    /// SIGTERM and SIGQUIT drain, SIGINT stops at once, SIGHUP reads the configuration again, SIGUSR2
    /// starts a successor that takes over.
    ///
    /// Exit code 0 after a signal or an upgrade ended it, 69 if it cannot listen or take over, 71 if the
    /// system refuses threads, signals or a running socket, 78 if the configuration is wrong.
    #[command(verbatim_doc_comment)]
    Run(RunArgs),
    /// Report every error and warning of a configuration; exit 0 only if it would run
    ///
    /// Reads the files that the configuration names, but opens no socket.
    ///
    /// Exit code 0 if it would run, whatever the warnings, 78 if there is any error.
    #[command(verbatim_doc_comment)]
    Check(ConfigArgs),
    /// Try it without AWS: an embedded S3, sample objects and the proxy, all on loopback
    ///
    /// Exit code 0 after Ctrl-C or SIGTERM ended it, 1 if it cannot start.
    #[command(verbatim_doc_comment)]
    #[cfg(feature = "demo")]
    Demo,
    /// Show what a small device would meet at an HTTPS URL: its records, certificates and pace
    ///
    /// Connects as devices do, in TLS 1.2 and 1.3, offering nothing, max_fragment_length or
    /// record_size_limit. Takes up to 50 s if the server is paced.
    ///
    /// Exit code 0 if all is well, 1 if it does not fit (--fits), 64 if the URL or the file of --ca cannot
    /// be used, 69 if there is no connection or no trust.
    #[command(verbatim_doc_comment)]
    Probe(ProbeArgs),
    /// Print the /file/ URL for a presigned S3 URL, or the setting that it needs
    ///
    /// It checks whether the URL leads to the configured bucket, not whether the signature is right.
    ///
    /// Exit code 0 if the URL is printed, 65 if it is no URL of an object in S3 or leads to another host
    /// or bucket than the configured one, 78 if there is no configuration for it yet; the settings that
    /// it needs are printed then.
    #[command(verbatim_doc_comment)]
    Url {
        /// The presigned URL, in quotes
        presigned: String,
        /// Where devices reach this dripline
        #[arg(long, default_value = "https://localhost:8443", value_name = "URL")]
        base: String,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Ask the local daemon whether it is ready; for a container's HEALTHCHECK
    ///
    /// Asks /readyz at admin.addr, or at health.addr if that alone is configured, for at most 3 s.
    ///
    /// Exit code 0 if it is ready, 69 if it is not or does not answer, 78 if the configuration is wrong or
    /// has neither address.
    #[command(verbatim_doc_comment)]
    Health(ConfigArgs),
}

/// What to probe, and how to say it.
#[derive(Args)]
pub(crate) struct ProbeArgs {
    /// What to fetch, in quotes if it is presigned
    pub(crate) url: String,
    /// Exit with 1 and name the first thing that a device with a buffer of this size cannot take
    #[arg(long, value_name = "BYTES")]
    pub(crate) fits: Option<u64>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Trust the certificates of a PEM file too, beside the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// How the daemon runs.
#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Take the listening sockets over from the running daemon, which then drains
    #[arg(long)]
    pub(crate) upgrade: bool,
}

/// Where the configuration comes from.
#[derive(Args)]
pub(crate) struct ConfigArgs {
    /// The YAML file; without it the environment alone configures
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A file of NAME=value lines; the environment takes precedence over it
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
}
