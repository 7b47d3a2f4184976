//! `dripline url`: which `/file/` URL a presigned URL becomes.
//!
//! Invariant: what goes to standard output is the URL or the settings alone; warnings go to standard
//! error.

use std::process::ExitCode;
use std::time::SystemTime;

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
    if let Some(warning) = expired(&url, now()) {
        eprintln!("{warning}");
    }
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

#[expect(
    clippy::disallowed_methods,
    reason = "whether a URL has expired is a question of the time"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// What to say of a URL whose signature has ended.
fn expired(url: &PresignedUrl, now: SystemTime) -> Option<String> {
    let end = humantime::format_rfc3339_seconds(url.expired(now)?);
    Some(format!("warning: this URL expired at {end}; S3 answers it with 403"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_expired_url_is_named_as_such() {
        const URL: &str = "https://fw-store.s3.eu-west-1.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIA%2F20250101%2Feu-west-1%2Fs3%2Faws4_request\
            &X-Amz-Date=20250101T000000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=c0ffee";
        let at =
            |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600 + seconds);
        let url = PresignedUrl::parse(URL).unwrap();
        assert_eq!(expired(&url, at(899)), None);
        assert_eq!(
            expired(&url, at(900)).as_deref(),
            Some("warning: this URL expired at 2025-01-01T00:15:00Z; S3 answers it with 403")
        );
        let unsigned =
            PresignedUrl::parse("https://fw-store.s3.eu-west-1.amazonaws.com/k").unwrap();
        assert_eq!(expired(&unsigned, at(900)), None);
    }
}
