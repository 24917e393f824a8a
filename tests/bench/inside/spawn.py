# SPDX-License-Identifier: GPL-2.0-or-later
"""Spawns processes as VDSM does, and measures them from where VDSM would stand.

Runs on a lab host, so that entering its namespaces is no part of what is measured.  The order
comes as JSON on standard input, see ``Bench.spawn``; the answer goes as JSON to standard output:
for each command a list of ``[seconds, exit status, stderr, file content]``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from typing import Any, NamedTuple


class Job(NamedTuple):
    """A command with its files, ready to be spawned."""

    argv: list[str]
    env: dict[str, str]
    data: bytes
    file: str
    stderr: str

    def lay_out(self) -> None:
        """Write the file that the process is given; not measured."""
        with open(self.file, "wb") as stream:
            stream.write(self.data)

    def spawn(self) -> int:
        """Start the process."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, self.stderr, flags, 0o600),
        ]
        return os.posix_spawn(self.argv[0], self.argv, self.env, file_actions=actions)

    def result(self, seconds: float, status: int) -> list[Any]:
        """Give how it went, in the form of the answer."""
        with open(self.stderr, errors="replace") as stderr, open(self.file) as file:
            return [seconds, os.waitstatus_to_exitcode(status), stderr.read(), file.read()]


def in_turns(jobs: list[Job]) -> list[list[Any]]:
    """Run one after the other."""
    results = []
    for job in jobs:
        job.lay_out()
        begun = time.perf_counter()
        _, status = os.waitpid(job.spawn(), 0)
        results.append(job.result(time.perf_counter() - begun, status))
    return results


def together(jobs: list[Job]) -> list[list[Any]]:
    """Run all at once; the seconds count from the first one's spawn."""
    for job in jobs:
        job.lay_out()
    begun = time.perf_counter()
    running = {job.spawn(): number for number, job in enumerate(jobs)}
    ended: dict[int, list[Any]] = {}
    while len(ended) < len(jobs):
        pid, status = os.wait()
        number = running[pid]
        ended[number] = [time.perf_counter() - begun, status]
    return [job.result(*ended[number]) for number, job in enumerate(jobs)]


def main() -> None:
    """Do what standard input orders."""
    order = json.load(sys.stdin)
    directory = tempfile.mkdtemp()
    try:
        jobs = []
        for number, command in enumerate(order["commands"]):
            file = os.path.join(directory, str(number))
            env = {**command["env"], command["variable"]: file}
            data = command["data"].encode()
            jobs.append(Job(command["argv"], env, data, file, f"{file}.stderr"))
        run = together if order["together"] else in_turns
        rounds = [run(jobs) for _ in range(order["rounds"])]
    finally:
        shutil.rmtree(directory)
    json.dump([list(runs) for runs in zip(*rounds)], sys.stdout)


if __name__ == "__main__":
    main()
