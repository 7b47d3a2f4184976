//! `dripline url`: which `/file/` URL a presigned URL becomes.

use std::process::ExitCode;

use super::args::ConfigArgs;
use super::{EX_CONFIG, EX_DATAERR, complain};
use crate::config::Config;
use crate::s3::presigned::PresignedUrl;

/// Prints the `/file/` URL, or what has to be configured before there is one.
pub(super) fn main(presigned: &str, base: &str, args: ConfigArgs) -> ExitCode {
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
