#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Pack the sources, as they are: of a git checkout what git knows of, else all but build/.
# usage: source.sh FOLDER FILE   FOLDER is what they unpack to, FILE the archive (.tar.gz)
set -euo pipefail
folder=$1 file=$(realpath "$2")
cd -P "$(dirname "$0")/.."

if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$PWD" ]; then
    # What is changed and not committed yet belongs to it, as it does for "make install".
    tree=$(git stash create 2>/dev/null) || tree=
    git archive --format=tar.gz --prefix="$folder/" -o "$file" "${tree:-HEAD}"
else
    tar --create --gzip --file "$file" --owner=0 --group=0 --transform "s,^\.,$folder," \
        --exclude=./build --exclude=./.git --exclude=__pycache__ --exclude='.*_cache' \
        --exclude=.hypothesis .
fi
