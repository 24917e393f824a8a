# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine's host-deploy is given: packages for the old one, a role for today's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PACKAGING = Path(__file__).parents[2] / "packaging"
ROLE = PACKAGING / "ansible" / "roles" / "vif_driver"


def read(name: str) -> Any:
    return yaml.safe_load((ROLE / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("distribution", ["redhat", "centos", "fedora"])
def test_every_line_for_the_old_host_deploy_is_a_package(distribution: str) -> None:
    (file,) = (PACKAGING / "host-deploy" / "packages.d").glob(f"*.{distribution}")

    # It hands each line to the package manager, be it a comment or empty.
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines
    assert all(re.fullmatch(r"[a-z0-9-]+", line) for line in lines)


def test_every_variable_of_the_role_is_specified_with_its_default() -> None:
    options = read("meta/argument_specs.yml")["argument_specs"]["main"]["options"]

    defaults = {name: one["default"] for name, one in options.items() if "default" in one}
    assert defaults == read("defaults/main.yml")


def test_every_variable_of_the_role_is_in_its_readme() -> None:
    text = (ROLE / "README.md").read_text(encoding="utf-8")

    for name in read("meta/argument_specs.yml")["argument_specs"]["main"]["options"]:
        parts = name.split("_")
        shortened = {f"`_{'_'.join(parts[number:])}`" for number in range(3, len(parts))}
        assert f"`{name}`" in text or any(short in text for short in shortened), name


def test_the_password_is_nobodys_to_see() -> None:
    options = read("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    (block,) = (task["block"] for task in read("tasks/configured.yml") if "block" in task)

    assert options["vif_driver_neutron_password"]["no_log"] is True
    using = [task for task in block if "vif_driver_neutron_password" in str(task)]
    assert using
    assert all(task["no_log"] is True for task in using)
