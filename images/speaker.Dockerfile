# The speaker image: one static binary and nothing else. The build context holds the binary only (scripts/images.sh).
FROM scratch
ARG VERSION
LABEL org.opencontainers.image.title="landfall-speaker" \
      org.opencontainers.image.description="Announces load-balancer addresses and programs the node's data path" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --chmod=0755 landfall-speaker /landfall-speaker
# User 0 with every capability dropped but NET_ADMIN and NET_RAW (the chart does that). Another user would lose
# these two at exec: Kubernetes sets no ambient capabilities, and file capabilities do not apply under
# allowPrivilegeEscalation: false.
USER 0:0
ENTRYPOINT ["/landfall-speaker"]
