//! `dripline run`: configuration, logger and runtime, then the [daemon](crate::daemon).

use std::process::ExitCode;
use std::time::Duration;

use log::{error, warn};

use super::args::RunArgs;
use super::{EX_CONFIG, EX_OSERR, EX_UNAVAILABLE, complain};
use crate::config::Config;
use crate::{daemon, logging, runtime};

/// How long downloads that were cut off have to write their last log line.
const FINAL_LOG_TIME: Duration = Duration::from_secs(1);

/// Runs the daemon until a signal ends it.
pub(super) fn main(args: RunArgs) -> ExitCode {
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
    let runtime = match runtime::multi_threaded(config.threads) {
        Ok(runtime) => runtime,
        Err(e) => {
            error!("cannot start threads: {e}");
            return EX_OSERR.into();
        }
    };
    let code = match runtime.block_on(daemon::serve(config, sources, args.upgrade)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{e}");
            (if e.is_os() { EX_OSERR } else { EX_UNAVAILABLE }).into()
        }
    };
    runtime.shutdown_timeout(FINAL_LOG_TIME);
    code
}
