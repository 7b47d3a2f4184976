# dripline without the demo, for configuration by environment alone and a read-only root:
#
#     docker build -t dripline .
#     docker run --read-only --stop-timeout 120 --env-file .env -p 443:8443 dripline
#
# tests/image builds it and runs it that way. (podman and buildah: add --format docker, or the
# HEALTHCHECK is left out.)

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /build

# The dependencies in a layer of their own, which a change of src/ leaves alone. (benches/ because
# Cargo reads no manifest whose targets are not all there.)
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
# Cargo goes by modification times, and those of a checkout may be older than the stand-ins' build.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --no-default-features --features vendored-openssl \
    && strip --strip-debug target/release/dripline


FROM docker.io/library/debian:bookworm-slim
# The roots that S3's certificate is verified against. OpenSSL itself is inside the binary.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

COPY LICENSE /usr/share/doc/dripline/copyright
COPY --from=build /build/target/release/dripline /usr/bin/dripline

# Schedulers stop a container sooner than the daemon's own 10 minutes: Amazon ECS waits 120 s at the
# most, so running drips get a little less. Docker waits 10 s unless --stop-timeout says otherwise,
# Kubernetes 30 s (terminationGracePeriodSeconds).
ENV DRIPLINE__SERVER__DRAIN_TIMEOUT=110s
# A container is replaced, not upgraded from within.
ENV DRIPLINE__SERVER__UPGRADE_SOCK=off

# The spool. A volume that is made for it takes the directory's owner over; a file system that is
# mounted here instead has to belong to 65532.
RUN install -d -o 65532 -g 65532 -m 0700 /var/cache/dripline
VOLUME /var/cache/dripline

# A number, because Kubernetes' runAsNonRoot can judge no name. The account needs no entry and owns
# nothing in the image but the spool's directory.
USER 65532:65532

# TLS and plain HTTP, where no configuration says otherwise. The admin endpoint stays on the
# container's own loopback, 127.0.0.1:9100.
EXPOSE 8443 8080

# /readyz of the admin endpoint: unready before the listeners are up and again while draining.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["dripline", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["dripline"]
CMD ["run"]
