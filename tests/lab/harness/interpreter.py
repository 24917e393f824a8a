# SPDX-License-Identifier: GPL-2.0-or-later
"""Which Python a host has as ``/usr/bin/python3``."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .machine import PROJECT, Machine

EL9_ENVIRONMENT = PROJECT / "build" / "venv" / "el9"


@dataclass(frozen=True)
class Interpreter:
    """A Python for a host.

    Attributes:
        executable: the real file, not a link or a virtual environment's.
        packages: where it looks for packages of its own.
        libraries: more directories with packages, such as a virtual environment's.
    """

    executable: Path
    packages: Path
    libraries: tuple[Path, ...]

    @classmethod
    def of_environment(cls, environment: Path = EL9_ENVIRONMENT) -> Interpreter:
        """The interpreter a virtual environment was made with, with that environment's packages.

        Args:
            environment: by default the one with Python 3.9 and EL9's libraries.

        Raises:
            FileNotFoundError: there is no such environment.
        """
        executable = (environment / "bin" / "python").resolve(strict=True)
        question = "import sysconfig; print(sysconfig.get_path('purelib'))"
        ask = [str(executable), "-I", "-c", question]
        packages = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True).stdout
        name = "python{}.{}".format(*_version(executable))
        libraries = (
            environment / "lib" / name / "site-packages",
            # Where "make install" with PREFIX=/usr puts the product; /usr's own interpreter of
            # this version would look there.
            Path("/usr/lib", name, "site-packages"),
        )
        return cls(executable, Path(packages.strip()), libraries)

    def install_on(self, machine: Machine) -> None:
        """Make it the machine's ``/usr/bin/python3``.

        Only the machine's own disk is written; ``/`` of the computer stays as it is.
        """
        machine.run(["ln", "-sfn", str(self.executable), "/usr/bin/python3"])
        text = "".join(f"{library}\n" for library in self.libraries)
        machine.write(self.packages / "lab.pth", text)
        for path in (self.executable, self.packages, *self.libraries):
            open_way(machine, path)


def open_way(machine: Machine, path: Path) -> None:
    """Let every user of the machine come through to ``path``: /root, for one, is closed."""
    for directory in path.parents:
        if directory == PROJECT or PROJECT in directory.parents:
            continue  # shown read only
        inside = machine.path(directory)
        if inside.is_dir():
            mode = inside.stat().st_mode
            if not mode & 0o001:
                os.chmod(inside, mode | 0o011)


def _version(executable: Path) -> tuple[str, str]:
    question = "import sys; print(*sys.version_info[:2])"
    ask = [str(executable), "-I", "-S", "-c", question]
    words = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return words[0], words[1]
