FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /relay ./cmd/relay

# No shell and no package manager; certificates are included, the user is 65532.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /relay /relay
EXPOSE 8000
ENTRYPOINT ["/relay"]
CMD ["run", "--config", "/etc/relay/relay.yaml"]
