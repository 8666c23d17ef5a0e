# The controller image: one static binary and nothing else. The build context holds the binary only (scripts/images.sh).
FROM scratch
ARG VERSION
LABEL org.opencontainers.image.title="landfall-controller" \
      org.opencontainers.image.description="Allocates load-balancer addresses and writes Service status" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --chmod=0755 landfall-controller /landfall-controller
# A number, so that runAsNonRoot can be checked without a user database in the image.
USER 65532:65532
ENTRYPOINT ["/landfall-controller"]
