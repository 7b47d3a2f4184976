//! Common S3 tools with their default settings: only the credentials, the region, the proxy and the
//! authority are set.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The region that all of them are told.
pub const REGION: &str = "ap-southeast-2";
/// The bucket.
pub const BUCKET: &str = "samples";

/// A tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// aws CLI v1, of PyPI.
    AwsV1,
    /// aws CLI v2, of Debian.
    AwsV2,
    /// rclone, of Debian.
    Rclone,
    /// s3cmd, of Debian. It knows no HTTPS_PROXY: its own file names the proxy.
    S3cmd,
    /// boto3, of PyPI.
    Boto3,
}

/// A transfer that a tool makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// One file to S3.
    CopyIn,
    /// One object from S3.
    CopyOut,
    /// A directory to S3.
    SyncIn,
    /// All objects below a prefix from S3.
    SyncOut,
}

impl Tool {
    /// All of them.
    #[allow(dead_code, reason = "the test names each")]
    pub const ALL: [Self; 5] = [Self::AwsV1, Self::AwsV2, Self::Rclone, Self::S3cmd, Self::Boto3];
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AwsV1 => "aws CLI v1",
            Self::AwsV2 => "aws CLI v2",
            Self::Rclone => "rclone",
            Self::S3cmd => "s3cmd",
            Self::Boto3 => "boto3",
        })
    }
}

impl Job {
    /// Ordered so that each job finds what the jobs before it have left.
    pub const ALL: [Self; 4] = [Self::CopyIn, Self::CopyOut, Self::SyncIn, Self::SyncOut];
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CopyIn => "cp in",
            Self::CopyOut => "cp out",
            Self::SyncIn => "sync in",
            Self::SyncOut => "sync out",
        })
    }
}

/// A user's machine: the address of the proxy, and the user's configuration files.
pub struct Home {
    dir: PathBuf,
    proxy: SocketAddr,
    ca: PathBuf,
    keys: (String, String),
}

impl Home {
    /// A home in that directory, which is there and empty.
    pub fn new(dir: &Path, proxy: SocketAddr, ca: &Path, keys: (&str, &str)) -> Self {
        let keys = (keys.0.to_owned(), keys.1.to_owned());
        let home = Self { dir: dir.to_owned(), proxy, ca: ca.to_owned(), keys };
        let s3cfg = format!(
            "[default]\naccess_key = {}\nsecret_key = {}\nhost_base = s3.{REGION}.amazonaws.com\n\
             host_bucket = %(bucket)s.s3.{REGION}.amazonaws.com\nbucket_location = {REGION}\n\
             ca_certs_file = {}\nproxy_host = {}\nproxy_port = {}\n",
            home.keys.0,
            home.keys.1,
            home.ca.display(),
            proxy.ip(),
            proxy.port(),
        );
        std::fs::write(dir.join(".s3cfg"), s3cfg).unwrap();
        home.set_aws("");
        home
    }

    /// Writes aws CLI's configuration: these lines below `[default]`.
    pub fn set_aws(&self, lines: &str) {
        std::fs::create_dir_all(self.dir.join(".aws")).unwrap();
        std::fs::write(self.dir.join(".aws/config"), format!("[default]\n{lines}")).unwrap();
    }

    /// Runs a tool to its end. It must succeed.
    pub async fn run(&self, tool: Tool, job: Job, local: &Path, key: &str, limit: Duration) {
        let mut command = self.command(tool, job, local, key);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(limit, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{tool}, {job}: not within {limit:?}"));
        let output = output.unwrap_or_else(|e| {
            panic!("{tool} is missing ({e}): tests/run and tests/clients/build install it")
        });
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        assert!(output.status.success(), "{tool}, {job}: {}\n{out}{err}", output.status);
    }

    fn command(&self, tool: Tool, job: Job, local: &Path, key: &str) -> Command {
        let url = format!("s3://{BUCKET}/{key}");
        let local = local.as_os_str().to_owned();
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let venv = target.unwrap_or_else(|| root.join("target")).join("clients/venv/bin");
        let (into, out) = (matches!(job, Job::CopyIn | Job::SyncIn), OsString::from(&url));
        let (from, to) = if into { (local.clone(), out) } else { (out, local.clone()) };
        let sync = matches!(job, Job::SyncIn | Job::SyncOut);
        let mut command;
        match tool {
            Tool::AwsV1 | Tool::AwsV2 => {
                // Debian's package is v2. PATH could find another version.
                let aws =
                    if tool == Tool::AwsV1 { venv.join("aws") } else { "/usr/bin/aws".into() };
                command = Command::new(aws);
                command.args(["s3", if sync { "sync" } else { "cp" }, "--no-progress"]);
                command.args([from, to]);
            }
            Tool::Rclone => {
                let remote = OsString::from(format!("s3:{BUCKET}/{key}"));
                let (from, to) = if into { (local, remote) } else { (remote, local) };
                command = Command::new("/usr/bin/rclone");
                command.arg("--ca-cert").arg(&self.ca).arg(if sync { "sync" } else { "copyto" });
                command.args([from, to]);
            }
            Tool::S3cmd => {
                let slash = |path: OsString| {
                    let mut path = path;
                    path.push(if sync { "/" } else { "" });
                    path
                };
                command = Command::new("/usr/bin/s3cmd");
                command.args(["--no-progress", "--force"]);
                command.arg(match (sync, into) {
                    (true, _) => "sync",
                    (_, true) => "put",
                    (_, false) => "get",
                });
                command.args([slash(from), slash(to)]);
            }
            Tool::Boto3 => {
                command = Command::new(venv.join("python"));
                command.arg(root.join("tests/clients/boto.py"));
                let what = if into { "up" } else { "down" };
                command.arg(format!("{what}{}", if sync { "-all" } else { "" }));
                command.args([local, BUCKET.into(), key.into()]);
            }
        }
        self.environment(&mut command, tool);
        command
    }

    fn environment(&self, command: &mut Command, tool: Tool) {
        command.env_clear();
        // rclone 1.60 fails with a variable of that name that is set at all, and has a flag instead.
        if tool != Tool::Rclone {
            command.env("AWS_CA_BUNDLE", &self.ca);
        }
        command
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.dir)
            .env("LC_ALL", "C.UTF-8")
            .env("HTTPS_PROXY", format!("http://{}", self.proxy))
            .env("AWS_ACCESS_KEY_ID", &self.keys.0)
            .env("AWS_SECRET_ACCESS_KEY", &self.keys.1)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("RCLONE_CONFIG_S3_TYPE", "s3")
            .env("RCLONE_CONFIG_S3_PROVIDER", "AWS")
            .env("RCLONE_CONFIG_S3_ENV_AUTH", "true")
            .env("RCLONE_CONFIG_S3_REGION", REGION)
            // It would ask for the bucket's own settings, which no upload needs.
            .env("RCLONE_S3_NO_CHECK_BUCKET", "true");
    }
}
