# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook as VDSM runs it: a process with a file, an environment and an exit status."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time

import pytest

from vif_driver import events, vnic, wire
from vif_driver.wire import Reply, Request

from .conftest import MAC, VDSM_INTERFACE, VNIC_ID
from .hook_process import A_THIRD_OF_A_SECOND, ROOT, SCRIPT, SOURCE, Hook, ScriptedAgent, one_line


def test_a_hook_knows_every_event_that_it_is_installed_for() -> None:
    makefile = (ROOT / "Makefile").read_text()
    installed = re.search(r"^EVENTS := ((?:.*\\\n)*.*)$", makefile, re.M)

    assert installed is not None
    assert set(installed[1].replace("\\\n", " ").split()) == set(events.NAMES)


def test_hook_and_agent_agree_on_limits_and_properties() -> None:
    source = SOURCE.read_text()

    assert f'SOCKET = "{wire.SOCKET}"' in source
    assert "MAX_DATA = 8 * 1024 * 1024 if OF_HOST else 64 * 1024" in source
    assert (wire.MAX_JSON, wire.MAX_DATA) == (8 * 1024 * 1024, 64 * 1024)
    properties = ", ".join(f'b"{name}"' for name in vnic.PROPERTIES)
    assert f"PROPERTIES = ({properties})" in source


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"provider_type": ""},
        {"provider_type": "PHYSICAL", "vnic_id": VNIC_ID},
        {"provider_type": "EXTERNAL_NETWORK", "plugin_type": "NUAGE", "vnic_id": VNIC_ID},
        {"plugin_type": "OVIRT_PROVIDER_OVN"},
    ],
)
def test_a_device_that_is_not_ours_comes_through_byte_for_byte(
    hook: Hook, properties: dict[str, str]
) -> None:
    hook.environment = properties
    hook.data = os.urandom(3000)

    done = hook.run()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert hook.file.read_bytes() == hook.data


def test_the_agents_answer_is_written_in_place(hook: Hook, agent: ScriptedAgent) -> None:
    hook.file.write_bytes(VDSM_INTERFACE)
    inode = hook.file.stat().st_ino
    agent.answers.append(wire.encode_reply(Reply(data=b"<interface/>")))

    done = hook.run()

    assert (done.returncode, done.stderr) == (0, "")
    assert hook.file.read_bytes() == b"<interface/>"
    assert hook.file.stat().st_ino == inode


def test_a_longer_answer_is_written_whole(hook: Hook, agent: ScriptedAgent) -> None:
    longer = b"<interface>" + b"x" * 30_000 + b"</interface>"
    agent.answers.append(wire.encode_reply(Reply(data=longer)))

    hook.run()

    assert hook.file.read_bytes() == longer


def test_the_agent_is_asked_in_its_own_grammar(hook: Hook, agent: ScriptedAgent) -> None:
    agent.answers.append(wire.encode_reply(Reply()))
    hook.environment = {**hook.environment, "security_groups": "", "PATH": "/bin"}

    hook.run("after_device_create")

    header, _, rest = agent.requests[0].partition(b"\n")
    event, properties_length, _ = wire.parse_header(header + b"\n")
    request = Request(
        event, wire.parse_properties(rest[:properties_length]), rest[properties_length:]
    )
    assert request == Request(
        "after_device_create",
        {key: value for key, value in hook.environment.items() if key != "PATH"},
        VDSM_INTERFACE,
    )


@pytest.mark.parametrize(("event", "status"), [("before_nic_hotplug", 2), ("after_nic_hotplug", 1)])
def test_a_refusal_is_one_line_and_leaves_the_file_alone(
    hook: Hook, agent: ScriptedAgent, event: str, status: int
) -> None:
    agent.answers.append(wire.encode_reply(events.failure(event, "no such\nthing")))

    done = hook.run(event)

    assert done.returncode == status
    assert one_line(done.stderr) == "vif-driver: no such thing\n"
    assert hook.file.read_bytes() == VDSM_INTERFACE


def test_without_an_agent_a_failure_is_one_line_that_names_the_vnic(hook: Hook) -> None:
    hook.data = VDSM_INTERFACE.replace(MAC.encode(), b"")

    done = hook.run()

    assert done.returncode == 2
    line = one_line(done.stderr)
    assert VNIC_ID in line and "MAC address" in line
    assert hook.file.read_bytes() == hook.data


def test_without_an_agent_a_device_that_is_no_interface_is_left_alone(hook: Hook) -> None:
    hook.data = b"<disk type='file'/>"

    done = hook.run()

    assert done.returncode == 0
    assert "left alone" in one_line(done.stderr)
    assert hook.file.read_bytes() == hook.data


def test_an_agent_that_dies_in_the_middle_is_like_none(hook: Hook, agent: ScriptedAgent) -> None:
    hook.data = b"<disk type='file'/>"
    agent.answers.append(b"")

    done = hook.run()

    assert done.returncode == 0 and "left alone" in one_line(done.stderr)


@pytest.mark.parametrize(
    "answer", [b"vif1 0 0 100\nshort", b"nonsense", b"vif1 0 9 -\nhalf", b"\n"]
)
def test_an_answer_that_is_not_whole_is_never_written(
    hook: Hook, agent: ScriptedAgent, answer: bytes
) -> None:
    agent.answers.append(answer)

    done = hook.run()

    assert done.returncode == 2
    one_line(done.stderr)
    assert hook.file.read_bytes() == VDSM_INTERFACE


def test_an_unset_file_is_told(hook: Hook) -> None:
    hook.environment = {**hook.environment, "_hook_domxml": ""}

    done = hook.run()

    line = one_line(done.stderr)
    assert done.returncode == 2 and "_hook_domxml is not set" in line and VNIC_ID in line


def test_a_missing_file_is_told(hook: Hook) -> None:
    hook.environment = {**hook.environment, "_hook_domxml": "/nonexistent/file"}

    done = hook.run()

    line = one_line(done.stderr)
    assert done.returncode == 2 and "No such file" in line and VNIC_ID in line


@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_a_file_that_may_not_be_read_or_written_is_told(hook: Hook, mode: int) -> None:
    hook.file.write_bytes(VDSM_INTERFACE)
    hook.file.chmod(mode)

    done = hook.run(under=["setpriv", "--bounding-set=-all"])

    line = one_line(done.stderr)
    assert done.returncode == 2 and "Permission denied" in line and VNIC_ID in line


def test_a_file_of_ten_megabytes_is_refused(hook: Hook) -> None:
    hook.data = b"<interface>" + b" " * 10_000_000 + b"</interface>"

    done = hook.run()

    line = one_line(done.stderr)
    assert done.returncode == 2 and "more than" in line and VNIC_ID in line
    assert hook.file.stat().st_size == len(hook.data)


def test_a_file_that_cannot_be_written_stays_as_it_was_and_the_plug_is_taken_back(
    hook: Hook, agent: ScriptedAgent
) -> None:
    agent.answers += [wire.encode_reply(Reply(data=b"x" * 30_000)), wire.encode_reply(Reply())]
    # A limit on the size of files makes the write fail half way, as a full disk would.
    full_disk = ["prlimit", "--fsize=8192", "sh", "-c", "trap '' XFSZ; exec \"$0\""]

    done = hook.run(under=full_disk)

    assert done.returncode == 2 and "cannot be written" in one_line(done.stderr)
    assert hook.file.read_bytes() == VDSM_INTERFACE
    assert agent.requests[1].startswith(b"vif1 after_nic_hotplug_fail ")


def test_an_agent_that_is_gone_when_a_plug_is_to_be_taken_back_changes_no_diagnosis(
    hook: Hook, agent: ScriptedAgent
) -> None:
    agent.answers += [wire.encode_reply(Reply(data=b"x" * 30_000)), b"nonsense"]
    full_disk = ["prlimit", "--fsize=8192", "sh", "-c", "trap '' XFSZ; exec \"$0\""]

    done = hook.run(under=full_disk)

    line = one_line(done.stderr)
    assert done.returncode == 2
    assert "cannot be written" in line and "could not be taken back" in line


def test_an_update_that_cannot_be_written_takes_no_plug_back(
    hook: Hook, agent: ScriptedAgent
) -> None:
    agent.answers.append(wire.encode_reply(Reply(data=b"x" * 30_000)))
    full_disk = ["prlimit", "--fsize=8192", "sh", "-c", "trap '' XFSZ; exec \"$0\""]

    done = hook.run("before_update_device", under=full_disk)

    assert done.returncode == 2 and len(agent.requests) == 1


def test_a_help_that_never_answers_is_ended(hook: Hook) -> None:
    hook.install("before_device_create")
    (hook.folder / "sleeper").write_text("#!/bin/sh\nexec sleep 60\n")
    (hook.folder / "sleeper").chmod(0o755)
    hook.changes = {
        str(hook.folder / "without-agent"): str(hook.folder / "sleeper"),
        **A_THIRD_OF_A_SECOND,
    }
    begun = time.monotonic()

    done = hook.run()

    assert done.returncode == 2 and "restart vif-agent" in one_line(done.stderr)
    assert time.monotonic() - begun < 10


def test_a_package_that_is_not_there_is_one_line(hook: Hook) -> None:
    hook.changes = {str(hook.folder / "without-agent"): "/nonexistent/without-agent"}

    done = hook.run()

    assert done.returncode == 2 and "restart vif-agent" in one_line(done.stderr)


@pytest.mark.parametrize("stderr", ["closed", "full"])
def test_a_message_that_nobody_takes_does_not_keep_the_answer_from_the_file(
    hook: Hook, agent: ScriptedAgent, stderr: str
) -> None:
    agent.answers.append(wire.encode_reply(Reply(message="a word", data=b"<interface/>")))
    where = {"closed": "2>&-", "full": "2>/dev/full"}[stderr]

    done = hook.run(under=["sh", "-c", f'exec "$0" {where}'])

    assert done.returncode == 0
    assert hook.file.read_bytes() == b"<interface/>"


def test_the_hook_imports_next_to_nothing() -> None:
    for source, wanted in (
        (SCRIPT, {"posix", "sys", "vif_hook"}),
        (SOURCE, {"posix", "sys", "_socket"}),
    ):
        assert set(re.findall(r"^\s*(?:import|from) (\w+)", source.read_text(), re.M)) == wanted


def test_the_interpreter_looks_at_nothing_of_the_caller() -> None:
    assert SCRIPT.read_text().startswith("#!/usr/bin/python3 -IS\n")


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ("before_device_create", 2),
        ("after_nic_hotplug", 1),
        ("after_get_caps", 0),
        ("before_network_setup", 0),
    ],
)
def test_a_hook_that_lacks_its_half_says_so_and_keeps_nothing_of_the_hosts_own(
    hook: Hook, event: str, status: int
) -> None:
    script = hook.install(event)
    (hook.folder / "vif_hook.py").unlink()

    done = subprocess.run(
        [script], env=hook.environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == status
    assert "not installed properly: No module named 'vif_hook'" in one_line(done.stderr)


def test_who_runs_a_hook_as_root_leaves_nothing_compiled(hook: Hook, agent: ScriptedAgent) -> None:
    agent.answers.append(wire.encode_reply(Reply()))

    hook.run()

    assert not (hook.folder / "__pycache__").exists()


def test_the_kernels_timeout_structure_is_what_the_hook_packs() -> None:
    packed = (60).to_bytes(8, sys.byteorder) + bytes(8)

    assert packed == struct.pack("@ll", 60, 0)


MIGRATION = {
    "before_device_migrate_source": 2,
    "before_device_migrate_destination": 2,
    "after_device_migrate_destination": 1,
    "after_device_migrate_source": 1,
}


@pytest.mark.parametrize("event", MIGRATION)
def test_at_a_migration_the_empty_file_that_vdsm_gives_stays_empty(
    hook: Hook, agent: ScriptedAgent, event: str
) -> None:
    hook.data = b""
    agent.answers.append(wire.encode_reply(Reply()))

    done = hook.run(event)

    assert (done.returncode, done.stderr) == (0, "")
    assert hook.file.read_bytes() == b""
    assert agent.requests[0].split()[1].decode() == event


@pytest.mark.parametrize(("event", "status"), MIGRATION.items())
def test_a_refusal_at_a_migration_has_the_status_that_vdsm_knows(
    hook: Hook, agent: ScriptedAgent, event: str, status: int
) -> None:
    agent.answers.append(wire.encode_reply(events.failure(event, "no network")))

    done = hook.run(event)

    assert (done.returncode, one_line(done.stderr)) == (status, "vif-driver: no network\n")


def test_what_the_log_is_to_say_at_a_migration_does_not_stop_it(
    hook: Hook, agent: ScriptedAgent
) -> None:
    agent.answers.append(wire.encode_reply(Reply(message="vif-driver: not coordinated")))

    done = hook.run("before_device_migrate_destination")

    assert (done.returncode, done.stderr) == (0, "vif-driver: not coordinated\n")
