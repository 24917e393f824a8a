# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host of OVN's is to be like: what is understood, refused, and which settings it means."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import subprocess
import sys
from pathlib import Path

import pytest

from vif_driver.configuration import ovn, ovn_registered
from vif_driver.configuration.ovn import Central, Wanted
from vif_driver.errors import ConfigError, HostError
from vif_driver.host.certificates import in_folder
from vif_driver.host.southbound import Chassis, Encap, Southbound

V4, V6 = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")
TUNNEL = ipaddress.ip_address("192.0.2.11")
FILES = in_folder(Path("/etc/pki/vdsm/ovn"))
PLAIN = Wanted((Central(V4),), TUNNEL)


# ---- where the southbound database is ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", (Central(V4),)),
        ("192.0.2.1:16642", (Central(V4, 16642),)),
        ("2001:db8::1", (Central(V6),)),
        ("[2001:db8::1]", (Central(V6),)),
        ("[2001:0db8::0001]:16642", (Central(V6, 16642),)),
        ("192.0.2.1, 2001:db8::1", (Central(V4), Central(V6))),
        ("192.0.2.1,192.0.2.1", (Central(V4),)),
    ],
)
def test_centrals_are_addresses(text: str, expected: tuple[Central, ...]) -> None:
    assert ovn.parse_centrals(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("engine.example.com", "'engine.example.com' is no IP address"),
        ("engine:6642", "'engine:6642' is no IP address"),
        ("192.0.2.1,", "'' is no IP address"),
        ("192.0.2", "'192.0.2' is no IP address"),
        ("[2001:db8::1", "is no IP address"),
        ("2001:db8::1]", "is no IP address"),
        ("ssl:192.0.2.1:6642", "is no IP address"),
        ("0.0.0.0", "cannot be at 0.0.0.0"),
        ("fe80::1%eth0", "cannot be at fe80::1%eth0"),
        ("239.0.0.1", "cannot be at 239.0.0.1"),
        ("192.0.2.1:0", "there is no port 0"),
        ("192.0.2.1:65536", "there is no port 65536"),
    ],
)
def test_what_is_no_address_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ovn.parse_centrals(text)


@pytest.mark.parametrize(
    ("wanted", "remote"),
    [
        (PLAIN, "tcp:192.0.2.1:6642"),
        (dataclasses.replace(PLAIN, credentials=FILES), "ssl:192.0.2.1:6642"),
        (
            dataclasses.replace(PLAIN, centrals=(Central(V6), Central(V4, 7))),
            "tcp:[2001:db8::1]:6642,tcp:192.0.2.1:7",
        ),
    ],
)
def test_ovn_remote_names_all_members(wanted: Wanted, remote: str) -> None:
    assert wanted.remote == remote


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("tcp:192.0.2.1:6642", True),
        ("ssl:192.0.2.1:16642", True),
        ("ssl:192.0.2.9:6642, tcp:[2001:0db8::0001]:6642", True),
        ("tcp:192.0.2.9:6642,tcp:192.0.2.10:6642", False),
        ("ssl:central.example.com:6642", False),
        ("unix:/run/ovn/ovnsb_db.sock", False),
        ("192.0.2.1", False),
    ],
)
def test_a_member_in_common_is_known_by_its_address(remote: str, expected: bool) -> None:
    wanted = dataclasses.replace(PLAIN, centrals=(Central(V4), Central(V6)))

    assert wanted.shares_central(remote) == expected


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["hv1", "hv1.example.com", "1.a-b.x", "a" * 63, "hv_1"])
def test_a_host_has_a_name_of_dns(text: str) -> None:
    assert ovn.parse_fqdn(text) == text


@pytest.mark.parametrize("text", ["192.0.2.7", "2001:db8::7"])
def test_a_host_that_the_engine_knows_by_its_address_is_called_so(text: str) -> None:
    assert ovn.parse_fqdn(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "fe80::7%eth0",
        "::x",
        "hv 1",
        "-hv1",
        "hv1-",
        "hv1.",
        ".hv1",
        "a" * 64,
        "hv1\nx",
        "ä",
        "b." * 127 + "cc",
    ],
)
def test_what_is_no_name_of_dns_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no host name"):
        ovn.parse_fqdn(text)


def test_there_may_be_several_kinds_of_tunnels() -> None:
    assert ovn.parse_encaps("geneve, vxlan,geneve") == ("geneve", "vxlan")


@pytest.mark.parametrize("text", ["gre", "", "geneve,", "stt"])
def test_other_kinds_of_tunnels_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="there are no tunnels of kind"):
        ovn.parse_encaps(text)


# ---- the settings --------------------------------------------------------------------------------


def test_the_settings_are_those_of_the_driver_before_us() -> None:
    name = "hv1.example.com"
    wanted = dataclasses.replace(PLAIN, fqdn=name, credentials=FILES)

    assert wanted.external_ids(TUNNEL, name, {"system-id": "hv1"}) == {
        "ovn-remote": "ssl:192.0.2.1:6642",
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": "192.0.2.11",
        "ovn-remote-probe-interval": "60000",
        "ovn-openflow-probe-interval": "60",
        "system-id": "hv1.example.com",
    }


def test_intervals_that_a_site_has_set_stay() -> None:
    now = {"system-id": "hv1", "ovn-remote-probe-interval": "180000"}

    assert PLAIN.external_ids(TUNNEL, "hv1", now)["ovn-remote-probe-interval"] == "180000"


def test_without_a_name_the_name_is_left_alone() -> None:
    assert "system-id" not in PLAIN.external_ids(TUNNEL, "hv1", {"system-id": "hv1"})


@pytest.mark.parametrize("system_id", ["hv1", "overridden"])
def test_a_setting_of_this_chassis_alone_that_goes_first_is_named(system_id: str) -> None:
    now = {"system-id": system_id, "ovn-encap-ip-hv1": "192.0.2.12"}

    with pytest.raises(HostError, match=r"external_ids:ovn-encap-ip-hv1 .* goes before ovn-encap"):
        PLAIN.external_ids(TUNNEL, "hv1", now)


@pytest.mark.parametrize("now", [{"ovn-encap-ip-hv2": "x"}, {"ovn-encap-ip-hv1": "192.0.2.11"}])
def test_a_setting_of_another_chassis_or_of_the_same_value_does_not_matter(
    now: dict[str, str],
) -> None:
    settings = PLAIN.external_ids(TUNNEL, "hv1", {"system-id": "hv1", **now})

    assert settings["ovn-encap-ip"] == "192.0.2.11"


def test_ipsec_has_the_certificate_of_tls() -> None:
    assert ovn.ipsec_keys(FILES) == {
        "private_key": "/etc/pki/vdsm/ovn/ovn-key.pem",
        "certificate": "/etc/pki/vdsm/ovn/ovn-cert.pem",
        "ca_cert": "/etc/pki/vdsm/ovn/ca-cert.pem",
    }


# ---- registered ----------------------------------------------------------------------------------

HERE = Chassis("hv1", "hv1", (Encap("geneve", "192.0.2.11"),))


def unregistered(*known: Chassis) -> str:
    trouble = ovn_registered.unregistered(list(known), PLAIN, TUNNEL, "hv1")
    return "" if trouble is None else str(trouble)


def test_a_host_is_registered_with_its_name_and_the_ends_of_its_tunnels() -> None:
    assert unregistered(HERE) == ""


def test_a_host_that_is_known_with_another_end_is_not_registered_so_far() -> None:
    old = dataclasses.replace(HERE, encaps=(Encap("geneve", "192.0.2.12"),))

    assert "does not have chassis hv1 with geneve on 192.0.2.11" in unregistered(old)


def test_another_chassis_that_has_its_address_is_named() -> None:
    old = dataclasses.replace(HERE, name="5ba1f0a2")

    told = unregistered(old)

    assert "192.0.2.11 is the tunnels' end of chassis 5ba1f0a2 (hv1) already" in told
    assert "ovn-sbctl chassis-del 5ba1f0a2" in told


def refused(monkeypatch: pytest.MonkeyPatch, *known: Chassis, hostname: str | None) -> str:
    async def chassis(_southbound: Southbound) -> list[Chassis]:
        return list(known)

    monkeypatch.setattr(Southbound, "chassis", chassis)
    try:
        asyncio.run(ovn_registered.refuse_taken(PLAIN, TUNNEL, "hv1", hostname))
    except HostError as error:
        return str(error)
    return ""


ELSEWHERE = dataclasses.replace(HERE, encaps=(Encap("geneve", "192.0.2.12"),))


def test_a_name_that_another_host_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(monkeypatch, ELSEWHERE, hostname="hv9.example.com")

    assert told.startswith("OVN has another host called hv1 already (hv1); give this host's own")


@pytest.mark.parametrize(
    ("known", "hostname"),
    [
        (dataclasses.replace(ELSEWHERE, name="hv2"), "hv9"),
        (ELSEWHERE, "HV1.example.com"),
        (HERE, "localhost"),
        (ELSEWHERE, None),
    ],
)
def test_a_host_that_is_installed_anew_has_its_own_name(
    monkeypatch: pytest.MonkeyPatch, known: Chassis, hostname: str | None
) -> None:
    assert refused(monkeypatch, known, hostname=hostname) == ""


# ---- who has it ----------------------------------------------------------------------------------


def test_the_agent_and_what_hooks_run_have_nothing_of_it() -> None:
    program = (
        "import sys, vif_driver.agent.main, vif_driver.standalone; "
        "print([name for name in sys.modules if name.startswith('vif_driver.configuration')])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == "[]\n"
