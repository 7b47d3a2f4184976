//! With the feature `man`: man pages and shell completions, made from the command line's definition
//! in src/cli/args.rs. They are written to `man/` and `completions/` beside the binary in the target
//! directory, where the Debian package takes them from. Without the feature nothing is done, and no
//! build dependency is compiled.

#[cfg(feature = "man")]
#[path = "src/cli/args.rs"]
mod args;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "man")]
    {
        println!("cargo::rerun-if-changed=src/cli/args.rs");
        pages::write().expect("man pages and completions cannot be written");
    }
}

#[cfg(feature = "man")]
mod pages {
    use std::path::{Path, PathBuf};
    use std::{env, fs, io};

    use clap::{Command, CommandFactory};
    use clap_complete::{Shell, generate_to};
    use clap_mangen::Man;

    /// What every page says at its end, in man's markup.
    const SEE_ALSO: &str = r#".SH "EXIT STATUS"
.TP
0
Told to stop, or all is well.
.TP
1
The demo failed, or a probed server does not fit.
.TP
64
Wrong command line.
.TP
65
Wrong data: not a presigned URL, or not one for this configuration.
.TP
69
Not available: an address cannot be bound, or there is no answer.
.TP
71
The system has no threads or signals to give.
.TP
78
Wrong configuration; every error is on standard error.
.SH FILES
.TP
/etc/dripline/dripline.yaml
What the systemd unit runs with.
.TP
/etc/dripline/env
Optional: environment variables for the unit, NAME=value, readable by root alone.
.TP
/etc/dripline/tls
Certificates and keys for the unit, readable by root alone.
.TP
/usr/share/dripline/dripline.yaml
Every key with its default, its unit and the reason.
.SH "SEE ALSO"
/usr/share/doc/dripline: README.md says what it is for, docs/operate.md how it is run.
"#;

    pub fn write() -> io::Result<()> {
        let target = profile_dir();
        let (man, completions) = (target.join("man"), target.join("completions"));
        for dir in [&man, &completions] {
            // A page of a command that this build has not must not stay.
            if dir.exists() {
                fs::remove_dir_all(dir)?;
            }
            fs::create_dir_all(dir)?;
        }
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            generate_to(shell, &mut super::args::Cli::command(), "dripline", &completions)?;
        }
        // `help` has no page: man shows what it would.
        let mut command = super::args::Cli::command().disable_help_subcommand(true);
        command.build();
        page(&command, "dripline".to_owned(), &man)?;
        for sub in command.get_subcommands() {
            page(sub, format!("dripline-{}", sub.get_name()), &man)?;
        }
        Ok(())
    }

    fn page(command: &Command, name: String, dir: &Path) -> io::Result<()> {
        let path = dir.join(format!("{name}.1"));
        let mut page = Vec::new();
        // The program's own name stands in the synopsis of a subcommand with its blank, as typed.
        Man::new(command.clone()).title(name).manual("dripline").render(&mut page)?;
        page.extend_from_slice(SEE_ALSO.as_bytes());
        fs::write(path, page)
    }

    /// `target/<profile>`: OUT_DIR is `target/<profile>/build/<package>-<hash>/out`.
    fn profile_dir() -> PathBuf {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
        out.ancestors().nth(3).expect("OUT_DIR is below the profile's directory").to_owned()
    }
}
