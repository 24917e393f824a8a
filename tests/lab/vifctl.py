# SPDX-License-Identifier: GPL-2.0-or-later
"""Running vifctl on a host of the lab."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.lab.harness.hypervisor import Hypervisor


@dataclass(frozen=True)
class Answer:
    """What it said.

    Attributes:
        status: its exit status.
        json: its output.
    """

    status: int
    json: dict[str, Any]

    def text(self, name: str) -> str:
        """The details of the findings of that name."""
        findings = [*self.json.get("checks", ()), *self.json.get("hops", ())]
        return " | ".join(found["detail"] for found in findings if found["name"] == name)


def vifctl(host: Hypervisor, *arguments: str, user: str | None = None) -> Answer:
    """Run it with ``--json``."""
    done = host.run(["vifctl", *arguments, "--json"], user=user, check=False)
    assert done.stdout, done.stderr
    return Answer(done.returncode, json.loads(done.stdout))


def bad(answer: Answer) -> dict[str, str]:
    """The details of the findings of ``vifctl doctor`` that are bad, by name."""
    checks = answer.json["checks"]
    return {check["name"]: check["detail"] for check in checks if check["state"] == "bad"}


@contextmanager
def broken(heal: Callable[[], object]) -> Iterator[None]:
    """Something is broken here, and healed in the end."""
    try:
        yield
    finally:
        heal()
