//! The sources of a configuration: a file and the environment.

use std::fmt;
use std::path::PathBuf;

/// What a configuration is made from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The YAML file, if there is one.
    pub file: Option<PathBuf>,
    /// A file of `NAME=value` lines. The environment takes precedence over it.
    pub env_file: Option<PathBuf>,
    /// The environment. The process's own is not read anywhere else.
    pub env: Vec<(String, String)>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("env_file", &self.env_file)
            .field("env", &"MASKED")
            .finish()
    }
}
