//! Quantities as people write them: sizes, rates and times with a unit.
//!
//! Invariants: a number without a unit is accepted only if it has one meaning. A bare `4096` is bytes;
//! a bare `20M` or a time of `500` is refused, because it is ambiguous. The text that a
//! value displays as parses back to the same value.
//!
//! This room is pure. It must not know which key a quantity belongs to, or its permitted range.
//!
//! ```
//! use dripline::units::{ByteSize, Rate, Wait};
//!
//! assert_eq!("4KiB".parse(), Ok(ByteSize::new(4096)));
//! assert_eq!("20Mbit".parse::<Rate>().map(Rate::bytes), Ok(2_500_000));
//! assert_eq!("1h30m".parse::<Wait>().map(|wait| wait.duration().as_secs()), Ok(5400));
//! assert_eq!(
//!     "20M".parse::<Rate>().unwrap_err().to_string(),
//!     "`20M` does not say bits or bytes; write 20Mbit, 20MB/s or 20MiB/s",
//! );
//! ```

mod byte_size;
mod rate;
mod scale;
mod wait;

pub use byte_size::ByteSize;
pub use rate::Rate;
pub use wait::Wait;

/// What is wrong with a quantity, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

impl UnitError {
    /// `text`, quoted, and what is wrong with it.
    fn new(text: &str, what: &str) -> Self {
        Self(format!("`{}` {what}", text.escape_debug()))
    }
}
