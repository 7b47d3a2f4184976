//! The directory: full, unusable, shared, and after a crash. Here dripline is a process of its own.

use super::process::{Daemon, Launch};
use super::*;

const LENGTH: usize = 3 * MIB;

async fn origin(keys: &[(&str, usize)]) -> Origin {
    let origin =
        Origin::start(OriginOptions { public: true, ..OriginOptions::default() }).await.unwrap();
    for (key, length) in keys {
        origin.put(key, pattern(*length), "text/plain").await.unwrap();
    }
    origin
}

fn launch(origin: &Origin, dir: &std::path::Path) -> Launch {
    Launch::in_front_of(origin).env("DRIPLINE__SPOOL__DIR", dir.to_str().unwrap())
}

/// The value of one of the daemon's metrics.
async fn metric(daemon: &Daemon, name: &str) -> u64 {
    crate::support::metric(&daemon.ask("/metrics").await.text(), name)
}

fn entries(dir: &std::path::Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Bytes that a file system has in use.
fn in_use(dir: &std::path::Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

/// Runs `test` with a file system of `size` in memory mounted at a directory, which only this
/// thread and what it starts can see. Without the right to do so nothing is run, which in CI fails.
fn on_small_disk<F: Future<Output = ()>>(
    size: &'static str,
    test: impl FnOnce(std::path::PathBuf) -> F + Send + 'static,
) {
    let thread = std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        if !mount(dir.path(), size) {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "no right to mount: CI has to run as root");
            println!("not run: no right to mount");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(dir.path().join("spool")));
        drop(runtime);
        unmount(dir.path());
    });
    if let Err(failure) = thread.join() {
        std::panic::resume_unwind(failure);
    }
}

fn c_string(dir: &std::path::Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(dir.as_os_str().as_bytes()).unwrap()
}

fn unmount(dir: &std::path::Path) {
    let dir = c_string(dir);
    // SAFETY: it reads a string that ends in zero and outlives the call.
    let unmounted = unsafe { libc::umount2(dir.as_ptr(), libc::MNT_DETACH) };
    assert_eq!(unmounted, 0, "{}", std::io::Error::last_os_error());
}

fn mount(dir: &std::path::Path, size: &str) -> bool {
    let dir = c_string(dir);
    let options = std::ffi::CString::new(format!("size={size},mode=755")).unwrap();
    let (none, root) = (c"none".as_ptr(), c"/".as_ptr());
    // SAFETY: unshare takes a number and affects the calling thread alone; mount reads strings that
    // end in zero and outlive the calls.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                none,
                root,
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(none, dir.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast()) == 0
    }
}

#[test]
fn on_a_full_disk_downloads_go_direct() {
    on_small_disk("2m", |dir| async move {
        let origin = origin(&[("fw.bin", LENGTH), ("small", MIB)]).await;
        let daemon = launch(&origin, &dir).start().await;
        for n in 1..3 {
            assert_whole(&daemon.fetch("fw.bin").await, &pattern(LENGTH));
            assert_eq!(origin.counters().full_gets, n);
        }
        let warning = daemon.logged("requests that need room go to S3 directly").await;
        assert!(warning.contains(" WARN ") && warning.contains(dir.to_str().unwrap()), "{warning}");
        assert_eq!(metric(&daemon, "dripline_spool_fills_total{end=\"disk\"}").await, 2);
        assert_eq!(metric(&daemon, "dripline_spool_bypassed_total{reason=\"disk\"}").await, 2);
        assert_eq!(metric(&daemon, "dripline_spool_bytes").await, 0);
        assert_eq!(in_use(&dir), 0, "what was reserved is given back");
        // What fits is spooled.
        for _ in 0..2 {
            assert_whole(&daemon.fetch("small").await, &pattern(MIB));
        }
        assert_eq!(metric(&daemon, COMPLETE).await, 1);
        assert_eq!(origin.counters().full_gets, 3);
    });
}

#[test]
fn a_crash_leaves_nothing_and_two_processes_share_a_directory() {
    on_small_disk("16m", |dir| async move {
        let origin = origin(&[("fw.bin", LENGTH)]).await;
        let mut first = launch(&origin, &dir).start().await;
        let second = launch(&origin, &dir).start().await;
        let both = [first.begin_fetch("fw.bin"), second.begin_fetch("fw.bin")];
        for fetched in both {
            assert_whole(&fetched.await.unwrap(), &pattern(LENGTH));
        }
        assert_eq!(origin.counters().full_gets, 2, "each has its own");
        assert_eq!(entries(&dir), 0, "a file has no name");
        assert_eq!(in_use(&dir), 2 * LENGTH as u64);
        first.signal(libc::SIGKILL);
        wait_for("the end", || !first.runs()).await;
        wait_for("room given back", || in_use(&dir) == LENGTH as u64).await;
        assert_whole(&second.fetch("fw.bin").await, &pattern(LENGTH));
        let again = launch(&origin, &dir).start().await;
        for _ in 0..2 {
            assert_whole(&again.fetch("fw.bin").await, &pattern(LENGTH));
        }
        assert_eq!(origin.counters().full_gets, 3);
        assert_eq!(entries(&dir), 0);
    });
}

#[tokio::test]
async fn an_unusable_directory_is_told_and_downloads_go_direct() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let origin = origin(&[("fw.bin", LENGTH)]).await;
    for dir in [&file, &file.join("below"), std::path::Path::new("/proc/spool")] {
        let before = origin.counters().full_gets;
        let daemon = launch(&origin, dir).start().await;
        let warning = daemon.logged("every download goes to S3 directly").await;
        assert!(warning.contains(" WARN ") && warning.contains("spool.dir"), "{warning}");
        for _ in 0..2 {
            assert_whole(&daemon.fetch("fw.bin").await, &pattern(LENGTH));
        }
        assert_eq!(origin.counters().full_gets, before + 2);
        assert_eq!(origin.counters().ranged_gets, 0);
        wait_for("both lines of both", || daemon.matching("source=direct").len() == 4).await;
    }
}
