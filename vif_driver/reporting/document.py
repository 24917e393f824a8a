# SPDX-License-Identifier: GPL-2.0-or-later
"""A report of VDSM's, a JSON object, and what is added to it.

The interpreter reads JSON without ever letting another thread work.  What takes it longer than the
agent may stand still for is therefore read by another process; see :mod:`.large`.  That one runs
this file as it is, so nothing of the package may be imported here.
"""

from __future__ import annotations

import json
import sys
from typing import Any

#: The key that the engine reads: the name of the host at each kind of provider.
BINDING_IDS = "openstack_binding_host_ids"

#: The key that is ours.
EXTERNAL_NETWORKS = "external_networks"


def add(report: bytes, own: Any, binding_ids: dict[str, str]) -> bytes:
    """Add to a report; everything else in it stays as it is.

    Args:
        report: as VDSM and other hooks wrote it.
        own: what our key is to have.
        binding_ids: names of this host by the plugin type.  One that is there already stays: the
            administrator has a hook for it.

    Raises:
        ValueError: it is not what VDSM writes.
    """
    try:
        document = json.loads(report)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("it is no object")
    if binding_ids:
        known = document.setdefault(BINDING_IDS, {})
        if not isinstance(known, dict):
            raise ValueError(f"{BINDING_IDS} is no object")
        document[BINDING_IDS] = {**known, **_missing(binding_ids, known)}
    document[EXTERNAL_NETWORKS] = own
    return json.dumps(document).encode()


def _missing(ids: dict[str, str], known: dict[str, Any]) -> dict[str, str]:
    return {plugin: name for plugin, name in ids.items() if not known.get(plugin)}


def main() -> int:
    """Read what is to be added, a line, and a report; write the report that it makes.

    Returns:
        1 if the report is not what VDSM writes; what is written then says why.
    """
    own, binding_ids = json.loads(sys.stdin.buffer.readline())
    try:
        added = add(sys.stdin.buffer.read(), own, binding_ids)
    except ValueError as error:
        sys.stdout.buffer.write(str(error).encode())
        return 1
    sys.stdout.buffer.write(added)
    return 0


if __name__ == "__main__":
    sys.exit(main())
