//! `admin` and `health`.

use super::*;

#[test]
fn admin_stays_on_loopback_or_off() {
    for yaml in ["admin: off", "admin: false", "admin: 'off'"] {
        assert_eq!(classic().yaml(yaml).load().admin, None);
    }
    assert_eq!(classic().var("DRIPLINE__ADMIN", "off").load().admin, None);
    let on = classic().yaml("admin: off").var("DRIPLINE__ADMIN__ADDR", "[::1]:9200").load();
    assert_eq!(on.admin, Some("[::1]:9200".parse().unwrap()));
    let default = classic().yaml("admin: {}").load();
    assert_eq!(default.admin, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(
        errors("admin: {addr: '0.0.0.0:9100'}"),
        [
            "admin.addr: 0.0.0.0:9100 is not a loopback address; elsewhere admin.token would be needed, which is not \
          available in this version of dripline; write 127.0.0.1:9100"
        ]
    );
    assert_eq!(
        errors("health: {}"),
        ["health.addr: missing; write an IP address and a port, such as 0.0.0.0:9101"]
    );
}
