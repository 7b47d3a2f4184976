//! `dripline demo`: the whole thing on loopback without AWS.

pub mod origin;

/// Runs it until Ctrl-C.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
