# SPDX-License-Identifier: GPL-2.0-or-later
"""What is added to VDSM's reports, put together from facts."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vif_driver import __version__
from vif_driver.errors import BadRequest, HostError
from vif_driver.host import ovn_controller
from vif_driver.inspection.vnics import HYBRID, ExternalVnic
from vif_driver.reporting import capabilities, document, figures, large
from vif_driver.reporting.capabilities import Capabilities
from vif_driver.reporting.counts import Switchovers
from vif_driver.reporting.figures import Drops, Figures
from vif_driver.vnic import Plugin, VnicIdentity

from .conftest import MAC, VM_ID, VNIC_ID

SETTINGS = {
    "system-id": "chassis-1",
    "hostname": "host-1.example.com",
    "ovn-encap-type": "geneve,vxlan",
    "ovn-encap-ip": "192.0.2.11",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture(autouse=True)
def without_override(monkeypatch: pytest.MonkeyPatch) -> None:
    """The computer's own file with a chassis' name is not looked at."""

    def chassis_name(configured: str | None) -> str | None:
        return configured

    monkeypatch.setattr(ovn_controller, "chassis_name", chassis_name)
    monkeypatch.setattr(capabilities, "chassis_name", chassis_name)


def a_vnic(attachment: str = "ovn", ready: bool | None = True) -> ExternalVnic:
    plugin = Plugin.OPEN_VSWITCH if attachment == HYBRID else Plugin.OVIRT_PROVIDER_OVN
    identity = VnicIdentity(VNIC_ID, plugin, VM_ID)
    return ExternalVnic(identity, attachment, identity.tap, MAC, ready=ready)


KNOWN = Capabilities(SETTINGS, "br-int", True, True, [a_vnic()])
NOTHING = Capabilities(None, "br-int", None, None, [])


# ---- capabilities ----------------------------------------------------------------------------


def test_the_capabilities_of_a_host_of_ovn() -> None:
    assert capabilities.compose(KNOWN) == {
        "schema": 1,
        "version": __version__,
        "chassis": "chassis-1",
        "encapsulation": {"types": ["geneve", "vxlan"], "addresses": ["192.0.2.11"]},
        "integration_bridge": {"name": "br-int", "exists": True},
        "ovn_controller_connected": True,
        "vnics": [
            {
                "vm_id": VM_ID,
                "vnic_id": VNIC_ID,
                "mac": MAC,
                "attachment": "ovn",
                "ready": True,
            }
        ],
    }


def test_without_open_vswitch_there_is_little_to_tell() -> None:
    own = capabilities.compose(NOTHING)

    assert (own["chassis"], own["ovn_controller_connected"]) == (None, None)
    assert own["encapsulation"] == {"types": [], "addresses": []}
    assert own["integration_bridge"] == {"name": "br-int", "exists": None}


def test_a_setting_of_the_chassis_own_goes_first() -> None:
    own = {**SETTINGS, "ovn-encap-ip-chassis-1": "198.51.100.1"}

    composed = capabilities.compose(dataclasses.replace(KNOWN, settings=own))

    assert composed["encapsulation"]["addresses"] == ["198.51.100.1"]


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        (None, {}),
        ({}, {}),
        ({"system-id": "c"}, {"OVIRT_PROVIDER_OVN": "c"}),
        ({"hostname": "h"}, {"OPEN_VSWITCH": "h", "OPENSTACK_OVN": "h"}),
        (
            {"system-id": "c", "hostname": "h", "odl_os_hostconfig_hostid": "o"},
            {"OVIRT_PROVIDER_OVN": "c", "OPEN_VSWITCH": "o", "OPENSTACK_OVN": "o"},
        ),
        (
            {"hostname": "h", "odl_os_hostconfig_hostid": ""},
            {"OPEN_VSWITCH": "h", "OPENSTACK_OVN": "h"},
        ),
    ],
)
def test_the_names_of_the_host_at_the_providers(
    settings: dict[str, str] | None, ids: dict[str, str]
) -> None:
    assert capabilities.binding_ids(settings) == ids


# ---- the document ----------------------------------------------------------------------------


def added(report: Any, own: Any = 1, **ids: str) -> Any:
    return json.loads(document.add(json.dumps(report).encode(), own, ids))


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_whatever_else_a_report_has_stays(report: dict[str, Any]) -> None:
    mine = {"external_networks": 1, "openstack_binding_host_ids": {"OPEN_VSWITCH": "h"}}
    report = {key: value for key, value in report.items() if key not in mine}

    assert added(report, OPEN_VSWITCH="h") == {**report, **mine}


def test_what_is_no_number_but_python_writes_as_one_stays() -> None:
    assert math.isnan(added({"load": math.nan})["load"])


def test_the_names_stand_beside_those_of_other_hooks() -> None:
    report = {"openstack_binding_host_ids": {"NUAGE": "n"}}

    ids = added(report, OPEN_VSWITCH="h")["openstack_binding_host_ids"]

    assert ids == {"NUAGE": "n", "OPEN_VSWITCH": "h"}


@pytest.mark.parametrize(("theirs", "wins"), [("theirs", "theirs"), ("", "ours"), (None, "ours")])
def test_a_name_that_another_hook_has_written_stays(theirs: str | None, wins: str) -> None:
    report = {"openstack_binding_host_ids": {"OPEN_VSWITCH": theirs}}

    ids = added(report, OPEN_VSWITCH="ours")["openstack_binding_host_ids"]

    assert ids == {"OPEN_VSWITCH": wins}


def test_without_a_name_the_key_is_not_made() -> None:
    assert added({"a": 1}) == {"a": 1, "external_networks": 1}


def test_a_key_of_ours_that_is_there_already_is_replaced() -> None:
    assert added({"external_networks": "old"}, "new") == {"external_networks": "new"}


NO_REPORTS = {
    "empty": b"",
    "no JSON": b"{",
    "cut off": b'{"a": "b',
    "a list": b"[]",
    "a text": b'"x"',
    "nothing": b"null",
    "not UTF-8": b'{"a": "\xff"}',
    "nested": b"[" * 100_000,
    "ids are a list": b'{"openstack_binding_host_ids": []}',
    "two": b"{}{}",
}


@pytest.mark.parametrize("report", NO_REPORTS.values(), ids=NO_REPORTS.keys())
def test_what_vdsm_does_not_write_is_refused(report: bytes) -> None:
    with pytest.raises(BadRequest, match="left alone"):
        asyncio.run(large.add(report, {}, {"OPEN_VSWITCH": "h"}))


@given(st.binary(max_size=200))
def test_any_bytes_are_added_to_or_refused(report: bytes) -> None:
    try:
        answer = asyncio.run(large.add(report, {}, {}))
    except BadRequest:
        return
    assert "external_networks" in json.loads(answer)


# ---- large ones ------------------------------------------------------------------------------

FIVE_MEGABYTES = {"hostDevices": [{"name": "x" * 90, "number": n} for n in range(42_000)]}


def test_a_report_of_five_megabytes_is_read_by_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = json.dumps(FIVE_MEGABYTES).encode()
    assert len(report) > 5_000_000
    monkeypatch.setattr(document, "add", None)

    answer = asyncio.run(large.add(report, {"vnics": []}, {"OPEN_VSWITCH": "h"}))

    assert json.loads(answer) == {
        **FIVE_MEGABYTES,
        "openstack_binding_host_ids": {"OPEN_VSWITCH": "h"},
        "external_networks": {"vnics": []},
    }


@pytest.mark.parametrize("end", [b"", b'"', b'"]'])
def test_a_large_report_that_vdsm_does_not_write_is_refused(end: bytes) -> None:
    report = b'["' + b"x" * 1_000_000 + end

    with pytest.raises(BadRequest, match="left alone"):
        asyncio.run(large.add(report, {}, {}))


def test_a_large_report_that_takes_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(document, "__file__", str(tmp_path / "sleeps.py"))
    monkeypatch.setattr(large, "TIMEOUT", 0.3)

    with pytest.raises(HostError, match="left alone"):
        asyncio.run(large.add(b" " * 300_000, {}, {}))


# ---- figures ---------------------------------------------------------------------------------


def test_the_statistics() -> None:
    known = Figures(
        since=1000.7,
        vnics={("ovn", "ready"): 3, ("ovn", "not_ready"): 1, ("ovs_hybrid", "unknown"): 2},
        stale_removed=4,
        boot_stale_removed=5,
        plugged_again=6,
        switchovers=Switchovers(7, 0.12345),
        hybrid_drops={("tap", "rx"): 8, ("tap", "tx"): 9},
    )

    assert figures.compose(known) == {
        "schema": 1,
        "since": 1000,
        "vnics": 6,
        "not_ready": 1,
        "unknown": 2,
        "stale_removed": 4,
        "boot_stale_removed": 5,
        "plugged_again": 6,
        "switchovers": 7,
        "switchover_worst_ms": 123.5,
        "hybrid_drops": {"tap": {"rx": 8, "tx": 9}},
    }


def test_vnics_are_counted_by_attachment_and_state() -> None:
    vnics = [a_vnic(), a_vnic(), a_vnic(ready=False), a_vnic(HYBRID, ready=None)]

    assert figures.count(vnics) == {
        ("ovn", "ready"): 2,
        ("ovn", "not_ready"): 1,
        (HYBRID, "unknown"): 1,
    }


def test_the_devices_of_a_hybrid_vnic_are_those_whose_drops_count() -> None:
    short = VNIC_ID[:11]

    names = figures.hybrid_devices([a_vnic(), a_vnic(HYBRID)])

    assert sorted(names) == sorted(kind + short for kind in figures.HYBRID_DEVICES)


def test_the_slowest_switchover_counts() -> None:
    switchovers = Switchovers()

    for seconds in (0.2, 0.5, 0.1):
        switchovers.add(seconds)

    assert switchovers == Switchovers(3, 0.5)


def test_drops_are_those_since_the_devices_were_made() -> None:
    drops = Drops()

    drops.update({1: (5, 1), 2: (7, 0), 9: (1000, 1000)}, {1: "tap", 2: "tap"})

    assert drops.packets == {("tap", "rx"): 12, ("tap", "tx"): 1}


def test_drops_of_a_device_that_is_gone_still_count() -> None:
    drops = Drops()
    drops.update({1: (5, 0)}, {1: "tap"})

    drops.update({2: (3, 0)}, {2: "tap"})

    assert drops.packets["tap", "rx"] == 8


def test_drops_never_fall() -> None:
    drops = Drops()
    drops.update({1: (5, 0)}, {1: "tap"})

    drops.update({1: (2, 0)}, {1: "tap"})

    assert drops.packets["tap", "rx"] == 5
