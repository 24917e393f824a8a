# SPDX-License-Identifier: GPL-2.0-or-later
"""RPMs: the product's, built by ``make rpm``, and stand-ins for those of a host of oVirt's."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .command import run_command
from .hypervisor import Hypervisor
from .machine import PROJECT

HOOKS = "/usr/libexec/vdsm/hooks"
#: Those that the product takes the place of.
OVN_DRIVER, OPENSTACKNET = "ovirt-provider-ovn-driver", "vdsm-hook-openstacknet"
#: The product's.
NAMES = ("vif-driver", "vif-driver-doc", "vif-driver-selinux")

# The folders of vdsm.spec that hooks of the packages here go to.
EVENTS = (
    "after_device_create",
    "after_device_destroy",
    "after_device_migrate_destination",
    "after_device_migrate_source",
    "after_get_caps",
    "after_get_stats",
    "after_nic_hotplug",
    "after_nic_hotplug_fail",
    "after_nic_hotunplug",
    "after_vm_destroy",
    "after_vm_start",
    "before_device_create",
    "before_device_migrate_destination",
    "before_device_migrate_source",
    "before_network_setup",
    "before_nic_hotplug",
    "before_update_device",
)

#: What a host of EL9 that VDSM runs on has, with the versions of oVirt 4.5.
OF_HOST = {
    "/bin/sh": "",
    "/usr/bin/python3": "",
    "acl": "2.3.1",
    "firewalld-filesystem": "1.2.1",
    "openssl": "3.0.7",
    "openvswitch": "2.15",
    "openvswitch-ovn-common": "2021",
    "openvswitch-ovn-host": "2021",
    "python3-libvirt": "9.0.0",
    "python3-lxml": "4.6.5",
    "python3-openvswitch": "2.15",
    "python3-pyroute2": "0.6.4",
    "python3-systemd": "234",
    "selinux-policy-targeted": "38.1.11",
    "systemd": "252",
}
# Folders of packages that every host has, which Debian has not.
FOLDERS_OF_HOST = (
    "/usr/share/licenses",
    "/usr/share/selinux/devel/include/distributed",
    "/usr/share/selinux/packages/targeted",
)
#: Where vdsm-tool looks for its commands.
TOOLS = "/usr/lib/python3/dist-packages/vdsm/tool"
#: What ovirt-provider-ovn-driver has there, and the product as well.
TOOL = f"{TOOLS}/ovn_config.py"
SUDOERS = (
    "/etc/sudoers.d/50_vdsm_hook_openstacknet",
    "/etc/sudoers.d/50_vdsm_hook_ovirt_provider_ovn_hook",
)
_OPENSTACKNET = (
    "after_device_create",
    "after_device_migrate_destination",
    "after_get_caps",
    "after_nic_hotplug",
    "after_vm_start",
    "before_device_create",
    "before_nic_hotplug",
)
#: The files of vdsm-hook-openstacknet, with their modes.
OF_OPENSTACKNET = {
    **{f"{HOOKS}/{event}/50_openstacknet": 0o755 for event in _OPENSTACKNET},
    **{f"{HOOKS}/{event}/openstacknet_utils.py": 0o644 for event in _OPENSTACKNET},
    SUDOERS[0]: 0o440,
}
#: The files of ovirt-provider-ovn-driver, with their modes.
OF_OVN_DRIVER = {
    f"{HOOKS}/before_device_create/10_ovirt_provider_ovn_hook": 0o555,
    f"{HOOKS}/before_device_create/20_ovirt_provider_ovn_vhostuser_hook": 0o555,
    f"{HOOKS}/before_nic_hotplug/10_ovirt_provider_ovn_hook": 0o555,
    f"{HOOKS}/before_nic_hotplug/20_ovirt_provider_ovn_vhostuser_hook": 0o555,
    f"{HOOKS}/after_get_caps/ovirt_provider_ovn_hook": 0o555,
    f"{HOOKS}/after_vm_destroy/delete_vhostuserclient_hook": 0o555,
    "/usr/libexec/vdsm/vhostuser_permissions_setter": 0o555,
    "/usr/libexec/ovirt-provider-ovn/setup_ovn_controller.sh": 0o544,
    "/usr/libexec/ovirt-provider-ovn/unconfigure_ovn_controller.sh": 0o544,
    TOOL: 0o644,
    SUDOERS[1]: 0o440,
}


@dataclass(frozen=True)
class Build:
    """What ``make rpm`` made.

    Attributes:
        folder: where it is.
        version: of the packages, without the release.
    """

    folder: Path
    version: str

    @property
    def packages(self) -> list[Path]:
        """The files of what is to be installed, as :data:`NAMES` are ordered."""
        return [self.package(name) for name in NAMES]

    def package(self, name: str) -> Path:
        """The file of a package."""
        (found,) = self.folder.glob(f"{name}-{self.version}-*.noarch.rpm")
        return found

    @property
    def source(self) -> Path:
        """The file of the source package."""
        (found,) = self.folder.glob("*.src.rpm")
        return found


def build(folder: Path, tree: Path = PROJECT, *settings: str) -> Build:
    """Run ``make rpm``.

    Args:
        folder: where the packages go; what is in it is removed.
        tree: the sources.
        settings: more of make's, like ``RELEASE=2``.

    Raises:
        CommandError: they can't be built.
    """
    make = ["make", "--no-print-directory", "-C", str(tree), "rpm", f"RPMDIR={folder}"]
    run_command("here", [*make, *settings], timeout=180)
    return Build(folder, version_of(tree))


def version_of(tree: Path) -> str:
    """The version of some sources."""
    text = (tree / "vif_driver" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.*)"$', text, re.M)
    assert found is not None
    return found[1]


def build_changed(folder: Path, changes: Mapping[str, tuple[str, str]]) -> Build:
    """Build the packages of changed sources, which git knows nothing of.

    Args:
        folder: where sources and packages go.
        changes: by file, what is replaced there and by what.
    """
    tree = folder / "tree"
    git_and_built = shutil.ignore_patterns(".git", "build", "__pycache__", ".*_cache")
    shutil.copytree(PROJECT, tree, ignore=git_and_built)
    for name, (old, new) in changes.items():
        text = (tree / name).read_text()
        assert old in text
        (tree / name).write_text(text.replace(old, new))
    return build(folder / "rpm", tree)


_SPEC = """\
Name: {name}
Version: {version}
Release: 1
Summary: Stand-in
License: none
BuildArch: noarch
{provides}

%description
Stand-in.

%install
{install}

%files
{files}
"""


def stand_in(
    folder: Path,
    name: str,
    version: str,
    *,
    files: Mapping[str, int] | None = None,
    folders: Sequence[str] = (),
    provides: Mapping[str, str] | None = None,
) -> Path:
    """Build a package that stands for another project's.

    Args:
        folder: where it goes.
        name, version: the package's.
        files: its files, programs that do nothing, with their modes.
        folders: that are its own.
        provides: what else it is, with versions or ''.

    Returns:
        The package's file.
    """
    modes = files or {}
    root = "%{buildroot}"
    install = [f'mkdir -p "{root}{path}"' for path in folders]
    for path in modes:
        text = f"printf '#!/bin/sh\\\\nexit 0\\\\n' >\"{root}{path}\""
        install += [f'mkdir -p "$(dirname "{root}{path}")"', text]
    listed = [f"%dir {path}" for path in folders]
    listed += [f"%attr({mode:o},root,root) {path}" for path, mode in modes.items()]
    wanted = [
        f"Provides: {each} = {number}" if number else f"Provides: {each}"
        for each, number in (provides or {}).items()
    ]
    spec = folder / f"{name}.spec"
    spec.write_text(
        _SPEC.format(
            name=name,
            version=version,
            provides="\n".join(wanted),
            install="\n".join(install),
            files="\n".join(listed),
        )
    )
    defines = [f"_topdir {folder}/{name}", f"_rpmdir {folder}", "__os_install_post %{nil}"]
    defines += ["_build_name_fmt %%{NAME}.rpm", "__requires_exclude .*"]
    options = [word for each in defines for word in ("--define", each)]
    run_command("here", ["rpmbuild", "-bb", "--quiet", "--nodeps", *options, str(spec)])
    return folder / f"{name}.rpm"


def rpm(host: Hypervisor, *arguments: str | Path) -> str:
    """Run rpm on a host and return what it wrote; packages are given by their files here.

    Raises:
        CommandError: it failed.
    """
    # What is built here is not below the host's /tmp.
    inbox = f"/run/{uuid.uuid4()}"
    host.make_directory(inbox)
    words = []
    for argument in arguments:
        if isinstance(argument, Path):
            shutil.copy(argument, host.path(inbox))
            words.append(f"{inbox}/{argument.name}")
        else:
            words.append(argument)
    try:
        return host.run(["rpm", *words], timeout=120).stdout
    finally:
        shutil.rmtree(host.path(inbox))
