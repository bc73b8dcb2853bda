# Two stages: a builder with the toolchain, and an image of one binary that runs as nobody in particular.
#
#   docker build --tag daypass .
#
# Made so that a commit gives the same bytes on any machine, though nobody has compared two builds yet:
#
#   docker buildx build --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --build-arg REVISION=$(git rev-parse HEAD) \
#     --provenance=false --output type=oci,dest=daypass.tar,rewrite-timestamp=true .
#
# rests on: exact versions of everything in Cargo.lock (`--locked`) and of the compiler; no path of the machine in the binary; no
# time of the build in it, nor, by SOURCE_DATE_EPOCH, in the image; and on base images that are what they were. A tag can be moved:
# for a release give the digests that `docker buildx imagetools inspect IMAGE` says, as
# `--build-arg BUILDER=rust:1.95.0-bookworm@sha256:... --build-arg RUNTIME=gcr.io/distroless/cc-debian12:nonroot@sha256:...`.
# The second is published under no tag that stays.
#
# glibc and not musl: the binary has C in it (mimalloc, ring), its figures in the README are those of glibc, and nobody has measured
# the other. So the base is the smallest that has a libc, libgcc and the certificate authorities that `rediss://`, `jwks_url` and
# bundles are verified with. Both stages are Debian 12, because the binary wants the libc it was built with, or a later one.
ARG BUILDER=rust:1.95.0-bookworm
ARG RUNTIME=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILDER} AS build
WORKDIR /src
# Panics and C assertions name files; not those of this machine.
ENV CARGO_INCREMENTAL=0 \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    CARGO_TERM_COLOR=never \
    CFLAGS="-ffile-prefix-map=/src=. -ffile-prefix-map=/usr/local/cargo=cargo" \
    RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
# Only what the binary is made of: a change of a document or a manifest builds nothing anew. Cargo reads the manifest's tests and
# benches to know that they are there.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto ./proto
COPY benches ./benches
COPY tests ./tests
COPY policies ./policies
COPY src ./src
# The caches keep what a change has not touched, and are no part of any layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin daypass \
    && install -D --mode 0755 target/release/daypass /out/usr/local/bin/daypass \
    # There is no shell in the other stage to make it with.
    && install --directory --mode 0700 /out/var/lib/daypass

FROM ${RUNTIME}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="daypass" \
      org.opencontainers.image.description="Just-in-time access for Envoy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build --chown=0:0 /out/usr/local/bin/daypass /usr/local/bin/daypass
# The only place it writes to; everything else may be mounted read-only. A new volume takes the owner from here.
COPY --from=build --chown=10001:10001 /out/var/lib/daypass /var/lib/daypass
VOLUME /var/lib/daypass
ENV DAYPASS_DATA_DIR=/var/lib/daypass
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
# Checks, API, ops. All are on loopback unless told otherwise, so nothing is to be had by publishing them alone.
EXPOSE 9191 9292 9393
# Exit status 0 while it is ready. There is nothing else in the image that could ask.
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/local/bin/daypass", "status"]
# SIGTERM finishes the checks in flight, at most `limits.drain_timeout` (10 s).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/daypass"]
CMD ["serve"]
