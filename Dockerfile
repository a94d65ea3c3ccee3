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
RUN cargo build --locked --profile dist && mkdir home

# The C library, the authorities that upstreams' certificates are checked with, and no shell.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /build/target/dist/roadstead /usr/local/bin/roadstead
# A volume takes over whose this folder is.
COPY --from=build --chown=10001:10001 /build/home /var/lib/roadstead
COPY conf/container.yaml /etc/roadstead/container.yaml
ENV ROADSTEAD_CONFIG=/etc/roadstead/container.yaml
USER 10001
WORKDIR /var/lib/roadstead
VOLUME /var/lib/roadstead
EXPOSE 8443 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s CMD ["roadstead", "health"]
ENTRYPOINT ["roadstead"]
CMD ["serve"]
