#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Install what tests, demo and bench need.
# usage: deps.sh system PYTHON FOLDER   Debian packages, and an environment with their libraries
#        deps.sh el9 PYTHON FOLDER      an environment with the libraries of EL9 (Python 3.9)
#        deps.sh latest PYTHON FOLDER   an environment with the newest libraries (Python 3.12)
set -euo pipefail
what=$1 python=$2 folder=$3
libraries=(ovs pyroute2 lxml libvirt-python systemd-python prometheus-client)

pip_install() {
    "$folder/$what/bin/python" -m pip install -q --disable-pip-version-check \
        -r tests/requirements-dev.txt "$@"
}

debian_packages() {
    local wanted missing policy=/usr/sbin/policy-rc.d
    wanted=$(cat tests/packages.txt tests/lab/packages.txt | sed 's/#.*//')
    missing=$(for package in $wanted; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' ||
            echo "$package"
    done)
    [ -n "$missing" ] || return 0
    # The services are started by the tests, in namespaces of their own; the machine's policy file,
    # if it has one, is left alone.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap "rm -f $policy" EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # A new machine may be busy with updates of its own.
    # shellcheck disable=SC2086  # a list of words
    apt-get install -o DPkg::Lock::Timeout=600 -y -qq --no-install-recommends $missing >build/apt.log 2>&1 ||
        { tail -n 40 build/apt.log >&2; exit 1; }
    # A firewall that nobody asked for must not close this machine when it is booted.
    if grep -qx firewalld <<<"$missing"; then
        SYSTEMD_OFFLINE=1 systemctl disable --quiet firewalld.service
    fi
}

mkdir -p build "$folder"
if [ -z "$python" ]; then
    echo "deps: the environment $what needs python3.9 (el9) or python3.12 (latest), on PATH or" \
         "under ~/.pyenv/versions; name it with PYTHON39= or PYTHON312=" >&2
    exit 1
fi
if [ "$what" = system ]; then
    debian_packages
fi
# Some versions of pip leave a copy of their certificates in the folder for temporary files.
export TMPDIR=$PWD/build/tmp
mkdir -p "$TMPDIR"
case $what in
system)
    # Network namespaces have bridge netfilter only if the machine's kernel has it loaded.
    [ -e /proc/sys/net/bridge ] || modprobe br_netfilter
    "$python" -m venv --system-site-packages "$folder/$what"
    pip_install -r tests/requirements-lint.txt
    ;;
el9)
    "$python" -m venv "$folder/$what"
    pip_install -c tests/constraints-el9.txt "${libraries[@]}"
    ;;
latest)
    "$python" -m venv "$folder/$what"
    pip_install "${libraries[@]}"
    ;;
esac
