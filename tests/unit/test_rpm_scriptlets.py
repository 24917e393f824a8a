# SPDX-License-Identifier: GPL-2.0-or-later
"""Removing the package waits for VMs that stand still, and for nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SPEC = Path(__file__).parents[2] / "packaging" / "vif-driver.spec.in"
TOKEN = "1f" * 16

# Seconds; a shell that waits for what never comes is ended.
DEADLINE = 20.0


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Stands for /run/vif-driver."""
    for name in ("starting", "released"):
        (tmp_path / name).mkdir()
    return tmp_path


def remove(run_folder: Path) -> list[str]:
    """Run what waits before the package is removed; gives what the host did meanwhile.

    While it sleeps, the hook of the VM that it waits for lets that run.
    """
    lines = SPEC.read_text(encoding="utf-8").partition("\n%preun\n")[2].partition("\n%postun\n")[0]
    # All but systemd's macro, which stops the agent.
    lines = "\n".join(line for line in lines.splitlines() if not line.startswith("%"))
    assert "/run/vif-driver/" in lines
    scriptlet = lines.replace("/run/vif-driver", str(run_folder))
    programs = run_folder / "bin"
    programs.mkdir()
    slept = run_folder / "slept"
    sleep = f"#!/bin/sh\necho slept >>{slept}\ntouch {run_folder}/released/{TOKEN}\n"
    (programs / "sleep").write_text(sleep)
    (programs / "sleep").chmod(0o755)
    subprocess.run(
        ["/bin/sh", "-c", scriptlet, "preun", "0"],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        timeout=DEADLINE,
        check=True,
    )
    return slept.read_text().split() if slept.exists() else []


def test_a_vm_that_stands_still_is_waited_for(run_folder: Path) -> None:
    (run_folder / "starting" / "vm").write_text(f'{{"token": "{TOKEN}"}}')

    assert remove(run_folder) == ["slept"]


def test_one_that_was_let_run_is_not(run_folder: Path) -> None:
    (run_folder / "starting" / "vm").write_text(f'{{"token": "{TOKEN}"}}')
    (run_folder / "released" / TOKEN).touch()

    assert remove(run_folder) == []


def test_nor_is_what_is_no_file(run_folder: Path) -> None:
    os.mkfifo(run_folder / "starting" / "pipe")

    assert remove(run_folder) == []
