#!/usr/bin/env bash
# Prints the base image of the Containerfile by its digest, as its registry names it now: docker.io/library/python@sha256:…
#
#   infra/images/base.sh [IMAGE]    # docker.io/library/python:3.11-slim-bookworm unless another is given
#
# Needs skopeo, docker (with buildx), podman or crane, and the network. Note the line beside the release that was built on it: with the
# same digest, the same sources give the same image again.
set -euo pipefail

image=${1:-docker.io/library/python:3.11-slim-bookworm}
if command -v skopeo >/dev/null; then
  # The digest of the list of platforms, not of this machine's image: a build for another platform takes the same name.
  digest=sha256:$(skopeo inspect --raw "docker://$image" | sha256sum | cut -d' ' -f1)
elif command -v crane >/dev/null; then
  digest=$(crane digest "$image")
elif command -v docker >/dev/null; then
  digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image")
elif command -v podman >/dev/null; then
  podman pull --quiet "$image" >/dev/null
  digest=$(podman image inspect --format '{{.Digest}}' "$image")
else
  echo "To resolve $image, skopeo, crane, docker or podman is needed, and none of them is installed" >&2
  exit 1
fi
if [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
  echo "The registry named no digest for $image: $digest" >&2
  exit 1
fi
printf '%s@%s\n' "${image%:*}" "$digest"
