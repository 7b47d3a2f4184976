//! dripline serves S3 objects to small devices: as TLS records of a few KB, one per tick.
//!
//! # One request's life
//!
//! 1. [`server`] accepts a connection; [`proxy_protocol`] reads whose it is, if a load balancer stands
//!    before it, and [`limits::connections`] counts it. On a TLS listener [`tls::listener`] tells OpenSSL the largest
//!    record it may send, the handshake's included: the smallest of the device's [`profile`] and of
//!    what its ClientHello asks for ([`tls::record`]). The connection is wrapped in a
//!    [`drip::stream::PacedStream`]. [`http1::connection`] reads each request's head, has
//!    [`http1::framing`] judge it, and hands it to Pingora's HTTP/1.1.
//! 2. [`proxy`] is called phase by phase. [`route`] turns `/file/<key>?<query>` into an object key,
//!    byte for byte; [`s3::endpoint`] makes of it the target, host and port of the bucket;
//!    [`s3::headers`] says which request headers S3 gets to see. Nothing that a signature covers is
//!    touched, so presigned URLs work; dripline has no credentials.
//! 3. What may be shared goes through the [`spool`]: S3 is asked whether this client may have the
//!    object (its own path and query, `If-None-Match`), and its body comes from a private file that
//!    one fill reads from S3 however many ask. pingora-cache's hit path serves it
//!    ([`spool::storage`]); what it is handed are promises ([`drip::source`]), and the bytes are
//!    read when their record is due, on threads that do nothing else ([`drip::threads`]). All else
//!    goes direct, through Pingora's upstream path.
//! 4. S3's status, body and the few headers that a device needs are relayed. A body filter does
//!    **not** slice or sleep, as a reader of Pingora's examples would expect: Pingora writes what it
//!    has collected in one go, and a filter's delay becomes a burst. Instead the response filter
//!    arms the `PacedStream`, the last to see every byte, which cuts the body into records and
//!    holds each back until [`drip::schedule`] says that its time has come. On the direct path a
//!    [`valve`] meanwhile keeps [`s3::connect`] from reading more than one piece ahead.
//! 5. A PUT goes another way: [`proxy::upload`] passes the body on piece by piece, each with leave of
//!    its class ([`shape`]), over a connection of its own ([`s3::put`]), and relays S3's answer whenever
//!    it comes. [`http1::stream`] lets Pingora read that body and nothing behind it.
//!
//! Bytes that share a link wait for a permit of the class tree ([`shape`]): whoever moves them registers
//! a [`shape::Flow`] with a class and asks it before each write.
//!
//! The [`forward_proxy`] is a second way in, for tools that upload: a CONNECT is judged by name
//! ([`forward_proxy::allow`]), by address and by what the ClientHello asks for
//! ([`forward_proxy::hello`]); then bytes move both ways, each way a flow of the tree.
//!
//! # The map
//!
//! A room is a module at the top of `src/`. This list has the rooms by layer, the uppermost first.
//! A room uses rooms of its own layer and of the layers below, never one of those above, and no rooms
//! form a ring. `tests/structure.rs` reads this list and every path in the sources, and fails otherwise.
//!
//! 1. - `main`: the exit code of the process.
//! 2. - [`cli`]: commands and flags.
//! 3. - `daemon`: signals, reload, upgrade.
//!    - [`demo`]: an S3 in the process, to try dripline with.
//!    - [`probe`]: a client that measures the records of any server.
//! 4. - [`server`]: makes services of a configuration; all rooms meet here and nowhere else.
//! 5. - [`config`]: reads YAML and the environment into the settings of every domain.
//!    - [`proxy`]: what becomes of a request, phase by phase; uploads.
//!    - [`forward_proxy`]: tunnels for tools that upload, opened with CONNECT.
//!    - [`admin`]: metrics, health and classes over HTTP.
//! 6. - [`http1`]: what serves HTTP/1.1 on a connection.
//!    - [`limits`]: connections and requests, per client and in all.
//!    - [`transfers`]: downloads, uploads and tunnels that run: their list, their figures, the access log.
//!    - [`lifecycle`]: readiness, drain, shutdown.
//!    - [`upgrade`]: listening sockets pass to the next process.
//!    - [`proxy_protocol`]: who a load balancer speaks for.
//!    - `notify`: what the service manager is told.
//! 7. - [`spool`]: bodies in private files, each read from S3 once.
//! 8. - [`s3`]: names, headers, requests and connections of S3.
//!    - [`tls`]: records and their sizes, certificates.
//!    - [`drip`]: which bytes leave when.
//!    - [`shape`]: the class tree, which bandwidth is shared by.
//!    - [`route`]: paths to object keys.
//!    - [`profile`]: how each kind of device is served.
//! 9. - [`metrics`]: every metric.
//!    - [`units`]: sizes, rates and times as people write them.
//!    - [`networks`]: sets of addresses.
//!    - [`header_pattern`]: sets of header names.
//!    - [`valve`]: stops whoever reads ahead.
//!    - [`memory`]: gives freed memory back to the system.
//!    - [`logging`]: lines on stderr.
//!    - `runtime`: threads.
//!
//! # Pure rooms
//!
//! A pure room does no I/O, knows no runtime and reads no clock: time is a parameter. The same test
//! checks these modules, what is below them, and every file that they name.
//!
//! - [`route`], [`http1::framing`], [`profile`], [`units`], [`networks`], [`header_pattern`]
//! - [`proxy::plan`], [`drip::schedule`], [`tls::record`], [`spool::admission`]
//! - [`s3::endpoint`], [`s3::headers`], [`s3::presigned`]
//! - [`forward_proxy::allow`], [`forward_proxy::connect`], [`forward_proxy::hello`]
//! - [`shape::timetable`], `shape::bucket`, `shape::fair_queue`, `shape::flows`, `shape::ceiling`,
//!   `shape::settings`, `shape::counters`, `shape::tree`

#![deny(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod drip;
pub mod forward_proxy;
pub mod header_pattern;
pub mod http1;
pub mod lifecycle;
pub mod limits;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod networks;
mod notify;
pub mod probe;
pub mod profile;
pub mod proxy;
pub mod proxy_protocol;
pub mod route;
mod runtime;
pub mod s3;
pub mod server;
pub mod shape;
pub mod spool;
pub mod tls;
pub mod transfers;
pub mod units;
pub mod upgrade;
pub mod valve;
