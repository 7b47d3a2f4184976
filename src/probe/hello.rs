//! The server's answer to an extension: ServerHello in TLS 1.2 (RFC 5246 §7.4.1.3),
//! EncryptedExtensions in TLS 1.3 (RFC 8446 §4.3.1).
//!
//! Pure. OpenSSL has checked these messages already; one that does not parse counts as no answer.

/// The value of `extension` in a ServerHello, its four header bytes included.
pub(super) fn in_server_hello(message: &[u8], extension: u16) -> Option<&[u8]> {
    // Header, version, random; then the session id.
    let rest = message.get(4 + 2 + 32..)?;
    let (session, rest) = rest.split_first()?;
    // Cipher suite and compression method.
    find(rest.get(usize::from(*session) + 2 + 1..)?, extension)
}

/// The value of `extension` in EncryptedExtensions, its four header bytes included.
pub(super) fn in_encrypted_extensions(message: &[u8], extension: u16) -> Option<&[u8]> {
    find(message.get(4..)?, extension)
}

/// Finds one extension in a list that begins with its length.
fn find(list: &[u8], wanted: u16) -> Option<&[u8]> {
    let (mut list, _) = sized(list)?;
    while let Some((number, rest)) = list.split_first_chunk::<2>() {
        let (value, rest) = sized(rest)?;
        if u16::from_be_bytes(*number) == wanted {
            return Some(value);
        }
        list = rest;
    }
    None
}

/// Splits off a vector of 0 to 2^16 - 1 bytes.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_hello(session: usize, extensions: &[u8]) -> Vec<u8> {
        let mut message = vec![2, 0, 0, 0, 3, 3];
        message.extend([7; 32]);
        message.push(u8::try_from(session).unwrap());
        message.extend(vec![9; session]);
        message.extend([0xC0, 0x2B, 0]);
        message.extend(extensions);
        message
    }

    #[test]
    fn an_answer_is_found_behind_others() {
        let extensions = [0, 10, 0xFF, 1, 0, 1, 0, 0, 1, 0, 1, 3];
        for session in [0, 32] {
            let message = server_hello(session, &extensions);
            assert_eq!(in_server_hello(&message, 1), Some(&[3][..]));
            assert_eq!(in_server_hello(&message, 28), None);
        }
        let message = [8, 0, 0, 8, 0, 6, 0, 28, 0, 2, 4, 0];
        assert_eq!(in_encrypted_extensions(&message, 28), Some(&[4, 0][..]));
        assert_eq!(in_encrypted_extensions(&message, 1), None);
    }

    #[test]
    fn what_is_too_short_answers_nothing() {
        let whole = server_hello(32, &[0, 5, 0, 1, 0, 1, 3]);
        for end in 0..whole.len() {
            assert_eq!(in_server_hello(&whole[..end], 1), None);
        }
        assert_eq!(in_server_hello(&server_hello(0, &[]), 1), None, "no extensions at all");
        assert_eq!(in_encrypted_extensions(&[8, 0, 0, 0], 28), None);
    }
}
