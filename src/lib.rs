//! dripline is a proxy in front of Amazon S3. It serves objects to small devices as TLS records of a few
//! KB, one per tick of a schedule (such a download is called a drip), and it limits the rate of uploads so
//! that others can use the link meanwhile.
//!
//! This page leads into the code: what happens to a download, an upload and a tunnel, where new things go,
//! and which module may use which. The repository's `README.md` says how dripline is used.
//!
//! # The life of a download
//!
//! 1. **Connection.** [`server`] accepts it. If a load balancer stands in front, [`proxy_protocol`] reads
//!    the client's address. [`limits::connections`] admits the client or refuses it. [`tls::listener`]
//!    caps the records that OpenSSL may send, the handshake's included, at what the device's [`profile`]
//!    says and its ClientHello asks for, whichever is smaller; [`tls::record`] has the arithmetic. The
//!    connection is wrapped in a [`drip::stream::PacedStream`].
//! 2. **Head.** [`http1::connection`] reads the request's head, within limits of size and time. A head that
//!    could be read in two ways is refused ([`http1::framing`]). The request goes to Pingora, which calls
//!    [`proxy`] phase by phase.
//! 3. **Plan.** [`proxy::plan`], a pure function, decides once what becomes of the request: it is refused,
//!    it is an upload, the spool serves it, or S3 serves it directly. [`route`] turns
//!    `/file/<key>?<query>` into an object key, [`s3::endpoint`] the key into a path and a host of S3.
//!    Nothing that a signature covers is changed, so presigned URLs work. dripline has no credentials.
//! 4. **Body.** The [`spool`] asks S3 whether this client may have the object (with the client's own path
//!    and query, and `If-None-Match`), reads the object from S3 once however many clients ask, and keeps
//!    it in a private file. pingora-cache serves it ([`spool::storage`]), but what passes through Pingora
//!    are placeholders for bytes, called promises ([`drip::source`]). Dedicated threads ([`drip::threads`])
//!    read the bytes when their record is due. A request that the spool does not serve goes through
//!    Pingora's upstream path, where a [`valve`] keeps [`s3::connect`] from reading more than one piece ahead of the client.
//! 5. **Records.** Pingora's body filters cannot pace a body: Pingora writes in one burst what a filter
//!    has delayed. So the response filter only gives the response's pace to the `PacedStream`, through
//!    which every byte passes last. It cuts the body into records, and sends each when
//!    [`drip::schedule`] says that it is due.
//! 6. **End.** From its beginning to its end the response is a [`transfers::Transfer`]: listed, counted and
//!    logged, as uploads and tunnels are.
//!
//! # The life of an upload
//!
//! A `PUT /file/<key>` is planned like a download. [`proxy::upload`] sends the body to S3 piece by piece,
//! over a connection of its own ([`s3::put`]). Before each piece it waits for a permit of its class in the
//! class tree ([`shape`]). [`http1::stream`] lets Pingora read that body and nothing after it. S3's answer
//! is relayed as soon as it comes, even before the end of the body.
//!
//! # The life of a tunnel
//!
//! Tools that upload reach S3 through the [`forward_proxy`], with `CONNECT <host>:443`. The proxy checks the
//! host's name ([`forward_proxy::allow`]), the address that the name leads to, and the server name in the
//! ClientHello ([`forward_proxy::hello`]). Then it moves bytes both ways without reading them. Each
//! direction is a [`shape::Flow`], which waits for permits as uploads do.
//!
//! # Where new things go
//!
//! - A page that shows running transfers gets its list from [`transfers::Live::running`]. The process's
//!   list is `ProcessState::transfers` (`src/proxy/state.rs`). [`admin`] does not hold it yet: give it to
//!   `Admin::new`, which `src/server.rs` calls, and add a path there.
//! - What limits a class's rate is a list of `Source`s (`src/shape/ceiling.rs`); the lowest rate is in
//!   force. A scavenger's ceiling, or a lease's, is another variant of `Source`.
//! - A request to S3 is authenticated as its [`s3::outgoing::Authority`] says. If dripline is to sign
//!   requests itself, that is another variant, which `Upstream::authority` in `src/s3/upstream.rs` chooses.
//! - What becomes of a request is decided in [`proxy::plan`], which `request_filter` in `src/proxy.rs`
//!   calls once.
//! - Heads of HTTP/1 requests are read by `read_head` in [`http1::head`], for devices and for the forward
//!   proxy.
//! - The largest record is decided by `Offer::limit` in [`tls::record`]: the smaller of the configured
//!   size and what the client asks for. [`tls::listener`] applies it to the handshake,
//!   `src/proxy/delivery.rs` to each response, and [`drip::stream`] cuts the body. The size is configured
//!   as `drip.chunk_size` and as `chunk_size` of a profile. `tests/records.rs` tests the configured size,
//!   `tests/profiles.rs` what clients ask for, `tests/devices.rs` real stacks.
//! - A configuration key is added as [`config`] describes.
//! - The schedule is called by [`drip::stream`] alone: `begin` when a response is armed, `next` in
//!   `poll_due` (`src/drip/stream/waits.rs`), `sent` in `poll_record` (`src/drip/stream/body.rs`).
//! - A metric is a field of its domain's struct, and a line in that struct's `register`, in the domain's
//!   file of [`metrics`].
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
//! 4. - [`server`]: builds and runs all services that a configuration describes.
//! 5. - [`config`]: reads YAML and the environment into the settings of every domain.
//!    - [`proxy`]: what becomes of a request, phase by phase; uploads.
//!    - [`forward_proxy`]: tunnels for tools that upload, opened with CONNECT.
//!    - [`admin`]: metrics, health and classes over HTTP.
//! 6. - [`http1`]: what serves HTTP/1.1 on a connection.
//!    - [`limits`]: connections and requests, per client and in all.
//!    - [`transfers`]: downloads, uploads and tunnels that run: their list, their figures, the access log.
//!    - [`lifecycle`]: readiness, drain, shutdown.
//!    - [`upgrade`]: listening sockets pass to the next process.
//!    - [`proxy_protocol`]: the client's address, as a load balancer reports it.
//!    - `notify`: what the service manager is told.
//! 7. - [`spool`]: bodies in private files, each read from S3 once.
//! 8. - [`s3`]: names, headers, requests and connections of S3.
//!    - [`tls`]: records and their sizes, certificates.
//!    - [`drip`]: which bytes leave when.
//!    - [`shape`]: the class tree, which divides bandwidth.
//!    - [`route`]: paths to object keys.
//!    - [`profile`]: how each kind of device is served.
//! 9. - [`metrics`]: every metric.
//!    - [`units`]: sizes, rates and times as people write them.
//!    - [`networks`]: sets of addresses.
//!    - [`header_pattern`]: sets of header names.
//!    - [`valve`]: keeps the reader of a body from reading ahead of its writer.
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
//! - [`s3::endpoint`], [`s3::expiry`], [`s3::headers`], [`s3::presigned`], [`s3::settings`]
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
