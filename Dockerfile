# tokenbroker, alone in an image: no shell, no packages, nobody's rights.
#
#   docker build -t tokenbroker --build-arg VERSION=… --build-arg REVISION=$(git rev-parse HEAD) .
#
# scripts/image-check runs what this file builds in a directory that has what the image has, with no container engine.
# It takes the commands from here: RUN lines write into /out and nowhere else.

FROM --platform=$BUILDPLATFORM golang:1.26.8-trixie AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY gen/go.mod gen/go.sum gen/
COPY client/go.mod client/go.sum client/
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /out/tokenbroker ./cmd/tokenbroker
# The directories that the broker's user may write to. A volume that is new takes owner and mode of the one it is mounted on:
# /data has store and sockets, /keys is for a key that several brokers share, /certs for `certs dev`, /demo for `demo upstream`,
# /tmp for `demo`.
# The licences of what the binary is made of ask that their texts go with it.
RUN install -d -m 0700 /out/dirs/data /out/dirs/keys /out/dirs/certs /out/dirs/demo /out/dirs/tmp && \
    install -m 0644 LICENSE THIRD_PARTY_LICENSES /out/

FROM scratch
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="tokenbroker" \
      org.opencontainers.image.description="A gRPC broker of access tokens for third-party APIs" \
      org.opencontainers.image.source="https://github.com/tokenbroker/tokenbroker" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/dirs/ /
COPY --from=build /out/LICENSE /licenses/LICENSE
COPY --from=build /out/THIRD_PARTY_LICENSES /licenses/THIRD_PARTY_LICENSES
COPY --from=build /out/tokenbroker /tokenbroker
# Commands in the container, health checks among them, ask the broker through its socket, wherever else it listens.
# (What hadolint takes for a secret is the program's name, which has TOKEN in it.)
# hadolint ignore=DL3064
ENV TOKENBROKER_DATA_DIR=/data \
    TOKENBROKER_ADDRESS=unix:/data/tokenbroker.sock
VOLUME ["/data"]
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["/tokenbroker", "health"]
ENTRYPOINT ["/tokenbroker"]
CMD ["serve"]
