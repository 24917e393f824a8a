# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook while a VM is started: VDSM's launch flags, and the event after the start."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from vif_driver import config, wire
from vif_driver.agent import main as agent_main
from vif_driver.host import starts
from vif_driver.host.starts import Start, Starts
from vif_driver.vnic import Plugin, VnicIdentity
from vif_driver.wire import Reply

from .conftest import VDSM_INTERFACE, VM_ID, VNIC_ID
from .hook_process import (
    A_THIRD_OF_A_SECOND_FOR_THE_AGENT,
    SCRIPT,
    SOURCE,
    Hook,
    ScriptedAgent,
    one_line,
)

PAUSED = wire.encode_reply(Reply(data=b"<interface/>", launch_flags=1))
START = Start(VM_ID, (VnicIdentity(VNIC_ID, Plugin.OVIRT_PROVIDER_OVN, VM_ID),))


@pytest.fixture
def flags(hook: Hook) -> Path:
    """VDSM's file of launch flags, with nothing special in it."""
    path = hook.launch_flags(VM_ID)
    path.parent.mkdir()
    path.write_text("0")
    return path


@pytest.fixture
def pending(hook: Hook) -> Starts:
    """The starts that hook and agent know of; that of the VM is one of them."""
    hook.start_file(VM_ID).parent.mkdir()
    (hook.folder / "released").mkdir()
    known = Starts(hook.start_file(VM_ID).parent, hook.folder / "released")
    known.put(START)
    return known


def properties(request: bytes) -> dict[str, str]:
    header, _, rest = request.partition(b"\n")
    _, length, _ = wire.parse_header(header + b"\n")
    return wire.parse_properties(rest[:length])


def test_hook_and_agent_agree_on_where_starts_are_and_how_long_one_may_take() -> None:
    source = SOURCE.read_text()
    patience = re.search(r'"after_vm_start": (\d+),', source)

    assert f'STARTING = "{starts.FOLDER}/"' in SCRIPT.read_text()
    assert patience is not None
    assert int(patience[1]) > config.MAX_DEADLINE + agent_main._RESUME_TIME


# ---- launch flags ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [("0", "1"), ("1", "1"), ("4", "5"), ("6\n", "7"), ("2147483646", "2147483647")],
)
def test_the_agents_flag_is_added_to_vdsms(
    hook: Hook, agent: ScriptedAgent, flags: Path, before: str, after: str
) -> None:
    flags.write_text(before)
    agent.answers.append(PAUSED)

    done = hook.run()

    assert (done.returncode, done.stderr) == (0, "")
    assert flags.read_text() == after


def test_the_flags_are_written_in_place(hook: Hook, agent: ScriptedAgent, flags: Path) -> None:
    inode = flags.stat().st_ino
    agent.answers.append(PAUSED)

    hook.run()

    assert flags.stat().st_ino == inode


@pytest.mark.parametrize("before", ["0", "4\n"])
def test_flags_that_the_agent_does_not_ask_for_are_left_alone(
    hook: Hook, agent: ScriptedAgent, flags: Path, before: str
) -> None:
    flags.write_text(before)
    agent.answers.append(wire.encode_reply(Reply(data=b"<interface/>")))

    hook.run()

    assert flags.read_text() == before


def test_a_refusal_leaves_the_flags_alone(hook: Hook, agent: ScriptedAgent, flags: Path) -> None:
    agent.answers.append(wire.encode_reply(Reply(status=2, message="no")))

    hook.run()

    assert flags.read_text() == "0"


@pytest.mark.parametrize("content", ["0", "1", "4\n"])
def test_the_agent_is_told_the_flags_as_vdsm_has_them(
    hook: Hook, agent: ScriptedAgent, flags: Path, content: str
) -> None:
    flags.write_text(content)
    agent.answers.append(wire.encode_reply(Reply()))

    hook.run()

    assert properties(agent.requests[0])["launch_flags"] == content.strip()


@pytest.mark.parametrize("content", [None, "", "paused", "1 2", "\xff"])
def test_of_flags_that_cannot_be_read_nothing_is_said(
    hook: Hook, agent: ScriptedAgent, content: str | None
) -> None:
    if content is not None:
        hook.launch_flags(VM_ID).parent.mkdir()
        hook.launch_flags(VM_ID).write_text(content, encoding="latin-1")
    agent.answers.append(wire.encode_reply(Reply(data=b"<interface/>")))

    done = hook.run()

    assert (done.returncode, hook.file.read_bytes()) == (0, b"<interface/>")
    assert properties(agent.requests[0]) == hook.environment


@pytest.mark.parametrize("event", ["before_nic_hotplug", "after_device_create"])
@pytest.mark.usefixtures("flags")
def test_only_at_a_vms_start_its_flags_are_looked_at(
    hook: Hook, agent: ScriptedAgent, event: str
) -> None:
    agent.answers.append(wire.encode_reply(Reply()))

    hook.run(event)

    assert properties(agent.requests[0]) == hook.environment


@pytest.mark.parametrize("content", [None, "paused"])
def test_flags_that_cannot_be_read_cannot_be_changed_and_fail_no_start(
    hook: Hook, agent: ScriptedAgent, content: str | None
) -> None:
    if content is not None:
        hook.launch_flags(VM_ID).parent.mkdir()
        hook.launch_flags(VM_ID).write_text(content)
    agent.answers.append(PAUSED)  # the VM's first vNIC, whose hook could, has asked for it

    done = hook.run()

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("content", ["-1", "1_0", "9" * 12])
def test_a_number_that_is_no_set_of_flags_is_not_said_to_the_agent(
    hook: Hook, agent: ScriptedAgent, flags: Path, content: str
) -> None:
    flags.write_text(content)
    agent.answers.append(wire.encode_reply(Reply()))

    hook.run()

    assert properties(agent.requests[0]) == hook.environment


def test_flags_that_cannot_be_written_have_the_plug_taken_back(
    hook: Hook, agent: ScriptedAgent, flags: Path
) -> None:
    agent.answers += [PAUSED, wire.encode_reply(Reply())]
    hook.changes = {"replace(self.file, b": "posix.close(self.file); replace(self.file, b"}

    done = hook.run()

    assert done.returncode == 2 and "cannot be written" in one_line(done.stderr)
    assert (hook.file.read_bytes(), flags.read_text()) == (VDSM_INTERFACE, "0")
    assert agent.requests[1].startswith(b"vif1 after_nic_hotplug_fail ")


# ---- after_vm_start --------------------------------------------------------------------------


def test_a_vm_that_nobody_holds_costs_no_request(hook: Hook, agent: ScriptedAgent) -> None:
    done = hook.run("after_vm_start")

    assert (done.returncode, done.stderr, agent.requests) == (0, "", [])


def test_a_vm_without_an_id_costs_no_request(hook: Hook, agent: ScriptedAgent) -> None:
    hook.environment = {}

    done = hook.run("after_vm_start")

    assert (done.returncode, done.stderr, agent.requests) == (0, "", [])


@pytest.mark.usefixtures("pending")
def test_the_agent_is_told_that_a_vm_it_holds_has_been_started(
    hook: Hook, agent: ScriptedAgent
) -> None:
    hook.environment = {"vmId": VM_ID}
    hook.data = b"<domain/>" + b" " * 100_000
    agent.answers.append(wire.encode_reply(Reply(message="not ready after 15 s")))

    done = hook.run("after_vm_start")

    assert (done.returncode, one_line(done.stderr)) == (0, "not ready after 15 s\n")
    block = b"vmId=%s\0" % VM_ID.encode()
    assert agent.requests == [b"vif1 after_vm_start %d 0\n%s" % (len(block), block)]
    assert hook.file.read_bytes() == hook.data


@pytest.mark.usefixtures("pending")
def test_the_file_of_the_domain_is_not_needed_after_its_start(
    hook: Hook, agent: ScriptedAgent
) -> None:
    hook.environment = {"vmId": VM_ID, "_hook_domxml": "/nonexistent/file"}
    agent.answers.append(wire.encode_reply(Reply()))

    done = hook.run("after_vm_start")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("pending")
def test_a_failure_after_a_vms_start_names_the_vm(hook: Hook, agent: ScriptedAgent) -> None:
    hook.environment = {"vmId": VM_ID}
    agent.answers.append(b"nonsense")

    done = hook.run("after_vm_start")

    assert done.returncode == 1
    assert one_line(done.stderr).startswith(f"vif-driver: after_vm_start: VM {VM_ID}: ")


# ---- an agent that is cut off ----------------------------------------------------------------


@pytest.mark.usefixtures("pending")
def test_an_agent_that_ends_in_the_middle_is_followed_by_one_that_is_asked_the_same(
    hook: Hook, agent: ScriptedAgent
) -> None:
    agent.answers += [b"", wire.encode_reply(Reply(message="from the second"))]

    done = hook.run("after_vm_start")

    assert (done.returncode, one_line(done.stderr)) == (0, "from the second\n")
    assert agent.requests[0] == agent.requests[1]


def test_an_agent_that_is_cut_off_twice_is_not_asked_again(
    hook: Hook, agent: ScriptedAgent
) -> None:
    hook.data = b"<disk type='file'/>"
    agent.answers += [b"", b"", wire.encode_reply(Reply(message="from the third"))]

    done = hook.run()

    assert done.returncode == 0 and "left alone" in one_line(done.stderr)
    assert len(agent.requests) == 2


def test_a_door_that_is_closed_is_not_knocked_at_again(hook: Hook) -> None:
    hook.data = b"<disk type='file'/>"
    hook.changes = {"agent.connect(SOCKET)": 'say(b"knock"); agent.connect(SOCKET)'}
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(hook.socket))

        done = hook.run()

    assert done.returncode == 0
    assert done.stderr.count("knock") == 1 and "left alone" in done.stderr


def test_an_agent_that_takes_too_long_is_not_asked_again(hook: Hook, agent: ScriptedAgent) -> None:
    hook.data = b"<disk type='file'/>"
    hook.changes = dict(A_THIRD_OF_A_SECOND_FOR_THE_AGENT)
    agent.answers += [None, wire.encode_reply(Reply(message="too late"))]

    done = hook.run()

    assert done.returncode == 0 and "left alone" in one_line(done.stderr)
    assert len(agent.requests) == 1


# ---- without an agent ------------------------------------------------------------------------


@pytest.fixture
def stand_in(hook: Hook) -> Path:
    """Have the stand-in use the test's folders and devices, and note whom it resumes."""
    resumed = hook.folder / "resumed"
    (hook.folder / "sitecustomize.py").write_text(
        f"""
from pathlib import Path
from vif_driver.host import domains, kernel, ovsdb_socket, starts

kernel.has_device = {{"br-int"}}.__contains__
ovsdb_socket.is_down = lambda: False

async def resume(self, vm_id):
    Path({str(resumed)!r}).write_text(vm_id)
    return True

domains.Domains.resume = resume
starts.Starts.__init__.__defaults__ = (
    Path({str(hook.start_file(VM_ID).parent)!r}), Path({str(hook.folder / "released")!r})
)
"""
    )
    return resumed


def test_without_an_agent_the_hook_lets_the_vm_run(
    hook: Hook, stand_in: Path, pending: Starts
) -> None:
    hook.environment = {"vmId": VM_ID}

    done = hook.run("after_vm_start")

    assert done.returncode == 0 and "not known" in one_line(done.stderr)
    assert stand_in.read_text() == VM_ID
    assert pending.all() == []
    assert (hook.folder / "released" / START.token).exists()


def test_without_an_agent_a_vm_that_somebody_else_wants_paused_stays_so(
    hook: Hook, stand_in: Path, pending: Starts
) -> None:
    pending.put(Start(VM_ID, START.vnics, resume=False))
    hook.environment = {"vmId": VM_ID}

    done = hook.run("after_vm_start")

    assert (done.returncode, done.stderr) == (0, "")
    assert not stand_in.exists()
    assert pending.all() == []


@pytest.mark.usefixtures("stand_in")
def test_without_an_agent_no_vm_is_started_paused(hook: Hook, flags: Path) -> None:
    done = hook.run()

    assert done.returncode == 0
    assert b"br-int" in hook.file.read_bytes()
    assert flags.read_text() == "0"
    assert not hook.start_file(VM_ID).exists()
