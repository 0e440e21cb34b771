# scripts/image.sh lays the context dist/image ready and builds from it:
#   rootfs/    the executable, the loader and libc files it needs, CA certificates, time zones, the user's name, licences
#   writable/  the folder data/, which belongs to the user
FROM scratch
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="protean" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY rootfs/ /
COPY --chown=10001:10001 writable/ /

# Everything that is written goes to /data: the embedded database and SQLite's temporary files. The root can be read-only.
# A CA file mounted over /etc/ssl/certs/ca-certificates.crt counts beside the authorities that the runtime knows by itself.
ENV PATH=/usr/local/bin \
    PROTEAN_DATA=/data \
    SQLITE_TMPDIR=/data \
    NODE_USE_SYSTEM_CA=1 \
    BUN_RUNTIME_TRANSPILER_CACHE_PATH=0
# Yours: /app/domain.toml, /app/handlers, and /app/node_modules if handlers import packages.
WORKDIR /app
VOLUME /data
USER 10001:10001

# Ready or not, by [server.health] of domain.toml. What restarts unhealthy containers should ask `protean health http://127.0.0.1:8080/livez`
# instead: a server that waits for Redis or PostgreSQL is not ready, and a restart doesn't help it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/protean", "health"]
ENTRYPOINT ["/usr/local/bin/protean"]
CMD ["server", "--handlers", "/app/handlers"]
