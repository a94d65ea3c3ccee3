# The gateway alone; compose.yaml puts registries behind it.

# Both stages are Debian 12: the program needs the C library that it was built with, or a newer one.
FROM rust:1-bookworm AS build
# Whatever version Debian 12 has is right.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY crates crates
COPY src src
RUN cargo build --locked --profile dist

FROM debian:12-slim
# The authorities that upstreams' certificates are checked with, as new as they are.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/roadstead --create-home --shell /usr/sbin/nologin roadstead
COPY --from=build /build/target/dist/roadstead /usr/local/bin/roadstead
COPY conf/container.yaml /etc/roadstead/container.yaml
ENV ROADSTEAD_CONFIG=/etc/roadstead/container.yaml
USER 10001
WORKDIR /var/lib/roadstead
# A volume takes over whose this folder is.
VOLUME /var/lib/roadstead
EXPOSE 8443 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["roadstead"]
CMD ["serve"]
