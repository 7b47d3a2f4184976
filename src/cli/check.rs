//! `dripline check`: the errors and warnings of a configuration, and the bucket's URL. To root it also
//! names the files that the daemon could not read with another account.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use super::args::ConfigArgs;
use super::{EX_CONFIG, complain};
use crate::config::Config;

/// Where the systemd unit's configuration is.
const UNIT: &str = "/etc/dripline";
/// What the unit copies for the service, which sees the copies under this name.
const COPIED: &str = "/etc/dripline/tls";

pub(super) fn main(args: ConfigArgs) -> ExitCode {
    let sources = args.sources();
    match Config::load(&sources) {
        Ok(config) => {
            for warning in &config.warnings {
                println!("warning: {warning}");
            }
            if rustix::process::geteuid().is_root() {
                // Elsewhere the configuration may be a draft.
                let file = sources.file.clone().filter(|file| is_below(file, UNIT));
                let files = file.into_iter().chain(named_files(&config));
                for file in files.filter(|file| !readable_by_others(file)) {
                    println!(
                        "warning: {} cannot be read by every account: if dripline runs with an account of its \
                         own, as under systemd, put certificates and keys into {COPIED} (docs/certificates.md) \
                         and make other files readable",
                        file.display()
                    );
                }
            }
            if let Some(s3) = &config.s3 {
                println!("objects come from {}", s3.endpoint.bucket_url());
            }
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(errors) => {
            complain(&errors);
            EX_CONFIG.into()
        }
    }
}

/// The files that the daemon reads because the configuration names them.
fn named_files(config: &Config) -> Vec<PathBuf> {
    let pairs = config.listen.iter().filter_map(|listener| listener.tls.as_ref());
    let mut files: Vec<_> = pairs
        .flat_map(|tls| &tls.files)
        .flat_map(|(cert, key)| [cert.clone(), key.clone()])
        .collect();
    files.extend(config.s3.as_ref().and_then(|s3| s3.ca.clone()));
    files.extend(config.forward_proxy.as_ref().and_then(|proxy| proxy.ip_ranges.clone()));
    files
}

/// Whether a path, as it is written, leads into a directory. One with `..` in it does not count.
fn is_below(file: &Path, dir: &str) -> bool {
    let climbs = file.components().any(|part| part == Component::ParentDir);
    !climbs && std::path::absolute(file).is_ok_and(|file| file.starts_with(dir))
}

/// Whether an account without any right of its own can read the file, or sees a readable copy. True if
/// that cannot be found out.
fn readable_by_others(file: &Path) -> bool {
    if is_below(file, COPIED) {
        return true;
    }
    let Ok(file) = fs::canonicalize(file) else { return true };
    let permits = |path: &Path, bit| fs::metadata(path).map_or(true, |m| m.mode() & bit != 0);
    permits(&file, 0o004) && file.ancestors().skip(1).all(|dir| permits(dir, 0o001))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_readable_by_others_if_its_directories_let_them_pass() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        fs::write(&file, "").unwrap();
        let modes = |dir_mode, file_mode| {
            fs::set_permissions(&file, Permissions::from_mode(file_mode)).unwrap();
            fs::set_permissions(dir.path(), Permissions::from_mode(dir_mode)).unwrap();
            let readable = readable_by_others(&file);
            fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
            readable
        };
        assert!(modes(0o711, 0o644));
        assert!(!modes(0o711, 0o640));
        assert!(!modes(0o700, 0o644));
        // The unit copies these.
        assert!(readable_by_others(Path::new("/etc/dripline/tls/key.pem")));
    }
}
