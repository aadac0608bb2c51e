#!/usr/bin/env bash
# Makes a base image for the Containerfile from Debian's packages, where no registry of images can
# be reached, and prints its name with its digest.
#
#   infra/images/debian.sh localhost/python-debian [OPTION...]    # options of debootstrap
#
# Needs root, buildah, debootstrap and a Debian mirror. Debian 12 has Python 3.11, which the
# functions' libraries are resolved for. Its layers are larger than those of the official image.
set -euo pipefail

name=${1:?The first argument names the image}
shift
folder=$(mktemp -d)
trap 'rm -rf --one-file-system "$folder"' EXIT

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$@" bookworm "$folder/root" >&2
ln -s python3 "$folder/root/usr/bin/python"
rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
# An archive, since buildah skips nothing in it and keeps owners and links.
tar --create --one-file-system --directory "$folder/root" --file "$folder/root.tar" .
container=$(buildah from scratch)
buildah add --quiet "$container" "$folder/root.tar" / >&2
buildah commit --quiet --rm --format docker "$container" "$name" >&2
printf '%s@%s\n' "$name" "$(buildah inspect --type image --format '{{.FromImageDigest}}' "$name")"
