# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the RPMs, without a host to install them on."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.harness.command import CommandError, run_command
from tests.lab.harness.machine import PROJECT
from tests.lab.harness.packages import (
    HOOKS,
    NAMES,
    OF_HOST,
    OF_OPENSTACKNET,
    OF_OVN_DRIVER,
    OPENSTACKNET,
    OVN_DRIVER,
    TOOL,
    Build,
    build,
    build_changed,
    stand_in,
    version_of,
)
from tests.lab.harness.product import install_into

UNITS = Path("usr/lib/systemd/system")
# importlib's: the source is compared, by its hash, each time.
CHECKED_HASH = 3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The packages of this checkout."""
    return build(tmp_path_factory.mktemp("rpm"))


@pytest.fixture(scope="module")
def unpacked(built: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their files, below a folder."""
    folder = tmp_path_factory.mktemp("unpacked")
    for package in built.packages:
        command = f"rpm2cpio {package} | cpio --extract --make-directories --quiet"
        subprocess.run(["sh", "-c", command], cwd=folder, check=True)
    return folder


def ask(package: Path, *questions: str) -> list[str]:
    """Ask rpm about a package; its answer's lines."""
    database = f"--dbpath={package.parent}/database"  # not root's own, which rpm would make
    command = ["rpm", database, "--query", "--package", *questions, str(package)]
    return run_command("here", command).stdout.splitlines()


def entries(package: Path, what: str) -> dict[str, str]:
    """Tell something of each of a package's files, by its path."""
    lines = ask(package, "--queryformat", f"[%{{{what}}} %{{FILENAMES}}\\n]")
    return {path: told for told, _, path in (line.partition(" ") for line in lines)}


# ---- files ---------------------------------------------------------------------------------------


def test_every_file_is_roots(built: Build) -> None:
    for package in built.packages:
        owners = {*entries(package, "FILEUSERNAME").values()}
        groups = {*entries(package, "FILEGROUPNAME").values()}

        assert (owners, groups) == ({"root"}, {"root"})


def test_hooks_are_for_everybody_to_run_and_for_nobody_to_change(built: Build) -> None:
    modes = entries(built.package("vif-driver"), "FILEMODES:perms")

    hooks = {path: mode for path, mode in modes.items() if path.startswith(f"{HOOKS}/")}
    assert len(hooks) == 16
    assert set(hooks.values()) == {"-r-xr-xr-x"}


def test_no_folder_but_of_the_products_own_belongs_to_a_package(built: Build) -> None:
    own = re.compile(r"vif[-_](driver|agent)|/ovsdb-server\.service\.d$")
    for package in built.packages:
        modes = entries(package, "FILEMODES:perms")

        folders = [path for path, mode in modes.items() if mode.startswith("d")]
        assert [path for path in folders if not own.search(path)] == []
        assert [path for path in folders if path.startswith("/usr/libexec/vdsm")] == []


def test_nothing_is_in_two_packages(built: Build) -> None:
    lists = [ask(package, "--list") for package in built.packages]

    found = [path for paths in lists for path in paths]
    assert len(found) == len(set(found))
    # Of those that are replaced only vdsm-tool's commands have to be where they were.
    assert set(found) & (OF_OPENSTACKNET.keys() | OF_OVN_DRIVER.keys()) == {TOOL}


def test_there_is_what_make_install_installs(built: Build, unpacked: Path, tmp_path: Path) -> None:
    install_into(tmp_path)

    def files(root: Path) -> set[str]:
        found = [path for path in root.rglob("*") if not path.is_dir()]
        return {str(path.relative_to(root)).removesuffix(".gz") for path in found}

    more = files(unpacked) - files(tmp_path)
    assert files(tmp_path) - files(unpacked) == set()
    assert {path for path in more if not re.search(r"/licenses/|/doc/|/selinux/", path)} == set()


def test_the_configuration_is_kept_as_it_was_edited(built: Build) -> None:
    flags = entries(built.package("vif-driver"), "FILEFLAGS:fflags")

    assert {path: told for path, told in flags.items() if "c" in told} == {
        "/etc/vif-driver/vif-driver.conf": "cn"
    }


def test_what_the_hooks_load_is_compiled_and_needs_no_clock(unpacked: Path) -> None:
    (compiled,) = (unpacked / "usr/libexec/vif-driver/__pycache__").glob("vif_hook.*.pyc")

    assert int.from_bytes(compiled.read_bytes()[4:8], "little") == CHECKED_HASH


def test_every_module_is_compiled(unpacked: Path) -> None:
    sources = {path for path in unpacked.rglob("*.py") if "/doc/" not in str(path)}
    compiled = set(unpacked.rglob("*.pyc"))

    assert {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in compiled} == sources


def test_nothing_says_where_it_was_built(built: Build, unpacked: Path) -> None:
    inside = [path for path in unpacked.rglob("*") if path.is_file()]

    assert [path for path in inside if os.fsencode(built.folder) in path.read_bytes()] == []
    assert [path for path in inside if b"BUILDROOT" in path.read_bytes()] == []


def test_there_is_no_rule_for_sudo(unpacked: Path) -> None:
    assert not (unpacked / "etc" / "sudoers.d").exists()


def test_every_program_has_a_manual_page(unpacked: Path) -> None:
    programs = [*(unpacked / "usr/bin").iterdir(), *(unpacked / "usr/sbin").iterdir()]

    pages = {path.name for path in (unpacked / "usr/share/man/man8").iterdir()}
    assert {f"{path.name}.8.gz" for path in programs} == pages
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in programs)


def test_the_preset_enables_every_unit_that_can_be_enabled(unpacked: Path) -> None:
    units = [path for path in (unpacked / UNITS).iterdir() if path.is_file()]
    text = (unpacked / "usr/lib/systemd/system-preset/85-vif-driver.preset").read_text()

    enabled = set(re.findall(r"^enable (\S+)$", text, re.M))
    assert enabled == {path.name for path in units if "[Install]" in path.read_text()}


# ---- what it says of itself ----------------------------------------------------------------------


def test_it_takes_the_place_of_both_packages_that_hosts_have(built: Build) -> None:
    package = built.package("vif-driver")

    assert set(ask(package, "--obsoletes")) == {
        "ovirt-provider-ovn-driver < 2",
        "vdsm-hook-openstacknet < 5",
    }
    assert {"ovirt-provider-ovn-driver = 2", "vdsm-hook-openstacknet = 5"} <= set(
        ask(package, "--provides")
    )


def test_it_requires_what_hosts_have_by_the_names_that_el_gives_it(built: Build) -> None:
    required = set(ask(built.package("vif-driver"), "--requires"))

    assert {name for name in required if not name.startswith("rpmlib(")} == {
        f"(vif-driver-selinux = {built.version}-1 if selinux-policy-targeted)",
        "(python3-openvswitch or python3dist(ovs))",
        "/bin/sh",
        "/usr/bin/python3",
        "acl",
        f"config(vif-driver) = {built.version}-1",
        "firewalld-filesystem",
        "openssl",
        "openvswitch >= 2.15",
        "openvswitch-ovn-common",
        "openvswitch-ovn-host",
        "python3-libvirt",
        "python3-lxml",
        "python3-pyroute2",
        "python3-systemd",
        "systemd",
        "vdsm",
        "vdsm >= 4.50",
    }
    assert set(ask(built.package("vif-driver"), "--recommends")) == {
        "openvswitch-ipsec",
        "python3-prometheus_client",
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_package_has_licence_and_changelog(built: Build, name: str) -> None:
    package = built.package(name)

    (tag,) = ask(package, "--queryformat", "%{LICENSE}\\n")
    assert tag == "GPL-2.0-or-later"
    assert [path for path in ask(package, "--licensefiles") if path.endswith("/LICENSE")]
    assert ask(package, "--changelog")[0].endswith(f" - {built.version}-1")


def test_rpmlint_has_nothing_to_say(built: Build, tmp_path: Path) -> None:
    configuration = str(PROJECT / "packaging" / "rpmlint.toml")
    packages = [str(path) for path in (*built.packages, built.source)]

    # Its rpm would make itself a database there.
    home = ["env", f"HOME={tmp_path}"]
    told = run_command("here", [*home, "rpmlint", "-c", configuration, *packages], check=False)

    assert " 0 errors, 0 warnings" in told.stdout, told.stdout
    assert told.returncode == 0


# ---- what dnf makes of it ------------------------------------------------------------------------


@dataclass(frozen=True)
class Repository:
    """Packages as dnf sees them, and a root that it installs them below.

    Attributes:
        folder: the packages'.
        root: where they are installed.
    """

    folder: Path
    root: Path

    def dnf(self, *arguments: str) -> None:
        """Run dnf, with nothing of this computer's."""
        settings = {
            "reposdir": "/dev/null",
            "cachedir": f"{self.root}/cache",
            "logdir": f"{self.root}/log",
            # The scriptlets' programs are not below that root.
            "tsflags": "noscripts",
        }
        options = [f"--installroot={self.root}", "--releasever=9", "--nogpgcheck", "--assumeyes"]
        options += [f"--setopt={key}={value}" for key, value in settings.items()]
        options += [f"--repofrompath=lab,{self.folder}", *arguments]
        run_command("here", ["env", f"HOME={self.root}", "dnf", *options])

    def installed(self) -> set[str]:
        """The names of what is installed."""
        query = [
            "env",
            f"HOME={self.root}",
            "rpm",
            f"--root={self.root}",
            "-qa",
            "--queryformat",
            "%{NAME}\\n",
        ]
        return set(run_command("here", query).stdout.split())


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what oVirt's and EL's repositories have."""
    folder = tmp_path_factory.mktemp("others")
    stand_in(folder, OVN_DRIVER, "1.2.36", files=OF_OVN_DRIVER)
    stand_in(folder, OPENSTACKNET, "4.50.5.1", files=OF_OPENSTACKNET)
    stand_in(folder, "vdsm", "4.50.5.1", folders=[HOOKS])
    stand_in(folder, "el", "9", provides=OF_HOST)
    return folder


@pytest.fixture
def repository(built: Build, others: Path, tmp_path: Path) -> Repository:
    """All that, and our packages, in one repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for package in (*others.glob("*.rpm"), *built.packages):
        shutil.copy(package, folder)
    run_command("here", ["createrepo_c", "--quiet", str(folder)])
    root = tmp_path / "root"
    (root / "log").mkdir(parents=True)
    return Repository(folder, root)


def test_host_deploy_gets_ours_though_the_other_is_there_as_well(repository: Repository) -> None:
    repository.dnf("install", OVN_DRIVER)

    assert repository.installed() == {"el", "vdsm", "vif-driver", "vif-driver-selinux"}


def test_an_upgrade_of_a_host_exchanges_both_for_ours(repository: Repository) -> None:
    # As long as ours is not known.
    repository.dnf("install", "--exclude=vif-driver*", OVN_DRIVER, OPENSTACKNET, "vdsm", "el")
    before = repository.installed()

    repository.dnf("upgrade")

    assert before == {"el", "vdsm", OVN_DRIVER, OPENSTACKNET}
    assert repository.installed() == {"el", "vdsm", "vif-driver", "vif-driver-selinux"}


# ---- how it is built -----------------------------------------------------------------------------


def test_the_source_package_builds_the_same(built: Build, tmp_path: Path) -> None:
    defines = [f"_topdir {tmp_path}", f"_dbpath {tmp_path}", "_build_name_fmt %%{NAME}.rpm"]
    options = ["--nodeps", "--quiet", *(word for each in defines for word in ("--define", each))]

    run_command("here", ["rpmbuild", "--rebuild", *options, str(built.source)], timeout=180)

    for name, package in zip(NAMES, built.packages):
        assert ask(tmp_path / "RPMS" / f"{name}.rpm", "--list") == ask(package, "--list")


# What EL9's packages of systemd, Python and SELinux define, so far as the spec uses it.
EL9 = r"""
%dist .el9
%__python3 /usr/bin/python3
%python3_pkgversion 3
%python3_sitelib /usr/lib/python3.9/site-packages
%_unitdir /usr/lib/systemd/system
%_presetdir /usr/lib/systemd/system-preset
%_sysusersdir /usr/lib/sysusers.d
%_tmpfilesdir /usr/lib/tmpfiles.d
%_modulesloaddir /usr/lib/modules-load.d
%systemd_post() el9: post %{*}
%systemd_preun() el9: preun %{*}
%systemd_postun() el9: postun %{*}
%systemd_postun_with_restart() el9: restart %{*}
%selinux_requires Requires: selinux-policy >= 38.1.11
%selinux_relabel_pre(s:) el9: relabel_pre %{-s*}
%selinux_relabel_post(s:) el9: relabel_post %{-s*}
%selinux_modules_install(s:) el9: install %{-s*} %{*}
%selinux_modules_uninstall(s:) el9: uninstall %{-s*} %{*}
"""


@pytest.fixture(scope="module")
def of_el9(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The packages of this checkout, as the spec is read on EL9."""
    folder = tmp_path_factory.mktemp("el9")
    macros = folder / "macros"
    macros.write_text(EL9)
    return build(folder / "rpm", PROJECT, f"RPMBUILD=--nodeps --load={macros}")


def test_on_el9_systemd_and_selinux_are_asked_by_its_own_macros(of_el9: Build) -> None:
    package, policy = of_el9.package("vif-driver"), of_el9.package("vif-driver-selinux")
    module = "/usr/share/selinux/packages/targeted/vif_agent.pp.bz2"

    told = [line for line in ask(package, "--scripts") if "el9:" in line]
    assert told == [
        "el9: post vif-agent.socket vif-agent.service vif-driver-boot.service",
        "el9: preun vif-agent.socket vif-agent.service vif-driver-boot.service",
        "el9: restart vif-agent.service",
        "el9: postun vif-agent.socket vif-driver-boot.service",
    ]
    assert [line for line in ask(policy, "--scripts") if "el9:" in line] == [
        "el9: relabel_pre targeted",
        f"el9: install targeted {module}",
        "el9: uninstall targeted vif_agent",
        "el9: relabel_post targeted",
    ]
    assert "selinux-policy >= 38.1.11" in ask(policy, "--requires")
    assert ask(package, "--queryformat", "%{RELEASE}\n") == ["1.el9"]


def test_on_el9_modules_are_where_its_python_looks(of_el9: Build) -> None:
    paths = ask(of_el9.package("vif-driver"), "--list")

    assert "/usr/lib/python3.9/site-packages/vif_driver/__init__.py" in paths
    assert "/usr/lib/python3.9/site-packages/vdsm/tool/ovn_config.py" in paths
    assert not [path for path in paths if "dist-packages" in path]


def test_a_file_that_is_installed_and_in_no_package_fails_the_build(tmp_path: Path) -> None:
    line = "\tinstall -D -m 0644 packaging/modules-load.conf"
    more = f'{line} "$(DESTDIR)$(PREFIX)/share/stray"\n{line}'

    with pytest.raises(CommandError, match=r"unpackaged[^/]*/usr/share/stray"):
        build_changed(tmp_path, {"Makefile": (line, more)})


def test_the_version_stands_in_one_place() -> None:
    version = version_of(PROJECT)
    spec = (PROJECT / "packaging" / "vif-driver.spec.in").read_text()

    before_changelog = spec.partition("%changelog")[0]
    assert version not in before_changelog
