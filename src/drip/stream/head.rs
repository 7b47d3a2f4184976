//! Where a response head ends (RFC 9112 §2.1: at the first empty line). Pure.

/// How many bytes of `buf` belong to a head of whose CRLF CRLF `matched` bytes came before, and how
/// many are matched after those.
pub(super) fn head_length(buf: &[u8], mut matched: u8) -> (usize, u8) {
    const END: &[u8; 4] = b"\r\n\r\n";
    for (at, byte) in buf.iter().enumerate() {
        matched = match *byte {
            b if b == END[usize::from(matched)] => matched + 1,
            b'\r' => 1,
            _ => 0,
        };
        if matched == 4 {
            return (at + 1, 4);
        }
    }
    (buf.len(), matched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_across_writes() {
        assert_eq!(head_length(b"a\r\n\r\nbody", 0), (5, 4));
        assert_eq!(head_length(b"a\r\n", 0), (3, 2));
        assert_eq!(head_length(b"\r\nbody", 2), (2, 4));
        assert_eq!(head_length(b"\r\r\n\r\n", 0), (5, 4));
        assert_eq!(head_length(b"x: y\r\nz", 0), (7, 0));
    }
}
