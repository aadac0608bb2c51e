#!/usr/bin/env bash
# Builds the images of a release: one per function, and `muster-up`. Run by `make images`, which
# builds the bundles first.
#
#   infra/images/build.sh docker.io/library/python@sha256:… [OPTION...]    # options of each build
#
# The base image must have a digest, as infra/images/base.sh prints it. A tag is refused, since it
# may name another image later. ENGINE chooses between several installed engines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

base=${1:-}
if [[ ! $base =~ ^[^[:space:]@]+@sha256:[0-9a-f]{64}$ ]]; then
  echo "The base image ${base:+is \"$base\", which }has no digest. Set one: make images PYTHON_IMAGE=\"\$(infra/images/base.sh)\"" >&2
  exit 2
fi
shift
for engine in ${ENGINE:-podman docker buildah}; do
  if command -v "$engine" >/dev/null; then break; fi
  engine=
done
if [[ -z $engine ]]; then
  echo "Building images needs ${ENGINE:-podman, docker or buildah}, which is not installed" >&2
  exit 1
fi
options=("$@")
if [[ $engine != docker ]]; then
  # The OCI format, their default, has no HEALTHCHECK: it would be dropped with a warning.
  options+=(--format docker)
fi

build() { # tag, then arguments
  local tag=$1
  shift
  "$engine" build --file Containerfile --build-arg "PYTHON=$base" ${options[@]+"${options[@]}"} "$@" --tag "$tag" .
}

build muster-client-api --target function --build-arg FUNCTION=client_api
build muster-operator-api --target function --build-arg FUNCTION=operator_api
build muster-aggregator --target function --build-arg FUNCTION=aggregator
build muster-aggregator-tensorflow --target function --build-arg FUNCTION=aggregator --build-arg BUNDLE=aggregator-tensorflow
build muster-committer --target function --build-arg FUNCTION=committer
build muster-up --target up
