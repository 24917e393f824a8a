#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Install what tests, demo and bench need: Debian packages, and a virtual environment for each
# interpreter.  usage: deps.sh PYTHON PYTHON39 PYTHON312 FOLDER
set -euo pipefail
python=$1 python39=$2 python312=$3 folder=$4

wanted=$(cat tests/packages.txt tests/lab/packages.txt | sed 's/#.*//' | tr '\n' ' ')
missing=$(for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' ||
        echo "$package"
done)
if [ -n "$missing" ]; then
    # The services are started by the tests, in namespaces of their own; the machine's policy file,
    # if it has one, is left alone.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f $policy' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    apt-get install -y -qq --no-install-recommends $missing >build-apt.log 2>&1 ||
        { tail -n 40 build-apt.log >&2; exit 1; }
    rm -f build-apt.log
fi

for interpreter in "$python39" "$python312"; do
    if [ -z "$interpreter" ]; then
        echo "deps: python3.9 and python3.12 are needed, on PATH or under ~/.pyenv/versions;" \
             "name them with PYTHON39= and PYTHON312=" >&2
        exit 1
    fi
done

install() { "$1/bin/python" -m pip install -q --disable-pip-version-check "${@:2}"; }

mkdir -p "$folder"
# The machine's own interpreter with the distribution's libraries: what the lab's hosts run on.
"$python" -m venv --system-site-packages "$folder/system"
install "$folder/system" -r tests/requirements-dev.txt -r tests/requirements-lint.txt
"$python39" -m venv "$folder/el9"
install "$folder/el9" -r tests/requirements-dev.txt -c tests/constraints-el9.txt \
    ovs pyroute2 lxml libvirt-python
"$python312" -m venv "$folder/latest"
install "$folder/latest" -r tests/requirements-dev.txt ovs pyroute2 lxml libvirt-python
