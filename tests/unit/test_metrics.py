# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of metrics, and the example of rules for it."""

from __future__ import annotations

import importlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from vif_driver import __version__
from vif_driver.reporting import METRICS
from vif_driver.reporting.counts import Switchovers
from vif_driver.reporting.figures import Figures
from vif_driver.reporting.metrics import MetricsFile

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "packaging/prometheus/alerts.yml"
DOCUMENTATION = ROOT / "docs/metrics.md"

#: Everything is known.
FIGURES = Figures(
    since=1000.5,
    vnics={("ovn", "ready"): 3, ("ovs_hybrid", "not_ready"): 1},
    waiting=1,
    stale_removed=2,
    boot_stale_removed=3,
    plugged_again=4,
    switchovers=Switchovers(5, 0.25),
    hybrid_drops={("tap", "rx"): 6},
    connected={"ovsdb": True, "libvirt": False, "ovn_controller": None},
    bridge_exists=True,
    events=7,
    events_failed=1,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to be."""
    return tmp_path / "vif-driver.prom"


def samples(path: Path) -> dict[str, float]:
    lines = path.read_text().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def names(text: str) -> set[str]:
    return set(re.findall(r"\bvif_driver_\w+", text))


def test_all_figures_are_there(path: Path) -> None:
    MetricsFile(path).write(FIGURES)

    assert samples(path) == {
        f'vif_driver_info{{version="{__version__}"}}': 1,
        "vif_driver_start_time_seconds": 1000.5,
        'vif_driver_vnics{attachment="ovn",state="ready"}': 3,
        'vif_driver_vnics{attachment="ovs_hybrid",state="not_ready"}': 1,
        "vif_driver_waiting": 1,
        "vif_driver_stale_removed_total": 2,
        "vif_driver_boot_stale_removed": 3,
        "vif_driver_plugged_again_total": 4,
        "vif_driver_switchovers_total": 5,
        "vif_driver_switchover_worst_seconds": 0.25,
        'vif_driver_hybrid_dropped_packets_total{device="tap",direction="rx"}': 6,
        'vif_driver_connected{part="libvirt"}': 0,
        'vif_driver_connected{part="ovsdb"}': 1,
        "vif_driver_integration_bridge": 1,
        "vif_driver_events_total": 7,
        "vif_driver_events_failed_total": 1,
    }


def test_what_is_not_known_is_not_there(path: Path) -> None:
    MetricsFile(path).write(Figures(0.0))

    unknown = ("boot_stale", "worst", "integration_bridge", "connected", "vnics", "dropped")
    assert not [name for name in samples(path) if any(part in name for part in unknown)]


def test_the_last_figures_are_the_ones(path: Path) -> None:
    file = MetricsFile(path)

    file.write(FIGURES)
    file.write(Figures(2000.0, stale_removed=9))

    assert samples(path)["vif_driver_stale_removed_total"] == 9
    assert "vif_driver_boot_stale_removed" not in samples(path)


@pytest.fixture
def private_umask() -> Iterator[None]:
    """Files are for their owner alone, as the agent's are."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("private_umask")
def test_anybody_may_read_the_file(path: Path) -> None:
    MetricsFile(path).write(FIGURES)

    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_file_is_replaced_and_nothing_is_left_beside_it(path: Path) -> None:
    file = MetricsFile(path)
    file.write(FIGURES)
    with path.open() as reader:
        file.write(Figures(1.0))

        assert "vif_driver_start_time_seconds 1000.5" in reader.read()
    assert list(path.parent.iterdir()) == [path]


def test_who_ends_leaves_no_figures_but_a_file(path: Path) -> None:
    file = MetricsFile(path)
    file.write(FIGURES)

    file.clear()

    assert path.read_bytes() == b""


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        MetricsFile(tmp_path / "none" / "x.prom").write(FIGURES)


def test_a_library_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ImportError):
        MetricsFile()


def in_new_process(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_what_the_library_has_for_the_web_is_not_loaded(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vif_driver.reporting.metrics import *;"
        f"MetricsFile(Path({str(path)!r})).write(Figures(1.0));"
        "print([name for name in sys.modules if name in ('http.client', 'email.message')]);"
        "import http.server; print(http.server.HTTPServer.__mro__[-2].__name__)"
    )

    loaded, real = in_new_process(program).splitlines()

    assert (loaded, real) == ("[]", "BaseServer")
    assert samples(path)["vif_driver_start_time_seconds"] == 1.0


def test_a_release_of_the_library_that_wants_more_of_the_web_gets_it(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    real, asked = importlib.import_module, []

    def import_module(name: str) -> object:
        asked.append(name)
        if len(asked) == 1:
            raise TypeError("no such base class")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)

    MetricsFile(path).write(FIGURES)

    assert asked == ["prometheus_client"] * 2 and samples(path)


# ---- rules and documentation -----------------------------------------------------------------


def test_every_metric_of_the_example_of_rules_exists(path: Path) -> None:
    MetricsFile(path).write(FIGURES)
    rules = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]

    used = names(" ".join(rule["expr"] for rule in rules))

    assert rules and all(rule["annotations"]["summary"] for rule in rules)
    assert used and used <= {name.partition("{")[0] for name in samples(path)}


def test_every_metric_is_documented_and_none_else(path: Path) -> None:
    MetricsFile(path).write(FIGURES)

    documented = names(DOCUMENTATION.read_text())

    assert documented == {name.partition("{")[0] for name in samples(path)}


def test_promtool_takes_rules_and_metrics(path: Path) -> None:
    MetricsFile(path).write(FIGURES)

    subprocess.run(["promtool", "check", "rules", ALERTS], check=True)
    subprocess.run(["promtool", "check", "metrics"], input=path.read_bytes(), check=True)


def test_the_file_is_made_where_the_service_may_write() -> None:
    unit = (ROOT / "packaging/systemd/vif-agent.service").read_text()
    folders = (ROOT / "packaging/tmpfiles.d/vif-driver.conf").read_text()

    assert f"ReadWritePaths=-{METRICS.parent}\n" in unit
    assert f"d {METRICS.parent} 0755 vif-agent vif-agent\n" in folders
    assert f"f {METRICS} 0644 vif-agent vif-agent\n" in folders
