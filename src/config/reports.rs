//! `admin` and `health`: the listeners for metrics, liveness and readiness.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::claims::Claims;
use super::field::Field;
use super::section::Section;

/// The default address of metrics and readiness.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9100);

/// Reads `admin`; None if it is switched off or wrong.
pub(super) fn admin(root: &mut Section<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let field = root.take("admin");
    if field.as_ref().is_some_and(Field::is_off) {
        return None;
    }
    let at = root.path("admin.addr");
    let (addr, section) = match field {
        None => (Some(DEFAULT_ADMIN), None),
        Some(field) => {
            let mut section = field.section();
            let addr = section.take("addr").map_or(Some(DEFAULT_ADMIN), |field| field.address());
            (addr, Some(section))
        }
    };
    if let Some(addr) = addr {
        if !addr.ip().to_canonical().is_loopback() {
            let message = "is not a loopback address; elsewhere admin.token would be needed, which is not \
                           available in this version of dripline; write 127.0.0.1:9100";
            root.reader.fail(&at, format!("{addr} {message}"));
        }
        claims.claim(root.reader, &at, addr, ", or write `admin: off`");
    }
    if let Some(section) = section {
        section.finish(&["token"]);
    }
    addr
}

/// Reads `health`; None if it is switched off or wrong.
pub(super) fn health(root: &mut Section<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let field = root.take("health").filter(|field| !field.is_off())?;
    let mut section = field.section();
    let addr = match section.take("addr") {
        Some(field) => {
            field.address().inspect(|addr| claims.claim(root.reader, &field.at, *addr, ""))
        }
        None => {
            section
                .missing("addr", "missing; write an IP address and a port, such as 0.0.0.0:9101");
            None
        }
    };
    section.finish(&[]);
    addr
}
