#!/usr/bin/env bash
# Prints the Containerfile's base image with its current digest: docker.io/library/python@sha256:…
#
#   infra/images/base.sh [IMAGE]    # default: docker.io/library/python:3.11-slim-bookworm
#
# Needs skopeo, docker (with buildx), podman or crane, and the network. Record the output with the
# release: equal digests and equal sources reproduce an image.
set -euo pipefail

image=${1:-docker.io/library/python:3.11-slim-bookworm}
if command -v skopeo >/dev/null; then
  # The digest of the multi-platform index, which is valid for builds on every platform.
  digest=sha256:$(skopeo inspect --raw "docker://$image" | sha256sum | cut -d' ' -f1)
elif command -v crane >/dev/null; then
  digest=$(crane digest "$image")
elif command -v docker >/dev/null; then
  digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image")
elif command -v podman >/dev/null; then
  podman pull --quiet "$image" >/dev/null
  digest=$(podman image inspect --format '{{.Digest}}' "$image")
else
  echo "Resolving $image needs skopeo, crane, docker or podman, and none of them is installed" >&2
  exit 1
fi
if [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
  echo "The registry returned no digest for $image: $digest" >&2
  exit 1
fi
printf '%s@%s\n' "${image%:*}" "$digest"
