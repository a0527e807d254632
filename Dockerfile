# docker build -t tiergate --build-arg VERSION="$(git describe --tags --always)" .
# docker run --rm -e DATABASE_URL=… -v ./skene.config.ts:/app/skene.config.ts:ro tiergate
FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
# The image has no time zones of its own, so the binary carries them.
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags timetzdata \
    -ldflags "-s -w -X main.version=${VERSION}" -o /sidecar ./cmd/sidecar

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /sidecar /sidecar
WORKDIR /app
USER 65532:65532
# Webhooks and links. The admin pages (8377) stay on the container's loopback unless TIERGATE_ADMIN_LISTEN says otherwise.
ENV TIERGATE_WEBHOOKS_LISTEN=0.0.0.0:8378
EXPOSE 8378
ENTRYPOINT ["/sidecar"]
CMD ["run"]
