//! The part of HTTP/1.1 that says where a response's head and body end (RFC 9112).
//!
//! Pure.

use super::seen::Head;

impl Head {
    /// Reads the head at the beginning of `received`, interim responses included, since a device must
    /// read those too. None if it is not complete yet.
    ///
    /// # Errors
    ///
    /// If `received` is not the beginning of a response.
    pub fn parse(received: &[u8]) -> Option<Result<Self, String>> {
        let mut length = 0;
        loop {
            let rest = &received[length..];
            if !b"HTTP/1.".starts_with(&rest[..rest.len().min(7)]) {
                return Some(Err("what answers there is not HTTP/1.1".into()));
            }
            let end = rest.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
            length += end;
            let head = String::from_utf8_lossy(&rest[..end]);
            let Some(status) = status(&head) else {
                return Some(Err("the status line of the answer has no status".into()));
            };
            if status >= 200 {
                return Some(Ok(Self {
                    status,
                    length,
                    content_length: header(&head, "content-length").and_then(|v| v.parse().ok()),
                    chunked: header(&head, "transfer-encoding")
                        .is_some_and(|coding| coding.to_ascii_lowercase().ends_with("chunked")),
                }));
            }
        }
    }

    /// Whether `received`, which begins with this head, ends where the response ends. Of a chunked
    /// body it checks only the last bytes: enough for a probe, which stops early in any case.
    #[must_use]
    pub fn ends(&self, received: &[u8]) -> bool {
        if matches!(self.status, 204 | 304) {
            return true;
        }
        let body = received.get(self.length..).unwrap_or_default();
        match self.content_length {
            _ if self.chunked => body == b"0\r\n\r\n" || body.ends_with(b"\r\n0\r\n\r\n"),
            Some(length) => body.len() as u64 >= length,
            None => false,
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub(super) fn ends_with_connection(&self) -> bool {
        !self.chunked && self.content_length.is_none()
    }
}

fn status(head: &str) -> Option<u16> {
    head.split(' ').nth(1)?.get(..3)?.parse().ok()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_there() {
        let text = b"HTTP/1.1 206 Partial Content\r\ncontent-LENGTH: 5\r\n\r\nhello";
        let length = text.len() - 5;
        for end in 0..length {
            assert_eq!(Head::parse(&text[..end]), None, "{end}");
        }
        let head = Head::parse(text).unwrap().unwrap();
        assert_eq!(head, Head { status: 206, length, content_length: Some(5), chunked: false });
        assert!(head.ends(text) && !head.ends(&text[..length + 4]));
        assert!(!head.ends_with_connection());
    }

    #[test]
    fn interim_responses_are_part_of_it() {
        let text = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(Head::parse(&text[..40]), None);
        let head = Head::parse(text).unwrap().unwrap();
        assert_eq!((head.status, head.length), (200, text.len()));
        assert!(head.ends_with_connection() && !head.ends(text));
    }

    #[test]
    fn a_chunked_body_ends_with_an_empty_chunk() {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let parsed = Head::parse(&head).unwrap().unwrap();
        let ends = |body: &[u8]| parsed.ends(&[head.as_slice(), body].concat());
        assert!(ends(b"0\r\n\r\n") && ends(b"5\r\nhello\r\n0\r\n\r\n"));
        assert!(!ends(b"") && !ends(b"6\r\nhello0\r\n\r\n"));
    }

    #[test]
    fn a_response_without_a_body_ends_with_its_head() {
        let text = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n";
        assert!(Head::parse(text).unwrap().unwrap().ends(text));
    }

    #[test]
    fn what_is_not_http_is_said_at_once() {
        for text in [b"SSH-2.0".as_slice(), b"\0\0\x06\x04", b"HTTP/1.1 x\r\n\r\n"] {
            assert!(Head::parse(text).unwrap().is_err());
        }
    }
}
