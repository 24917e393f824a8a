# SPDX-License-Identifier: GPL-2.0-or-later
"""Which changes there are: whoever comes after a killed run takes back all that it has noted."""

from __future__ import annotations

from collections.abc import Mapping

from vif_driver.configuration.agent_credentials import AgentHasCredentials
from vif_driver.configuration.bridges import BridgeThere, UplinkThere
from vif_driver.configuration.change import Change
from vif_driver.configuration.files import FileContent
from vif_driver.configuration.ovs_settings import OpenVSwitchSettings
from vif_driver.configuration.services import Restart, ServiceState

#: By their names in the note on the disk, which an older or a newer version may have written.
KINDS: Mapping[str, type[Change]] = {
    change.kind: change
    for change in (
        FileContent,
        ServiceState,
        Restart,
        BridgeThere,
        UplinkThere,
        OpenVSwitchSettings,
        AgentHasCredentials,
    )
}
