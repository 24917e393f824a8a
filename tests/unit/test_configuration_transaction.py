# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of the host: all or none, whatever ends the one who makes them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vif_driver.configuration import record, transaction
from vif_driver.configuration.files import FileContent
from vif_driver.configuration.services import Restart, ServiceState
from vif_driver.ctl import changing
from vif_driver.errors import HostError

NOTE = "configure.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where it is noted what was there before."""
    return tmp_path / "state"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Where the host has its files."""
    path = tmp_path / "etc"
    path.mkdir()
    return path


class Broken(FileContent):
    """A change that fails when it is half done."""

    def make(self) -> None:
        super().make()
        raise HostError("the disk is on fire", "put it out")


def file(path: Path, content: str | None) -> FileContent:
    return FileContent(path, None if content is None else content.encode(), f"{path.name} is new")


# ---- all or none ---------------------------------------------------------------------------------


def test_what_is_changed_stays_when_all_of_it_is_done(folder: Path, etc: Path) -> None:
    with transaction.begin("test", folder) as changes:
        changes.make(file(etc / "a", "new"))

    assert (etc / "a").read_text() == "new"
    assert not (folder / NOTE).exists()


def test_what_is_so_already_is_not_made_again(folder: Path, etc: Path) -> None:
    (etc / "a").write_text("new")
    before = (etc / "a").stat().st_mtime_ns

    with transaction.begin("test", folder) as changes:
        made = changes.make(file(etc / "a", "new"))

    assert not made
    assert [fact.is_so for fact in changes.facts] == [True]
    assert (etc / "a").stat().st_mtime_ns == before


def test_a_rehearsal_tells_of_changes_and_makes_none(etc: Path) -> None:
    rehearsal = transaction.Rehearsal()

    rehearsal.note(file(etc / "a", "new"))
    rehearsal.make(file(etc / "a", "new"))

    assert [fact.what for fact in rehearsal.facts if not fact.is_so] == ["a is new"]
    assert not (etc / "a").exists()


def test_all_is_taken_back_when_a_later_change_fails(folder: Path, etc: Path) -> None:
    (etc / "a").write_text("old")

    with pytest.raises(HostError, match="on fire"), transaction.begin("test", folder) as changes:
        changes.make(file(etc / "a", "new"))
        changes.make(Broken(etc / "b", b"half", "b is there"))

    assert (etc / "a").read_text() == "old"
    assert not (etc / "b").exists()
    assert not (folder / NOTE).exists()


def test_one_that_the_others_do_without_is_taken_back_alone(folder: Path, etc: Path) -> None:
    with transaction.begin("test", folder) as changes:
        changes.make(file(etc / "a", "new"))
        error = changes.attempt(Broken(etc / "b", b"half", "b is there"))

    assert str(error) == "the disk is on fire; put it out"
    assert [fact.what for fact in changes.facts] == ["a is new"]
    assert (etc / "a").read_text() == "new"
    assert not (etc / "b").exists()


def test_one_that_does_not_fail_is_like_any_other(folder: Path, etc: Path) -> None:
    with pytest.raises(HostError, match="on fire"), transaction.begin("test", folder) as changes:
        error = changes.attempt(file(etc / "a", "new"))
        assert error is None and (etc / "a").exists()
        changes.make(Broken(etc / "b", b"half", "b is there"))

    assert not (etc / "a").exists()


def test_a_removed_file_comes_back_with_its_content(folder: Path, etc: Path) -> None:
    (etc / "a").write_bytes(b"\xff old")

    with pytest.raises(HostError), transaction.begin("test", folder) as changes:
        changes.make(file(etc / "a", None))
        changes.make(Broken(etc / "b", b"half", "b is there"))

    assert (etc / "a").read_bytes() == b"\xff old"


def test_a_change_that_cannot_be_taken_back_is_named_and_stays_noted(
    folder: Path, etc: Path
) -> None:
    (etc / "a").write_text("old")

    with (
        pytest.raises(HostError, match=r"on fire; besides: not put back: .*a cannot be"),
        transaction.begin("test", folder) as changes,
    ):
        changes.make(file(etc / "a", "new"))
        (etc / "a").unlink()
        (etc / "a").mkdir()
        changes.make(Broken(etc / "b", b"half", "b is there"))

    assert (folder / NOTE).exists()


def test_what_somebody_else_has_changed_since_is_left_alone(folder: Path, etc: Path) -> None:
    (etc / "a").write_text("old")

    with (
        pytest.raises(HostError, match=r"besides: .*a stays as it is: it was changed since"),
        transaction.begin("test", folder) as changes,
    ):
        changes.make(file(etc / "a", "new"))
        (etc / "a").write_text("somebody's")
        changes.make(Broken(etc / "b", b"half", "b is there"))

    assert (etc / "a").read_text() == "somebody's"


def test_a_file_keeps_its_permissions(folder: Path, etc: Path) -> None:
    (etc / "a").write_text("old")
    (etc / "a").chmod(0o640)

    with transaction.begin("test", folder) as changes:
        changes.make(file(etc / "a", "new"))

    assert (etc / "a").stat().st_mode & 0o777 == 0o640


def test_a_new_file_belongs_to_the_folder_that_it_is_really_in(folder: Path, etc: Path) -> None:
    (etc / "real").mkdir()
    if os.geteuid() == 0:
        os.chown(etc, 65534, 65534)
    (etc / "file").symlink_to("real/file")

    with transaction.begin("configure", folder) as changes:
        changes.make(file(etc / "file", "new"))

    assert (etc / "real" / "file").stat().st_uid == os.geteuid()


def test_no_file_makes_who_runs_it_its_owner(folder: Path, etc: Path) -> None:
    (etc / "file").write_text("old")
    (etc / "file").chmod(0o4755)

    with transaction.begin("configure", folder) as changes:
        changes.make(file(etc / "file", "new"))

    assert stat.S_IMODE((etc / "file").stat().st_mode) == 0o755


def test_what_a_killed_run_was_writing_does_not_lie_about(folder: Path, etc: Path) -> None:
    unfinished = etc / ".file.vif-driver"
    unfinished.write_text("half of a secret")

    with pytest.raises(HostError), transaction.begin("configure", folder) as changes:
        changes.note(file(etc / "file", "new"))
        raise HostError("it fails", "see to it")

    assert not unfinished.exists()


def test_only_root_reads_what_was_noted(folder: Path, etc: Path) -> None:
    with transaction.begin("test", folder) as changes:
        changes.make(file(etc / "a", "new"))
        modes = [path.stat().st_mode & 0o777 for path in (folder, folder / NOTE)]

    assert modes == [0o700, 0o600]


# ---- who is killed -------------------------------------------------------------------------------


def killed(folder: Path, etc: Path, then: str = "os.kill(os.getpid(), 9)") -> int:
    """Have a process change ``a`` and ``b`` and end before it is done; give its exit status."""
    program = f"""
        import os
        from pathlib import Path
        from vif_driver.configuration import transaction
        from vif_driver.configuration.files import FileContent
        with transaction.begin("the first", Path({str(folder)!r}), request="a and b") as changes:
            for name in ("a", "b"):
                path = Path({str(etc)!r}) / name
                changes.make(FileContent(path, b"new", "it is new"))
            {then}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.DEVNULL
    )
    return done.returncode


def test_the_next_run_takes_back_what_a_killed_one_has_left(folder: Path, etc: Path) -> None:
    (etc / "a").write_text("old")
    assert killed(folder, etc) == -signal.SIGKILL
    assert (etc / "a").read_text() == "new"

    with transaction.begin("the second", folder) as changes:
        assert changes.recovered == ["an interrupted the first was taken back"]

    assert (etc / "a").read_text() == "old"
    assert not (etc / "b").exists()
    assert not (folder / NOTE).exists()


def test_a_change_that_was_only_noted_needs_nothing_to_be_taken_back(
    folder: Path, etc: Path
) -> None:
    (etc / "c").write_text("old")
    note = "changes.note(FileContent(path.with_name('c'), b'new', 'c')); os.kill(os.getpid(), 9)"
    assert killed(folder, etc, note) == -signal.SIGKILL

    with transaction.begin("the second", folder):
        pass

    assert (etc / "c").read_text() == "old"


def test_a_run_that_is_to_do_the_same_finishes_what_a_killed_one_has_begun(
    folder: Path, etc: Path
) -> None:
    (etc / "a").write_text("old")
    killed(folder, etc)

    with transaction.begin("the first", folder, request="a and b") as changes:
        assert changes.recovered == ["an interrupted the first is finished"]
        assert not changes.make(file(etc / "a", "new"))

    assert (etc / "a").read_text() == "new"
    assert not (folder / NOTE).exists()


def test_if_that_fails_all_is_as_it_was_before_both(folder: Path, etc: Path) -> None:
    (etc / "a").write_text("old")
    killed(folder, etc)

    with (
        pytest.raises(HostError),
        transaction.begin("the first", folder, request="a and b") as changes,
    ):
        changes.make(file(etc / "a", "newer"))
        changes.make(Broken(etc / "c", b"half", "c is there"))

    assert (etc / "a").read_text() == "old"
    assert not (etc / "b").exists()


def test_a_run_that_is_to_do_something_else_does_not(folder: Path, etc: Path) -> None:
    (etc / "a").write_text("old")
    killed(folder, etc)

    with transaction.begin("the first", folder, request="c") as changes:
        assert changes.recovered == ["an interrupted the first was taken back"]

    assert (etc / "a").read_text() == "old"


def test_who_ends_a_run_has_all_taken_back(
    folder: Path, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "FOLDER", folder)

    with pytest.raises(KeyboardInterrupt), changing.transaction_of("test") as changes:
        changes.make(file(etc / "a", "new"))
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")

    assert not (etc / "a").exists()


@pytest.fixture
def nohup() -> Iterator[None]:
    """Whoever started this process has it outlive its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("nohup")
def test_the_loss_of_a_terminal_ends_no_run_that_is_to_outlive_it(
    folder: Path, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "FOLDER", folder)

    with changing.transaction_of("test") as changes:
        changes.make(file(etc / "a", "new"))
        os.kill(os.getpid(), signal.SIGHUP)

    assert (etc / "a").read_text() == "new"


@pytest.mark.usefixtures("nohup")
def test_nor_does_it_while_such_a_run_is_taken_back(
    folder: Path, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_back = FileContent.take_back

    def left(before: dict[str, object]) -> str | None:
        os.kill(os.getpid(), signal.SIGHUP)
        return take_back(before)

    monkeypatch.setattr(record, "FOLDER", folder)
    monkeypatch.setattr(FileContent, "take_back", left)

    with pytest.raises(HostError, match="leaks"), changing.transaction_of("test") as changes:
        changes.make(file(etc / "a", "new"))
        raise HostError("the roof leaks", "mend it")

    assert not (etc / "a").exists()


def test_nobody_ends_it_while_it_is_taken_back(
    folder: Path, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_back = FileContent.take_back

    def ended(before: dict[str, object]) -> str | None:
        os.kill(os.getpid(), signal.SIGTERM)
        return take_back(before)

    monkeypatch.setattr(record, "FOLDER", folder)
    monkeypatch.setattr(FileContent, "take_back", ended)

    with pytest.raises(KeyboardInterrupt), changing.transaction_of("test") as changes:
        changes.make(file(etc / "a", "new"))
        raise HostError("the roof leaks", "mend it")

    assert not (etc / "a").exists()
    assert not (folder / NOTE).exists()


def test_what_a_killed_run_has_left_is_found(folder: Path, etc: Path) -> None:
    killed(folder, etc)

    assert record.interrupted(folder) == "the first"


def test_a_run_that_goes_on_has_left_nothing(folder: Path, etc: Path) -> None:
    with transaction.begin("the first", folder) as changes:
        changes.make(file(etc / "a", "new"))

        assert record.interrupted(folder) is None

    assert record.interrupted(folder) is None


def test_a_note_that_nobody_understands_stops_the_next_run(folder: Path, etc: Path) -> None:
    folder.mkdir()
    (folder / NOTE).write_text('{"version": 1, "command": "x", "changes": [{"kind": "magic"}]}')

    with pytest.raises(HostError, match="cannot be understood"), transaction.begin("test", folder):
        pytest.fail("it began all the same")


def test_one_run_at_a_time(folder: Path) -> None:
    with (
        transaction.begin("the first", folder),
        pytest.raises(HostError, match="being configured by another"),
        transaction.begin("the second", folder),
    ):
        pytest.fail("both went on")


# ---- services ------------------------------------------------------------------------------------


class Systemd:
    """A systemctl for one unit, in a folder that goes before all others.

    Attributes:
        folder: of the program and what it knows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = f"""\
            #!/bin/sh
            cd {folder}
            shift
            verb=$1
            echo "$@" >> calls
            for unit; do :; done
            [ "$unit" = a.service ] || {{ echo LoadState=not-found; exit 0; }}
            case $verb in
                show) cat state; exit ;;
                start|restart) [ -e broken ] && {{ echo "Job failed." >&2; exit 1; }}
                    sed -i s/ActiveState=.*/ActiveState=active/ state ;;
                stop) sed -i s/ActiveState=.*/ActiveState=inactive/ state ;;
                enable) sed -i s/UnitFileState=.*/UnitFileState=enabled/ state ;;
                disable) sed -i s/UnitFileState=.*/UnitFileState=disabled/ state ;;
            esac
        """
        (folder / "systemctl").write_text(textwrap.dedent(program))
        (folder / "systemctl").chmod(0o755)
        self.is_("inactive", "disabled")

    def is_(self, active: str, enabled: str) -> None:
        state = f"LoadState=loaded\nActiveState={active}\nUnitFileState={enabled}\n"
        (self.folder / "state").write_text(state)

    @property
    def state(self) -> tuple[str, str]:
        words = (self.folder / "state").read_text().split()
        return words[1].partition("=")[2], words[2].partition("=")[2]

    @property
    def done(self) -> list[str]:
        """What was asked of it, without questions."""
        calls = (self.folder / "calls").read_text().splitlines()
        return [
            call.split()[0] for call in calls if call.split()[0] not in ("show", "reset-failed")
        ]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    """A systemd with a unit ``a.service`` that neither runs nor is enabled."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Systemd(folder)


RUNS = ServiceState("a.service", active=True, enabled=True)


def test_a_service_is_enabled_and_started(folder: Path, systemd: Systemd) -> None:
    with transaction.begin("test", folder) as changes:
        changes.make(RUNS)

    assert systemd.state == ("active", "enabled")
    assert systemd.done == ["enable", "start"]


def test_a_service_that_runs_is_not_touched(folder: Path, systemd: Systemd) -> None:
    systemd.is_("active", "enabled")

    with transaction.begin("test", folder) as changes:
        assert not changes.make(RUNS)

    assert systemd.done == []


def test_a_service_that_only_others_start_is_not_enabled(folder: Path, systemd: Systemd) -> None:
    systemd.is_("inactive", "static")

    with transaction.begin("test", folder) as changes:
        changes.make(RUNS)

    assert systemd.done == ["start"]


@pytest.mark.parametrize("before", [("inactive", "disabled"), ("active", "disabled")])
def test_a_service_becomes_what_it_was(
    folder: Path, etc: Path, systemd: Systemd, before: tuple[str, str]
) -> None:
    systemd.is_(*before)

    with pytest.raises(HostError), transaction.begin("test", folder) as changes:
        changes.make(RUNS)
        changes.make(Broken(etc / "b", b"half", "b is there"))

    assert systemd.state == before


def test_a_service_that_does_not_start_says_where_to_look(folder: Path, systemd: Systemd) -> None:
    (systemd.folder / "broken").touch()

    with (
        pytest.raises(HostError, match=r"start a\.service fails \(Job failed\.\); see systemctl"),
        transaction.begin("test", folder) as changes,
    ):
        changes.make(RUNS)

    assert systemd.state == ("inactive", "disabled")


def test_a_service_that_is_not_installed_is_named(folder: Path, systemd: Systemd) -> None:
    with (
        pytest.raises(HostError, match=r"has no b\.service; .* systemctl unmask b\.service"),
        transaction.begin("test", folder) as changes,
    ):
        changes.make(ServiceState("b.service", active=True))


def test_a_service_reads_its_files_anew_when_they_have_been_put_back(
    folder: Path, etc: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd.is_("active", "enabled")
    restart = Restart("a.service")
    seen = watched_restarts(monkeypatch, etc / "a")

    with pytest.raises(HostError), transaction.begin("test", folder) as changes:
        changes.note(restart)
        changes.make(file(etc / "a", "new"))
        changes.make(restart)
        changes.make(Broken(etc / "b", b"half", "b is there"))

    assert seen == ["new", None]


def watched_restarts(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[str | None]:
    """Give what a file has at each restart."""
    from vif_driver.host import units

    seen: list[str | None] = []
    restart: Callable[[str], None] = units.restart

    def watched(name: str) -> None:
        seen.append(path.read_text() if path.exists() else None)
        restart(name)

    monkeypatch.setattr(units, "restart", watched)
    return seen
