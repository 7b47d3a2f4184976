//! `dripline probe`: what a [probe](crate::probe) has seen, printed.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use super::args::ProbeArgs;
use super::{EX_UNAVAILABLE, EX_USAGE};
use crate::probe::{self, Misfit};
use crate::units::ByteSize;

/// Probes a URL and prints what was seen.
pub(super) fn main(args: ProbeArgs) -> ExitCode {
    // A paced server takes up to 50 s: a person at a terminal sees what is being tried.
    let interactive = io::stderr().is_terminal();
    let options = probe::Options { url: args.url, ca: args.ca };
    let probed = probe::run_with(&options, &mut |offer| {
        if interactive {
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
