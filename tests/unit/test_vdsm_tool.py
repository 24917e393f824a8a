# SPDX-License-Identifier: GPL-2.0-or-later
"""What vdsm-tool finds of ours, and what becomes of its arguments."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .vdsm_tool import PROGRAM, TOOL

PROJECT = Path(__file__).parents[2]

# Stands for vifctl, and says what it was told.
_VIFCTL = """\
import json


def main(arguments):
    print(json.dumps(arguments))
    return 3
"""


class VdsmTool:
    """vdsm-tool with our module.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "vdsm/tool").mkdir(parents=True)
        (folder / "vdsm/__init__.py").touch()
        (folder / "vdsm/tool/__init__.py").write_text(TOOL)
        (folder / "vdsm-tool").write_text(PROGRAM)
        shutil.copy(PROJECT / "packaging/vdsm-tool/ovn_config.py", folder / "vdsm/tool")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": f"{self.folder}:{PROJECT}", "PATH": "/usr/sbin:/usr/bin:/bin"}
        command = [sys.executable, str(self.folder / "vdsm-tool"), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def tool(tmp_path: Path) -> VdsmTool:
    """vdsm-tool with our module, and a vifctl that says what it was told."""
    (tmp_path / "vif_driver").mkdir()
    (tmp_path / "vif_driver/__init__.py").touch()
    (tmp_path / "vif_driver/ctl.py").write_text(_VIFCTL)
    return VdsmTool(tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["192.0.2.1", "ovirtmgmt"], ["--ipsec-if-possible", "192.0.2.1", "ovirtmgmt"]),
        (["192.0.2.1", "tun", "hv1"], ["--ipsec-if-possible", "192.0.2.1", "tun", "hv1"]),
        (["192.0.2.1", "tun", ""], ["--ipsec-if-possible", "192.0.2.1", "tun"]),
        (
            ["192.0.2.1", "tun", "--no-wait"],
            ["--ipsec-if-possible", "192.0.2.1", "tun", "--no-wait"],
        ),
        (["192.0.2.1", "tun", "--no-ssl"], ["192.0.2.1", "tun", "--no-ssl"]),
        (["192.0.2.1", "tun", "--ipsec"], ["192.0.2.1", "tun", "--ipsec"]),
    ],
)
def test_ovn_config_is_vifctl_configure_ovn(
    tool: VdsmTool, words: list[str], told: list[str]
) -> None:
    done = tool.run("ovn-config", *words)

    assert (done.returncode, json.loads(done.stdout)) == (3, ["configure", "ovn", *told])


@pytest.mark.parametrize("more", [[], ["--force"]])
def test_ovn_unconfigure_is_its_undo(tool: VdsmTool, more: list[str]) -> None:
    done = tool.run("ovn-unconfigure", *more)

    assert json.loads(done.stdout) == ["configure", "ovn", "--undo", *more]


@pytest.mark.parametrize(
    "words",
    [
        ["ovn-config"],
        ["ovn-config", "192.0.2.1"],
        ["ovn-config", "192.0.2.1", "tun", "hv1", "x"],
        ["ovn-unconfigure", "192.0.2.1"],
    ],
)
def test_the_wrong_number_of_arguments_shows_the_usage(tool: VdsmTool, words: list[str]) -> None:
    done = tool.run(*words)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("usage: ")
    assert f"[options] {words[0]} " in done.stderr


def test_the_help_of_vdsm_tool_has_both(tool: VdsmTool) -> None:
    shown = tool.run("--help").stdout

    assert "[options] ovn-config CENTRAL TUNNEL [FQDN] [OPTION...]" in shown
    assert "[options] ovn-unconfigure [--force]" in shown


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    done = VdsmTool(tmp_path).run("ovn-config", "engine.example.com", "ovirtmgmt")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "vifctl: 'engine.example.com' is no IP address of OVN's southbound database; "
        "give its address, such as 192.0.2.1 or 2001:db8::1, not its name\n"
    )
