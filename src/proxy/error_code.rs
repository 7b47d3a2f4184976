//! Finds an error code of S3's in the body of a 403, so that the log can say what the error comes of. The
//! body itself is passed on as it is.

use http::StatusCode;

/// How many bytes of an error body are looked through: the code comes in the first line or two.
const SEARCHED: usize = 1024;

/// An error code of S3's that says nothing to those who did not write the client (S3's API reference,
/// "Error responses").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    /// S3 makes another signature of the request than its client did.
    SignatureDoesNotMatch,
    /// The time in a signed request is more than 15 minutes from S3's.
    RequestTimeTooSkewed,
}

impl ErrorCode {
    const ALL: [Self; 2] = [Self::SignatureDoesNotMatch, Self::RequestTimeTooSkewed];

    /// The code as S3's XML has it.
    fn element(self) -> &'static [u8] {
        match self {
            Self::SignatureDoesNotMatch => b"<Code>SignatureDoesNotMatch</Code>",
            Self::RequestTimeTooSkewed => b"<Code>RequestTimeTooSkewed</Code>",
        }
    }

    /// What it comes of, for the log.
    pub(super) fn explanation(self) -> &'static str {
        match self {
            Self::SignatureDoesNotMatch => {
                "S3 answered SignatureDoesNotMatch: the URL was signed for another host, path, query \
                 or method than was sent; `dripline url` tells which setting the URL needs"
            }
            Self::RequestTimeTooSkewed => {
                "S3 answered RequestTimeTooSkewed: the clock of the machine that signed the request is \
                 more than 15 minutes off S3's; correct that clock"
            }
        }
    }
}

/// Looks through one response of S3's.
#[derive(Debug, Default)]
pub(super) struct ErrorCodeSearch {
    /// The start of a 403's body, until a code was found.
    seen: Option<Vec<u8>>,
}

impl ErrorCodeSearch {
    /// A response with that status; only a 403 is looked through.
    pub(super) fn new(status: StatusCode) -> Self {
        Self { seen: (status == StatusCode::FORBIDDEN).then(Vec::new) }
    }

    /// The code that this piece of the body completes. Found once a response at most.
    pub(super) fn find(&mut self, body: &[u8]) -> Option<ErrorCode> {
        let seen = self.seen.as_mut()?;
        seen.extend_from_slice(&body[..body.len().min(SEARCHED - seen.len())]);
        let contains = |element: &[u8]| seen.windows(element.len()).any(|part| part == element);
        let found = ErrorCode::ALL.into_iter().find(|code| contains(code.element()));
        if found.is_some() || seen.len() == SEARCHED {
            self.seen = None;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_across_pieces_and_not_beyond_the_bound() {
        for code in ErrorCode::ALL {
            let element = code.element();
            let mut search = ErrorCodeSearch::default();
            assert_eq!(search.find(element), None);
            search = ErrorCodeSearch::new(StatusCode::FORBIDDEN);
            assert_eq!(search.find(&[b"<?xml?><Error>", &element[..20]].concat()), None);
            assert_eq!(search.find(&[&element[20..], b"<Message>"].concat()), Some(code));
            assert_eq!(search.find(element), None);
            search = ErrorCodeSearch::new(StatusCode::FORBIDDEN);
            assert_eq!(search.find(&[b'x'; 5000]), None);
            assert_eq!(search.find(element), None);
            search = ErrorCodeSearch::new(StatusCode::OK);
            assert_eq!(search.find(element), None);
        }
        let mut search = ErrorCodeSearch::new(StatusCode::FORBIDDEN);
        assert_eq!(search.find(b"<Error><Code>AccessDenied</Code>"), None);
    }
}
