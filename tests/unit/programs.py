# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of this machine that tests run, hundreds of times.

Given a path and ``close_fds=False``, no interpreter copies itself for a program: those before 3.10
do, which takes longer than most of what is run.  No program gets Python's descriptors anyway.
"""

from __future__ import annotations

import functools
import shutil
import subprocess

import pytest


@functools.cache
def path(name: str) -> str:
    """Find a program."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: make deps")
    return found


def run(name: str, *arguments: object, input: str | None = None, stderr: int | None = None) -> str:
    """Run a program, which must not fail; gives what it says.

    Args:
        name: its name.
        arguments: its arguments.
        input: what it is told.
        stderr: where its errors go; see the library's subprocess.
    """
    done = subprocess.run(
        [path(name), *map(str, arguments)],
        check=True,
        close_fds=False,
        text=True,
        input=input,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    return done.stdout
