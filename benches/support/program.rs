//! What every benchmark's `main` does: the runtime, signals, the exit code, the file of figures, and
//! arguments that several of them take. It must not know what is measured.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Runs a benchmark to its end or to a signal, and says what failed. Both ways every destructor runs.
pub fn run(name: &str, benchmark: impl Future<Output = Result<Vec<String>, String>>) -> ExitCode {
    // One worker holds every device, so that it takes no more than one core from the proxy; this
    // thread is another one, and may block on /proc and ss without delaying a device.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                outcome = benchmark => outcome,
                signal = interrupted() => Err(format!("ended by {signal}")),
            }
        }),
        Err(error) => Err(format!("no runtime: {error}")),
    };
    match outcome {
        Ok(failed) if failed.is_empty() => ExitCode::SUCCESS,
        Ok(failed) => {
            failed.iter().for_each(|line| eprintln!("FAILED: {line}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C or a polite kill: both have to reach the destructors.
async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return "a missing signal handler";
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Writes figures to a file.
pub fn write_json(path: &Path, figures: &serde_json::Value) -> Result<(), String> {
    let text = format!("{figures:#}\n");
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// `500ms`, as the configuration writes it.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.strip_suffix("ms").and_then(|number| number.parse().ok()) {
        Some(number) if number > 0 => Ok(Duration::from_millis(number)),
        _ => Err("write whole milliseconds above 0, such as 500ms".to_owned()),
    }
}

/// `NAME=VALUE`.
pub fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
