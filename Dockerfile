# dripline without the demo, for configuration by environment alone and a read-only root:
#
#     docker build -t dripline .
#     docker run --read-only --stop-timeout 120 --env-file .env -p 443:8443 dripline
#
# tests/image builds it and runs it that way. (podman and buildah: add --format docker, or the
# HEALTHCHECK is left out.)

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /build

# The dependencies are a layer of their own, so that a change in src/ does not rebuild them. (benches/ is
# there because Cargo refuses a manifest whose targets are missing.)
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY third_party third_party
RUN mkdir src \
    && echo '//! Stands in while the dependencies are built.' | tee src/lib.rs src/main.rs \
    && echo 'fn main() {}' >> src/main.rs \
    && cargo build --release --locked --no-default-features --features vendored-openssl \
    && rm -r src

COPY conf conf
COPY src src
# Cargo compares modification times; those of a checkout may be older than the build of the stand-ins.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --no-default-features --features vendored-openssl \
    && strip --strip-debug target/release/dripline


FROM docker.io/library/debian:bookworm-slim
# The root certificates for S3's certificate. OpenSSL itself is linked into the binary.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

COPY LICENSE /usr/share/doc/dripline/copyright
COPY --from=build /build/target/release/dripline /usr/bin/dripline

# Schedulers kill a container sooner than the daemon's default of 10 minutes: Amazon ECS after at most
# 120 s, so running drips have a little less. Docker waits 10 s unless --stop-timeout says otherwise,
# Kubernetes 30 s (terminationGracePeriodSeconds).
ENV DRIPLINE__SERVER__DRAIN_TIMEOUT=110s
# A container is replaced, not upgraded from within.
ENV DRIPLINE__SERVER__UPGRADE_SOCK=off

# The spool. A volume that is created here gets the directory's owner; any other file system that is
# mounted here has to belong to 65532.
RUN install -d -o 65532 -g 65532 -m 0700 /var/cache/dripline
VOLUME /var/cache/dripline

# A number, because Kubernetes' runAsNonRoot cannot check a name. The account needs no passwd entry and
# owns nothing in the image except the spool's directory.
USER 65532:65532

# TLS and plain HTTP, unless the configuration says otherwise. The admin endpoint is only on the
# container's loopback, 127.0.0.1:9100.
EXPOSE 8443 8080

# /readyz of the admin endpoint: not ready before the listeners are up, and while draining.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["dripline", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["dripline"]
CMD ["run"]
