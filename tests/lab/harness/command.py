# SPDX-License-Identifier: GPL-2.0-or-later
"""Running commands, with errors that tell everything."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence


class CommandError(Exception):
    """A command failed, or took too long.

    Attributes:
        where: the machine it ran on.
        argv: the command.
        status: its exit status; None when it was ended for taking too long.
        stdout, stderr: what it wrote.
    """

    def __init__(
        self, where: str, argv: Sequence[str], status: int | None, stdout: str, stderr: str
    ) -> None:
        self.where = where
        self.argv = list(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        outcome = "took too long" if status is None else f"exit status {status}"
        super().__init__(
            f"{where}: {shlex.join(argv)}: {outcome}\n"
            f"--- stdout\n{stdout.rstrip()}\n--- stderr\n{stderr.rstrip()}"
        )


def run_command(
    where: str,
    argv: Sequence[str],
    *,
    prefix: Sequence[str] = (),
    check: bool = True,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run ``prefix + argv`` and collect its output.

    Args:
        where: the machine's name, for the error.
        argv: the command as the reader of an error should see it.
        prefix: what brings it to that machine.
        check: raise when the exit status is not 0.
        env: the whole environment; None keeps this process's.
        input: text for its standard input; None gives it /dev/null.
        timeout: seconds.

    Raises:
        CommandError: it failed (and ``check``), or took longer than ``timeout``.
    """
    try:
        done = subprocess.run(
            [*prefix, *argv],
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            env=None if env is None else dict(env),
            timeout=timeout,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except subprocess.TimeoutExpired as late:
        raise CommandError(where, argv, None, _text(late.stdout), _text(late.stderr)) from None
    done.args = list(argv)
    if check and done.returncode != 0:
        raise CommandError(where, argv, done.returncode, done.stdout, done.stderr)
    return done


def _text(output: object) -> str:
    if isinstance(output, bytes):
        return output.decode(errors="replace")
    return output if isinstance(output, str) else ""
