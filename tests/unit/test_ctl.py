# SPDX-License-Identifier: GPL-2.0-or-later
"""vifctl: its arguments, what it shows, its completion and its manual page."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vif_driver import ctl
from vif_driver.ctl import listing, service, status, text, tracing
from vif_driver.errors import HostError, Unavailable
from vif_driver.inspection import finding
from vif_driver.inspection.finding import Finding
from vif_driver.inspection.vnics import ExternalVnic
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import MAC, VM_ID, VNIC_ID

PACKAGING = Path(__file__).parents[2] / "packaging"
COMMANDS = ("status", "list", "trace", "doctor", "reconcile", "protect", "configure")


def vnic(vnic_id: str = VNIC_ID, **more: Any) -> ExternalVnic:
    identity = VnicIdentity(vnic_id, Plugin.OVIRT_PROVIDER_OVN, VM_ID)
    values: dict[str, Any] = {"mac": MAC, "vm_name": "vm1", "vm_state": "running", "ready": True}
    return ExternalVnic(identity, more.pop("way", "ovn"), identity.tap, **{**values, **more})


def test_what_others_have_named_does_nothing_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_options: object) -> int:
        raise HostError("OVN has another host called hv1 (\x1b]0;hv1\x07\n)", "see to it")

    monkeypatch.setattr(ctl, "_run", refuse)

    assert ctl.main(["status"]) == ctl.WRONG
    assert capsys.readouterr().err == (
        "vifctl: OVN has another host called hv1 ( ]0;hv1  ); see to it\n"
    )


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["trace"],
        ["list", "--no"],
        ["doctor", "x"],
        ["protect", "--for", "10m"],
        ["protect", "--allow", "eth3", "--revoke", "eth3"],
        ["protect", "--allow", "../eth3"],
        ["protect", "--allow", "eth3", "--for", "9h"],
        ["protect", "--allow", "eth3", "--for", "0"],
        ["protect", "--allow", "eth3", "--for", "-1m"],
        ["protect", "--allow", "eth3", "--for", "1d"],
        ["configure"],
        ["configure", "flannel"],
        ["configure", "ovn"],
        ["configure", "ovn", "192.0.2.1"],
        ["configure", "ovn", "192.0.2.1", "--undo"],
        ["configure", "ovn", "192.0.2.1", "tun", "--private-key", "/key"],
        ["configure", "ovn", "192.0.2.1", "tun", "--no-ssl", "--ipsec"],
        ["configure", "ovn", "192.0.2.1", "tun", "--timeout", "0"],
        ["configure", "ovn", "192.0.2.1", "tun", "--timeout", "soon"],
    ],
)
def test_wrong_usage_ends_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ctl.main(arguments)

    assert ended.value.code == ctl.USAGE
    assert "usage: vifctl" in capsys.readouterr().err


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ctl.main(["--help"])

    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"\n    {command}\s", shown) for command in COMMANDS)


def test_an_error_is_one_line_and_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*, as_json: bool) -> int:
        raise HostError("it is broken", "mend it")

    monkeypatch.setattr(listing, "run", fail)

    assert ctl.main(["list"]) == ctl.WRONG
    assert capsys.readouterr().err == "vifctl: it is broken; mend it\n"


def test_a_command_imports_no_more_than_it_needs() -> None:
    heavy = ("libvirt", "pyroute2", "ovs", "lxml")
    program = f"import sys, vif_driver.ctl; print([m for m in {heavy} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == "[]\n"


# ---- status --------------------------------------------------------------------------------------


def shown(state: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, as_json: bool) -> str:
    known = status.Status(service.Service(True, True, state, None), (finding.ok("libvirt", "yes"),))
    monkeypatch.setattr(status, "look", lambda work: known)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert status.run(as_json=as_json) == ctl.FINE
    return output.getvalue()


def test_what_waits_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [
        {"vm_id": VM_ID, "vnic_id": VNIC_ID, "attachment": "ovn", "for": "start", "seconds": 2.4},
        {"vnic_id": "x"},
    ]

    lines = shown({"waiting": waiting}, monkeypatch, as_json=False).splitlines()

    assert f"waiting    2 s  vNIC {VNIC_ID} (ovn) of VM {VM_ID} for its VM's start" in lines
    assert "waiting      ?  vNIC x (?) of VM ? for ?" in lines


@pytest.mark.parametrize("state", [{}, {"waiting": None}, {"waiting": [3]}])
def test_an_older_agent_tells_less(state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.loads(shown(state, monkeypatch, as_json=True))

    assert answer["waiting"] == []
    assert answer["agent"] == {**state, "running": True, "answers": True}
    assert answer["parts"] == [{"name": "libvirt", "state": "ok", "detail": "yes", "remedy": ""}]


# ---- list and trace ------------------------------------------------------------------------------


def test_a_table_is_as_wide_as_it_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    text.print_table([("A", "B", "C"), ("long", "b", "the end"), ("a", "longer", "")])

    assert capsys.readouterr().out.splitlines() == [
        "A     B       C",
        "long  b       the end",
        "a     longer",
    ]


def test_nothing_that_is_shown_controls_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\033]0;x\007\nvm"
    text.print_table([(evil, evil)])
    text.print_findings([finding.bad(evil, evil, evil)])
    told = capsys.readouterr().out
    told += shown({"waiting": [{"vnic_id": evil}]}, monkeypatch, as_json=False)

    assert told.count("]0;x") == 6
    assert [char for char in told if not char.isprintable() and char != "\n"] == []


def test_findings_are_shown_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    text.print_findings(
        [
            finding.ok("tap", "up"),
            finding.bad("port", "not\nthere", "plug it"),
            finding.unknown("flows", "?", "run as root"),
            finding.unknown("tunnel", "?", "run as root"),
        ]
    )

    assert capsys.readouterr().out.splitlines() == [
        "ok       tap     up",
        "BAD      port    not there",
        "                 -> plug it",
        "unknown  flows   ?",
        "                 -> run as root",
        "unknown  tunnel  ?",
    ]


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        text.print_findings([finding.bad("port", "gone", "plug it")])

    assert terminal.getvalue().startswith("\033[31;1mBAD")


@pytest.mark.parametrize("wanted", [VNIC_ID, VNIC_ID.upper(), VNIC_ID[:3], f"tap{VNIC_ID[:11]}"])
def test_a_vnic_is_chosen_by_what_is_unique(wanted: str) -> None:
    others = [vnic("ffffffff-4d6a-4f0e-9f5b-0d6c2a7b1e11"), vnic()]

    assert tracing.choose(wanted, others).id == VNIC_ID


@pytest.mark.parametrize("device", [f"{prefix}{VNIC_ID[:11]}" for prefix in ("qbr", "qvb", "qvo")])
def test_a_vnic_is_chosen_by_any_of_its_devices(device: str) -> None:
    assert tracing.choose(device, [vnic(way="ovs_hybrid")]).id == VNIC_ID


def test_a_whole_id_goes_before_a_beginning() -> None:
    short = vnic(VNIC_ID[:11])

    assert tracing.choose(VNIC_ID[:11], [vnic(), short]) is short


@pytest.mark.parametrize("wanted", ["3c1a", VNIC_ID])
def test_what_fits_several_is_refused_with_their_taps(wanted: str) -> None:
    twins = [vnic(), vnic()]

    with pytest.raises(tracing.Ambiguous, match=r"2 vNICs .* name one of tap3c1ad1e9-4d, tap"):
        tracing.choose(wanted, twins)


@pytest.mark.parametrize("wanted", ["9", "", "tap"])
def test_what_fits_none_is_told_with_what_was_not_seen(wanted: str) -> None:
    missed = [Unavailable("libvirt does not answer", "restart libvirtd")]

    with pytest.raises(HostError, match="see vifctl list; libvirt does not answer"):
        tracing.choose(wanted, [vnic()], missed)


def test_several_vnics_are_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ambiguous(work: object) -> None:
        raise tracing.Ambiguous("2 vNICs are meant", "name one")

    monkeypatch.setattr(tracing, "look", ambiguous)

    assert tracing.run("3", as_json=False) == ctl.USAGE


@pytest.mark.parametrize(
    ("ready", "wrong", "code"),
    [
        (True, None, ctl.FINE),
        (None, None, ctl.FINE),
        (False, finding.bad("tap", "it is down", "set it up"), ctl.WRONG),
    ],
)
def test_a_list_ends_with_one_if_a_vnic_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ready: bool | None,
    wrong: Finding | None,
    code: int,
) -> None:
    listed = [listing.Listed(vnic(ready=ready), wrong)]
    monkeypatch.setattr(listing, "look", lambda work: (listed, []))

    assert listing.run(as_json=False) == code
    last = capsys.readouterr().out.splitlines()[1]
    assert last.endswith({True: "yes", None: "?", False: "it is down; set it up"}[ready])


def test_an_empty_list_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listing, "look", lambda work: ([], []))

    assert listing.run(as_json=False) == ctl.FINE
    assert capsys.readouterr().out == "no vNIC of an external network on this host\n"


# ---- completion and manual page ------------------------------------------------------------------


def completed(tmp_path: Path, *words: str) -> list[str]:
    """Complete the last word in bash, on a host with one vNIC."""
    listed = {"vnics": [listing.as_dict(listing.Listed(vnic(), None))], "left_out": []}
    command = tmp_path / "vifctl"
    command.write_text(f"#!/bin/sh\ncat <<'E'\n{json.dumps(listed, indent=2)}\nE\n")
    command.chmod(0o755)
    script = (
        f"PATH={tmp_path}:$PATH; source {PACKAGING}/completion/vifctl; "
        'COMP_WORDS=(vifctl "$@"); COMP_CWORD=$#; _vifctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], check=True, capture_output=True, text=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], [*COMMANDS, "--help", "--version", "--debug"]),
        (["d"], ["doctor"]),
        (["--debug", "tr"], ["trace"]),
        (["list", "--"], ["--json", "--help"]),
        (["reconcile", "--"], ["--json", "--help", "--dry-run", "--list", "--restore"]),
        (["reconcile", "--restore", ""], [VNIC_ID]),
        (["reconcile", ""], []),
        (["protect", "--"], ["--json", "--help", "--allow", "--for", "--revoke"]),
        (["protect", "--allow", "eth3", "--for", "3"], ["30m"]),
        (["configure", ""], ["ovn", "neutron"]),
        (["configure", "neutron", "--uplink", "x", "--tun"], ["--tunnel-ip", "--tunnel-types"]),
        (["configure", "neutron", "--agent", ""], ["openvswitch", "linuxbridge"]),
        (["configure", "ovn", "--no"], ["--no-ssl", "--no-wait"]),
        (["configure", "ovn", "--encap", "v"], ["vxlan"]),
        (["configure", "ovn", ""], []),
        (["list", ""], []),
        (["trace", ""], [VNIC_ID, f"tap{VNIC_ID[:11]}"]),
        (["trace", "3c"], [VNIC_ID]),
        (["trace", "--json", "tap"], [f"tap{VNIC_ID[:11]}"]),
    ],
)
def test_bash_completes(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    assert completed(tmp_path, *words) == expected


def test_the_manual_page_renders_without_a_warning() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    page = PACKAGING / "man/vifctl.8"

    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", page],
        check=True,
        capture_output=True,
        text=True,
    )

    assert done.stderr == ""
    assert all(command in done.stdout for command in COMMANDS)
