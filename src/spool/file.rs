//! A private file that has no name. It is gone when its last descriptor closes, however the process ends,
//! and no other process that uses the same directory sees it.
//!
//! Reads come in two kinds. [`SpoolFile::read_now`] takes what the page cache holds and never waits
//! for a disk, so it may be called on the runtime's threads; [`SpoolFile::read`] may wait. The file is
//! not mapped: a page fault would block without a warning, and the touched pages of every object would
//! count as the process's own memory.
//!
//! This file must not know what is stored.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

/// `f_type` of tmpfs, whose pages are memory (linux/magic.h).
const TMPFS: i64 = 0x0102_1994;

/// A directory for spool files, private to this user.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes sure that `path` is a directory that only this user can enter, and that a file can be
    /// made in it. It is created if it is missing.
    ///
    /// # Errors
    ///
    /// If it cannot be created, is shared with others (sticky, as /tmp is), or cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let metadata = std::fs::metadata(path)?;
        if metadata.mode() & 0o1000 != 0 {
            return Err(io::Error::other("it is shared with others; name a directory of its own"));
        }
        if metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 != 0 {
            std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        let directory = Self { path: path.to_owned() };
        directory.unnamed()?;
        Ok(directory)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file without a name: by O_TMPFILE, or on a file system without it, by unlinking at once.
    fn unnamed(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let flag = i32::try_from(rustix::fs::OFlags::TMPFILE.bits()).unwrap_or(0);
        match options.clone().custom_flags(flag).open(&self.path) {
            // EISDIR comes from a kernel or file system that does not know the flag.
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::OPNOTSUPP | Errno::ISDIR)) => {
                tempfile::tempfile_in(&self.path)
            }
            opened => opened,
        }
    }
}

/// How the file's system reads without waiting.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Now {
    /// RWF_NOWAIT works, as far as is known.
    Flag,
    /// Every read is from memory.
    Memory,
    /// Whether a read would wait is not known.
    Never,
}

/// One unnamed file of a fixed length.
#[derive(Debug)]
pub struct SpoolFile {
    file: File,
    /// A [`Now`].
    now: AtomicU8,
}

impl SpoolFile {
    /// A file with room for `length` bytes, at least 1. Blocks.
    ///
    /// # Errors
    ///
    /// If it cannot be made; [`io::ErrorKind::StorageFull`] if the disk has no room for all of it.
    pub fn create(directory: &Directory, length: u64) -> io::Result<Self> {
        let file = directory.unnamed()?;
        // With its room reserved now, a fill cannot run out of it.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP) => file.set_len(length)?,
            other => other?,
        }
        Ok(Self { file, now: AtomicU8::new(Now::Flag as u8) })
    }

    /// Writes all of `bytes` from `offset` on. Blocks.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Fills `buf` from `offset` on if that takes no disk; false, with `buf` in any state, if it
    /// would.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let now = self.now.load(Ordering::Relaxed);
        if now == Now::Memory as u8 {
            return self.read(offset, buf).map(|()| true);
        }
        if now == Now::Never as u8 {
            return Ok(false);
        }
        let length = buf.len();
        let read = rustix::io::preadv2(
            &self.file,
            &mut [IoSliceMut::new(buf)],
            offset,
            ReadWriteFlags::NOWAIT,
        );
        match read {
            Ok(n) => Ok(n == length),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::OPNOTSUPP) => {
                let tmpfs = rustix::fs::fstatfs(&self.file)?.f_type as i64 == TMPFS;
                let now = if tmpfs { Now::Memory } else { Now::Never };
                self.now.store(now as u8, Ordering::Relaxed);
                self.read_now(offset, buf)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Fills `buf` from `offset` on. May block.
    ///
    /// # Errors
    ///
    /// Those of the disk; an end within `buf` is one too.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_leaves_no_name() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/spool");
        let directory = Directory::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let file = SpoolFile::create(&directory, 10_000).unwrap();
        file.write(4000, b"drip").unwrap();
        let mut buf = [0; 4];
        file.read(4000, &mut buf).unwrap();
        assert_eq!(&buf, b"drip");
        let mut buf = [1; 4];
        assert!(file.read_now(4000, &mut buf).unwrap(), "just written, so in memory");
        assert_eq!(&buf, b"drip");
        assert!(file.read(9_998, &mut buf).is_err(), "beyond the end");
        assert!(!file.read_now(9_998, &mut buf).unwrap());
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn pages_that_were_dropped_are_not_waited_for() {
        let parent = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let directory = Directory::open(parent.path()).unwrap();
        let file = SpoolFile::create(&directory, 1 << 20).unwrap();
        file.write(0, &vec![7; 1 << 20]).unwrap();
        file.file.sync_all().unwrap();
        rustix::fs::fadvise(&file.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut buf = [0; 4096];
        let warm = file.read_now(512 << 10, &mut buf).unwrap();
        // A file system in memory has nothing to drop.
        if !warm {
            file.read(512 << 10, &mut buf).unwrap();
            assert!(file.read_now(512 << 10, &mut buf).unwrap());
        }
        assert_eq!(buf, [7; 4096]);
    }

    #[test]
    fn a_directory_that_others_share_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let shared = parent.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
        assert!(Directory::open(&shared).is_err());
        assert_eq!(std::fs::metadata(&shared).unwrap().mode() & 0o7777, 0o1777, "left alone");
        let ours = parent.path().join("ours");
        std::fs::create_dir(&ours).unwrap();
        std::fs::set_permissions(&ours, Permissions::from_mode(0o755)).unwrap();
        Directory::open(&ours).unwrap();
        assert_eq!(std::fs::metadata(&ours).unwrap().mode() & 0o777, 0o700);
    }
}
