# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python package; everything around it is installed by the Makefile."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(
    r'^__version__ = "(.*)"$', Path("vif_driver/__init__.py").read_text(encoding="utf-8"), re.M
)
assert VERSION is not None

setup(
    name="vif-driver",
    version=VERSION[1],
    description="The host side of oVirt's external networks",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-2.0-or-later",
    packages=find_packages(include=["vif_driver", "vif_driver.*"]),
    package_data={"vif_driver": ["py.typed"]},
    python_requires=">=3.9",
    install_requires=["lxml", "ovs", "pyroute2", "libvirt-python", "systemd-python"],
    extras_require={"metrics": ["prometheus-client"]},
    classifiers=[
        "License :: OSI Approved :: GNU General Public License v2 or later (GPLv2+)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
    ],
)
