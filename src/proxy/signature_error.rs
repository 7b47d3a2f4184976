//! Finds S3's code for a signature that does not match in the body of a 403, so that the log can say
//! what that comes of. The body itself is passed on as it is.

use http::StatusCode;

/// S3's error code, as its XML has it.
const CODE: &[u8] = b"<Code>SignatureDoesNotMatch</Code>";

/// How many bytes of an error body are looked through: the code comes in the first line or two.
const SEARCHED: usize = 1024;

/// Looks through one response of S3's.
#[derive(Debug, Default)]
pub(super) struct SignatureErrorSearch {
    /// The start of a 403's body, until the code was found.
    seen: Option<Vec<u8>>,
}

impl SignatureErrorSearch {
    /// A response with that status; only a 403 is looked through.
    pub(super) fn new(status: StatusCode) -> Self {
        Self { seen: (status == StatusCode::FORBIDDEN).then(Vec::new) }
    }

    /// Whether this piece of the body completes the code. True once a response.
    pub(super) fn finds(&mut self, body: &[u8]) -> bool {
        let Some(seen) = &mut self.seen else { return false };
        seen.extend_from_slice(&body[..body.len().min(SEARCHED - seen.len())]);
        let found = seen.windows(CODE.len()).any(|window| window == CODE);
        if found || seen.len() == SEARCHED {
            self.seen = None;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_across_pieces_and_not_beyond_the_bound() {
        let mut search = SignatureErrorSearch::default();
        assert!(!search.finds(CODE));
        search = SignatureErrorSearch::new(StatusCode::FORBIDDEN);
        assert!(!search.finds(b"<?xml?><Error><Code>SignatureDoes"));
        assert!(search.finds(b"NotMatch</Code><Message>"));
        assert!(!search.finds(CODE));
        search = SignatureErrorSearch::new(StatusCode::FORBIDDEN);
        assert!(!search.finds(&[b'x'; 5000]));
        assert!(!search.finds(CODE));
        search = SignatureErrorSearch::new(StatusCode::OK);
        assert!(!search.finds(CODE));
    }
}
