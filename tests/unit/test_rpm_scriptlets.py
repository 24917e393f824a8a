# SPDX-License-Identifier: GPL-2.0-or-later
"""What the packages do to a host when they come and go."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"
TOKEN = "1f" * 16

# Seconds; a shell that waits for what never comes is ended.
DEADLINE = 20.0

# Each notes that it was called, and all but these do nothing.
PROGRAMS = {
    "modprobe": "exit 1",
    "py3clean": "",
    "py3compile": "",
    "restorecon": "",
    "selinuxenabled": "",
    "sleep": "touch {root}/run/vif-driver/released/" + TOKEN,
    "systemd-sysusers": "",
    "systemd-tmpfiles": "",
    "systemctl": """case "$*" in *MainPID*) echo $PPID ;; esac""",
}

Scriptlet = Callable[[str, str], list[str]]


def of_spec(section: str) -> str:
    """Give a scriptlet of the RPM's, without what macros of systemd's and SELinux's do."""
    text = (PACKAGING / "vif-driver.spec.in").read_text(encoding="utf-8")
    values = dict(re.findall(r"^%global (\w+) (.*)$", text, re.M))
    body = text.partition(f"\n%{section}\n")[2]
    lines = re.split(r"^%(?:pre|post|files|trigger)\w*(?: \w+)?$", body, flags=re.M)[0]
    lines = "\n".join(line for line in lines.splitlines() if not line.startswith("%"))
    return re.sub(r"%\{(\w+)\}", lambda name: values[name[1]], lines)


def of_debian(name: str) -> str:
    """Give a maintainer script of the Debian package."""
    return (PACKAGING / "debian" / name).read_text(encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Stands for the root of a host that systemd has booted."""
    for name in ("vif-driver/starting", "vif-driver/released", "systemd/system"):
        (tmp_path / "run" / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def run_folder(root: Path) -> Path:
    """Stands for /run/vif-driver."""
    return root / "run" / "vif-driver"


@pytest.fixture
def scriptlet(root: Path) -> Scriptlet:
    """Runs a scriptlet with an argument, and gives what it called, without what it asked."""
    programs, called = root / "bin", root / "called"
    programs.mkdir()
    for name, does in PROGRAMS.items():
        text = f"#!/bin/sh\necho {name} $* >>{called}\n{does.format(root=root)}\n"
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(text: str, argument: str) -> list[str]:
        called.write_text("")
        subprocess.run(
            ["/bin/sh", "-c", text.replace("/run/", f"{root}/run/"), "scriptlet", argument],
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE,
            check=True,
        )
        lines = called.read_text().splitlines()
        return [line for line in lines if not line.startswith(("selinuxenabled", "systemctl show"))]

    return run


# ---- it comes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "argument"), [(of_spec("post"), "1"), (of_debian("postinst"), "configure")]
)
def test_the_kernel_is_ready_for_security_groups_before_the_next_boot(
    root: Path, scriptlet: Scriptlet, text: str, argument: str
) -> None:
    # That a kernel may not have the module fails nothing.
    on_a_running_host = scriptlet(text, argument)
    (root / "run/systemd/system").rmdir()
    in_an_image = scriptlet(text, argument)

    assert "modprobe -q br_netfilter" in on_a_running_host
    assert not [call for call in in_an_image if call.startswith("modprobe")]


# ---- it goes -------------------------------------------------------------------------------------


# Each stops the agent first.
REMOVALS = pytest.mark.parametrize(
    ("text", "argument"), [(of_spec("preun"), "0"), (of_debian("prerm"), "remove")]
)


def sleeps(called: list[str]) -> list[str]:
    return [call for call in called if call.startswith("sleep")]


@REMOVALS
def test_a_vm_that_stands_still_is_waited_for(
    run_folder: Path, scriptlet: Scriptlet, text: str, argument: str
) -> None:
    (run_folder / "starting" / "vm").write_text(f'{{"token": "{TOKEN}"}}')

    # While it sleeps, the hook of the VM that it waits for lets that run.
    assert sleeps(scriptlet(text, argument)) == ["sleep 0.1"]


@REMOVALS
def test_one_that_was_let_run_is_not(
    run_folder: Path, scriptlet: Scriptlet, text: str, argument: str
) -> None:
    (run_folder / "starting" / "vm").write_text(f'{{"token": "{TOKEN}"}}')
    (run_folder / "released" / TOKEN).touch()

    assert sleeps(scriptlet(text, argument)) == []


@REMOVALS
def test_nor_is_what_is_no_file(
    run_folder: Path, scriptlet: Scriptlet, text: str, argument: str
) -> None:
    os.mkfifo(run_folder / "starting" / "pipe")

    assert sleeps(scriptlet(text, argument)) == []


# ---- SELinux -------------------------------------------------------------------------------------

RELABEL = "restorecon -iRF /var/lib/vdsm/staging /var/lib/vdsm/persistence"


def test_with_the_policy_module_vdsms_notes_get_its_label(scriptlet: Scriptlet) -> None:
    assert RELABEL in scriptlet(of_spec("posttrans selinux"), "1")


def test_an_agent_that_was_there_first_is_restarted_with_its_socket(scriptlet: Scriptlet) -> None:
    # The shell's own process stands for it, which is in no domain of ours.
    restart = "systemctl try-restart vif-agent.socket vif-agent.service"

    assert scriptlet(of_spec("posttrans selinux"), "1")[-1] == restart


@pytest.mark.parametrize(("left", "called"), [("0", [RELABEL]), ("1", [])])
def test_without_it_they_get_back_what_they_had(
    scriptlet: Scriptlet, left: str, called: list[str]
) -> None:
    assert scriptlet(of_spec("postun selinux"), left) == called
