//! `limits`.

use super::*;

#[test]
fn limits_have_defaults_and_ranges() {
    let limits = |yaml: &str| classic().yaml(yaml).load().limits;
    let default = limits("");
    assert_eq!(default, crate::limits::Settings::default());
    assert_eq!((default.connections, default.per_client), (20_000, 0));
    assert_eq!((default.header_bytes, default.requests_per_connection), (8192, 1000));
    let set = limits(
        "limits: {connections: 7, per_client: 2, header_bytes: 4KiB, header_timeout: 1s, handshake_timeout: 2s, \
         send_timeout: 3s, receive_timeout: 5s, requests_per_connection: 1, idle_timeout: 4s}",
    );
    assert_eq!(set.receive_timeout, Duration::from_secs(5));
    assert_eq!((set.connections, set.per_client, set.header_bytes), (7, 2, 4096));
    assert_eq!(set.requests_per_connection, 1);
    let times = [set.header_timeout, set.handshake_timeout, set.send_timeout, set.idle_timeout];
    assert_eq!(times, [1, 2, 3, 4].map(Duration::from_secs));
    for (wrong, message) in [
        ("connections: 0", "connections: `0` is not a number from 1 to 1048576"),
        ("per_client: -1", "per_client: `-1` is not a number from 0 to 1048576"),
        ("header_bytes: 1023", "header_bytes: `1023` is out of range; write 1KiB to 256KiB"),
        ("header_timeout: 0s", "header_timeout: `0s` is out of range; write 1ms to 1day"),
        (
            "requests_per_connection: 0",
            "requests_per_connection: `0` is not a number from 1 to 4294967295",
        ),
        ("idle: 1s", "idle: unknown key; remove it"),
    ] {
        assert_eq!(errors(&format!("limits: {{{wrong}}}")), [format!("limits.{message}")]);
    }
}
