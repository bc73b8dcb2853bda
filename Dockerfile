# Two stages: a builder with the toolchain, and an image with one binary that runs as nobody in particular.
FROM rust:1.95-bookworm AS build
WORKDIR /src
# Dependencies first, so that a change of the source does not build them again.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto ./proto
COPY benches ./benches
COPY tests ./tests
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --release --locked --bin daypass && rm -rf src
COPY policies ./policies
COPY src ./src
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin daypass

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/daypass --create-home daypass
COPY --from=build /src/target/release/daypass /usr/local/bin/daypass
USER 10001:10001
# The only place it writes to; everything else may be mounted read-only.
VOLUME /var/lib/daypass
ENV DAYPASS_DATA_DIR=/var/lib/daypass
EXPOSE 9191 9292 9393
# No shell tools in the image: bash speaks enough TCP to ask.
HEALTHCHECK --interval=2s --timeout=2s --start-period=5s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9393; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["daypass"]
CMD ["serve"]
