# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook at events about the whole host, whose file is JSON."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vif_driver import wire
from vif_driver.agent import main as agent_main
from vif_driver.agent import server
from vif_driver.wire import Reply

from .hook_process import (
    A_THIRD_OF_A_SECOND,
    A_THIRD_OF_A_SECOND_FOR_THE_AGENT,
    SOURCE,
    Hook,
    ScriptedAgent,
    one_line,
)

REPORTS = ("after_get_caps", "after_get_stats")
CAPS = json.dumps({"cpuCores": "2", "openstack_binding_host_ids": {}}).encode()
MORE = json.dumps({"cpuCores": "2", "external_networks": {"vnics": ["x"] * 100}}).encode()
SETUP = json.dumps({"request": {"networks": {}, "bondings": {}, "options": {}}}).encode()
ROLLBACK = SETUP.replace(b'"options": {}', b'"options": {"_inRollback": true}')


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    """The hook with nothing in its environment but the file, and no agent."""
    return Hook(tmp_path, {}, CAPS)


@pytest.fixture(params=REPORTS)
def event(request: pytest.FixtureRequest) -> str:
    """Each of the events in which VDSM reports."""
    return str(request.param)


def patience(event: str) -> int:
    """For how many seconds the hook waits for the agent."""
    found = re.search(rf'"{event}": (\d+),', SOURCE.read_text())
    assert found is not None
    return int(found[1])


def test_the_report_that_the_agent_gives_is_written_in_place(
    hook: Hook, agent: ScriptedAgent, event: str
) -> None:
    hook.file.write_bytes(CAPS)
    inode = hook.file.stat().st_ino
    agent.answers.append(wire.encode_reply(Reply(data=MORE)))

    done = hook.run(event)

    assert (done.returncode, done.stderr) == (0, "")
    assert hook.file.read_bytes() == MORE
    assert hook.file.stat().st_ino == inode


def test_the_agent_is_asked_with_the_report_and_nothing_else(
    hook: Hook, agent: ScriptedAgent, event: str
) -> None:
    hook.environment = {"vmId": "x", "vnic_id": "x"}
    agent.answers.append(wire.encode_reply(Reply()))

    hook.run(event)

    assert agent.requests == [b"vif1 %s 0 %d\n%s" % (event.encode(), len(CAPS), CAPS)]


def test_a_report_of_five_megabytes_goes_there_and_back(hook: Hook, agent: ScriptedAgent) -> None:
    hook.data = json.dumps({"hostDevices": "x" * 5_000_000}).encode()
    more = hook.data[:-1] + b', "external_networks": {}}'
    agent.answers.append(wire.encode_reply(Reply(data=more)))

    done = hook.run("after_get_caps")

    assert (done.returncode, done.stderr) == (0, "")
    assert agent.requests[0].endswith(hook.data)
    assert hook.file.read_bytes() == more


def test_a_shorter_report_leaves_nothing_of_the_longer_one_but_blanks(
    hook: Hook, agent: ScriptedAgent
) -> None:
    hook.data = MORE
    agent.answers.append(wire.encode_reply(Reply(data=CAPS)))

    hook.run("after_get_caps")

    assert hook.file.read_bytes() == CAPS.ljust(len(MORE))


@pytest.mark.parametrize("answer", [None, b"", b"vif1 0 0 100\nshort"])
def test_what_the_agent_does_not_answer_properly_leaves_the_report_alone(
    hook: Hook, agent: ScriptedAgent, event: str, answer: bytes | None
) -> None:
    hook.changes = A_THIRD_OF_A_SECOND
    agent.answers.append(answer)

    hook.run(event)

    assert hook.file.read_bytes() == CAPS


def test_without_an_agent_the_report_passes_in_silence(hook: Hook, event: str) -> None:
    hook.changes = {str(hook.folder / "without-agent"): "/nonexistent/without-agent"}

    done = hook.run(event)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert hook.file.read_bytes() == CAPS


def test_an_agent_that_dies_in_the_middle_is_asked_again_and_then_like_none(
    hook: Hook, agent: ScriptedAgent, event: str
) -> None:
    agent.answers += [b"", b""]

    done = hook.run(event)

    assert (done.returncode, done.stderr) == (0, "")
    assert len(agent.requests) == 2


def test_an_agent_that_hangs_is_told_and_not_waited_for(
    hook: Hook, agent: ScriptedAgent, event: str
) -> None:
    hook.changes = A_THIRD_OF_A_SECOND
    agent.answers.append(None)
    begun = time.monotonic()

    done = hook.run(event)

    assert done.returncode == 1
    assert "vif-agent does not answer" in one_line(done.stderr)
    assert time.monotonic() - begun < 10


def test_a_report_is_given_up_long_before_vdsm_would_notice(event: str) -> None:
    assert agent_main._REPORT_PATIENCE[event] < patience(event) <= 5


def test_the_agent_waits_for_a_slow_caller_at_least_as_long_as_he_waits(event: str) -> None:
    assert patience(event) <= server.RECEIVE_TIMEOUT


def test_a_refusal_leaves_the_report_alone_and_stops_no_other_hook(
    hook: Hook, agent: ScriptedAgent, event: str
) -> None:
    agent.answers.append(wire.encode_reply(Reply(status=1, message="vif-driver: no JSON")))

    done = hook.run(event)

    assert (done.returncode, one_line(done.stderr)) == (1, "vif-driver: no JSON\n")
    assert hook.file.read_bytes() == CAPS


def test_a_failure_is_not_said_to_be_about_a_vnic(hook: Hook, event: str) -> None:
    hook.environment = {"_hook_json": ""}

    done = hook.run(event)

    assert done.returncode == 1
    expected = f"vif-driver: {event}: _hook_json is not set; this is a hook for VDSM to run\n"
    assert one_line(done.stderr) == expected


def test_a_report_of_nine_megabytes_is_left_alone(hook: Hook, event: str) -> None:
    hook.data = b"[" + b" " * 9_000_000 + b"]"

    done = hook.run(event)

    assert done.returncode == 1 and "more than" in one_line(done.stderr)
    assert hook.file.stat().st_size == len(hook.data)


# ---- a disk that is full ---------------------------------------------------------------------

_CLONE_NEWNS = 0x00020000
FULL = 64 * 1024


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """An empty file system of 64 KiB, seen by the hook's process alone when it is run under it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount one")
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def run_on_full_disk(hook: Hook, folder: Path, taken: int) -> tuple[Any, bytes]:
    """Run the hook with its file on a file system where so many bytes are taken by another."""
    outcome: list[Any] = []

    def work() -> None:
        # Of the thread alone, and of what it starts.
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(_CLONE_NEWNS) == 0
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FULL}", "none", folder], check=True)
        (folder / "other").write_bytes(bytes(taken))
        (folder / "report").write_bytes(hook.data)
        hook.environment = {"_hook_json": str(folder / "report")}
        outcome.extend((hook.run("after_get_caps"), (folder / "report").read_bytes()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return outcome[0], outcome[1]


def test_on_a_full_disk_the_report_stays_as_it_was(
    hook: Hook, agent: ScriptedAgent, full_disk: Path
) -> None:
    longer = CAPS[:-1] + b', "external_networks": "%s"}' % (b"x" * 20_000)
    agent.answers.append(wire.encode_reply(Reply(data=longer)))

    done, left = run_on_full_disk(hook, full_disk, FULL - 4096)

    assert done.returncode == 1
    assert "No space left on device" in one_line(done.stderr)
    assert left == CAPS


def test_on_a_disk_with_just_enough_room_the_report_is_written_whole(
    hook: Hook, agent: ScriptedAgent, full_disk: Path
) -> None:
    longer = CAPS[:-1] + b', "external_networks": "%s"}' % (b"x" * 20_000)
    agent.answers.append(wire.encode_reply(Reply(data=longer)))

    done, left = run_on_full_disk(hook, full_disk, FULL - 6 * 4096)

    assert (done.returncode, done.stderr, left) == (0, "", longer)


def test_a_report_that_may_not_grow_stays_as_it_was(hook: Hook, agent: ScriptedAgent) -> None:
    agent.answers.append(wire.encode_reply(Reply(data=b"x" * 30_000)))
    limited = ["prlimit", "--fsize=8192", "sh", "-c", "trap '' XFSZ; exec \"$0\""]

    done = hook.run("after_get_caps", under=limited)

    assert done.returncode == 1 and "cannot be written" in one_line(done.stderr)
    assert hook.file.read_bytes() == CAPS


def test_a_hook_killed_before_the_one_write_leaves_the_report_as_it_was(
    hook: Hook, agent: ScriptedAgent
) -> None:
    agent.answers.append(wire.encode_reply(Reply(data=MORE)))
    hook.changes = {"    new = new.ljust(len(old))": "    posix.kill(posix.getpid(), 9)"}

    done = hook.run("after_get_caps")

    assert done.returncode == -signal.SIGKILL
    assert hook.file.stat().st_size == len(MORE)
    assert json.loads(hook.file.read_bytes()) == json.loads(CAPS)


# ---- before_network_setup --------------------------------------------------------------------


def test_a_request_for_the_network_passes_unchanged(hook: Hook, agent: ScriptedAgent) -> None:
    hook.data = SETUP
    agent.answers.append(wire.encode_reply(Reply(data=b"something else")))

    done = hook.run("before_network_setup")

    assert (done.returncode, done.stderr) == (0, "")
    assert hook.file.read_bytes() == SETUP


def test_a_refused_request_for_the_network_stops_vdsm(hook: Hook, agent: ScriptedAgent) -> None:
    hook.data = SETUP
    agent.answers.append(wire.encode_reply(Reply(status=2, message="vif-driver: no")))

    done = hook.run("before_network_setup")

    assert (done.returncode, one_line(done.stderr)) == (2, "vif-driver: no\n")


@pytest.mark.parametrize("answer", [b"", None])
def test_a_request_for_the_network_is_judged_without_the_agent_too(
    hook: Hook, agent: ScriptedAgent, answer: bytes | None
) -> None:
    hook.data = SETUP
    hook.changes = dict(A_THIRD_OF_A_SECOND_FOR_THE_AGENT)
    agent.answers += [answer, answer]

    done = hook.run("before_network_setup")

    # It may say that this computer's Open vSwitch could not be looked at.
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_nobody_who_judges_is_a_refusal(hook: Hook) -> None:
    hook.data = SETUP
    hook.changes = {str(hook.folder / "without-agent"): "/nonexistent/without-agent"}

    done = hook.run("before_network_setup")

    assert done.returncode == 2 and "restart vif-agent" in one_line(done.stderr)


def test_the_hosts_own_network_is_brought_back_whatever_is_wrong(hook: Hook) -> None:
    hook.data = ROLLBACK
    hook.changes = {str(hook.folder / "without-agent"): "/nonexistent/without-agent"}

    done = hook.run("before_network_setup")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words", [b'{"_inRollback": false}', b'{"why": "\\"_inRollback\\": true"}', b"{}"]
)
def test_what_only_looks_like_that_is_refused(
    hook: Hook, agent: ScriptedAgent, words: bytes
) -> None:
    hook.data = SETUP.replace(b'"options": {}', b'"options": ' + words)
    agent.answers.append(wire.encode_reply(Reply(status=2, message="vif-driver: no")))

    done = hook.run("before_network_setup")

    assert done.returncode == 2


def test_the_hosts_own_network_waits_for_nobody(hook: Hook, agent: ScriptedAgent) -> None:
    hook.data = ROLLBACK

    done = hook.run("before_network_setup")

    assert (done.returncode, agent.requests) == (0, [])
