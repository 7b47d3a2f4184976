//! The configuration: one YAML file and the environment become a [`Config`] that can run, or the
//! list of all errors, each with its key path and what would be right.
//!
//! Invariant: a [`Config`] is valid by construction. Its certificates are read and fit their keys,
//! its numbers are in range, no two listeners want one address. Nothing later checks them again.
//!
//! What the user wrote stays a YAML tree (`file` parses it, `env` lays the environment over it,
//! `section` and `field` read it). One file for each section says what it means, and `assemble` calls
//! them all. Domains own their settings' types and import nothing from here. This room opens files but no
//! socket, and reads no process-wide state.
//!
//! # A new key
//!
//! It takes four places:
//!
//! 1. The domain's `Settings`: a field that says its unit, a line in `Default`, its bounds as a constant.
//! 2. The section's file here: one line that reads it. Without it the `Settings` do not compile.
//! 3. conf/dripline.yaml: the key with its default, its unit and the reason. The tests compare it with
//!    the first two.
//! 4. CHANGELOG.md.
//!
//! A new section also takes a field of [`Config`] and a line in `assemble`. The server and its reload
//! take every [`Config`] apart without `..`, so the compiler then asks what each does with it.

mod assemble;
mod claims;
mod class_uses;
mod drip;
mod env;
mod error;
mod field;
mod file;
mod forward_proxy;
mod limits;
mod listen;
mod listener_tls;
mod log;
mod misnamed;
mod profiles;
mod reader;
mod reports;
mod s3;
mod section;
mod server;
mod shaping;
mod sources;
mod spool;
#[cfg(test)]
mod tests;
mod uploads;
mod upstream;

use std::net::SocketAddr;

use serde_yaml::Mapping;

pub use crate::logging::Format as LogFormat;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use listen::Listener;
pub use listener_tls::ListenerTls;
pub use s3::S3;
pub use sources::Sources;
pub use uploads::Uploads;

use crate::profile::Profiles;
use env::Environment;
use reader::Reader;

/// Everything that `dripline run` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Device listeners; at least one, unless there is a forward proxy.
    pub listen: Vec<Listener>,
    /// The bucket; Some if there is a device listener.
    pub s3: Option<S3>,
    /// How responses are sent.
    pub drip: crate::drip::Settings,
    /// How kinds of devices are served; the default profile is `drip`.
    pub profiles: Profiles,
    /// The spool; None if it is switched off.
    pub spool: Option<crate::spool::Settings>,
    /// Uploads; None if they are switched off.
    pub uploads: Option<Uploads>,
    /// The class tree; None if nothing is shaped.
    pub shaping: Option<crate::shape::Settings>,
    /// The connections to S3.
    pub upstream: crate::s3::upstream::Settings,
    /// The forward proxy; None if there is none.
    pub forward_proxy: Option<crate::forward_proxy::Settings>,
    /// The limits of clients.
    pub limits: crate::limits::Settings,
    /// Metrics and readiness, always on loopback; None if switched off.
    pub admin: Option<SocketAddr>,
    /// Only liveness and readiness, for an orchestrator; None if there is no such listener.
    pub health: Option<SocketAddr>,
    /// How log lines are written.
    pub log: LogFormat,
    /// Threads that serve requests, and as many again that bodies drip on; 0 is one per core.
    pub threads: usize,
    /// How long a drain may take.
    pub drain: crate::lifecycle::Settings,
    /// How the process is upgraded.
    pub upgrade: crate::upgrade::Settings,
    /// Warnings, one sentence each.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the sources. TLS material and the CA file are opened and checked as well.
    ///
    /// # Errors
    ///
    /// Every error of all sources. If a source cannot be read, missing keys are not reported.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::default();
        let (tree, env) = tree(sources, &mut reader);
        misnamed::warn_of_near_names(&env, &tree, &mut reader);
        let config = assemble::config(reader.root(tree), &env);
        misnamed::refuse_unknown(&env, &reader);
        let warnings = reader.finish()?;
        Ok(Self { warnings, ..config.expect("whatever leaves no configuration is reported") })
    }
}

/// The addresses of the admin and the health listener, without checking any other key: a health check
/// may run with fewer variables and files than the daemon.
///
/// # Errors
///
/// Those of `admin` and `health`, and of sources that cannot be read.
pub fn report_addresses(
    sources: &Sources,
) -> Result<(Option<SocketAddr>, Option<SocketAddr>), ConfigErrors> {
    let mut reader = Reader::default();
    let (tree, _) = tree(sources, &mut reader);
    let addresses = assemble::report_addresses(reader.root(tree));
    reader.finish()?;
    Ok(addresses)
}

/// The file's tree with the variables laid over it, and the variables.
fn tree(sources: &Sources, reader: &mut Reader) -> (Mapping, Environment) {
    let mut tree = sources.file.as_deref().map(|path| file::file(path, reader)).unwrap_or_default();
    let env = Environment::gather(sources, reader);
    env.overlay(&mut tree, reader);
    (tree, env)
}
