# SPDX-License-Identifier: GPL-2.0-or-later
"""``vifctl reconcile``: what VMs have left and lost on this host; seen, or dealt with."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vif_driver.ctl import FINE, WRONG, agent, service, text
from vif_driver.ctl.look import look, require_root
from vif_driver.errors import BadRequest, Unavailable, one_line
from vif_driver.host.starts import Starts
from vif_driver.inspection.sight import Sight
from vif_driver.reconciliation import leftovers, lost
from vif_driver.reconciliation.leftovers import Leftover
from vif_driver.reconciliation.report import of_kept, of_leftover, of_lost

_RESTORE = "vifctl reconcile --list shows what was removed, --restore ID puts it back"

# Seconds beyond the grace period in which the agent answers, whatever comes of its looks.
_PATIENCE = 60.0

# What vifctl(8) says of the lists of both, and how a line of each begins.
_TO_DO = {"to_remove": "would go", "to_plug": "would be plugged again", "kept": "stays"}
_DONE = {"removed": "removed", "plugged": "plugged again", "left": "left", "kept": "stays"}

_Told = Mapping[str, Any]
_Lists = Mapping[str, Sequence[_Told]]


def dry_run(*, as_json: bool) -> int:
    """Look once, as the agent does, and show what it would do."""
    require_root("vifctl reconcile")
    lists, grace = look(_find)
    is_any = bool(lists["to_remove"] or lists["to_plug"])
    known = service.look()
    nobody = _why_nobody(known)
    if as_json:
        of_agent = {"running": known.running, "answers": known.answers, "trouble": nobody}
        text.print_json({"agent": of_agent, **lists, "grace": grace, "left_out": []})
    else:
        _print_lists(_TO_DO, lists)
        names = {"to be removed": "to_remove", "to be plugged again": "to_plug"}
        print(_counts({word: lists[name] for word, name in names.items()}))
        if nobody is not None:
            print(one_line(f"nobody will do it: {nobody}"))
        elif is_any:
            print(f"vif-agent does it if a look {grace:g} s later finds the same")
    return WRONG if is_any else FINE


def run(*, as_json: bool) -> int:
    """Have the agent look twice, and show what it did."""
    require_root("vifctl reconcile")
    grace = agent.ask_status().get("grace")
    if not isinstance(grace, (int, float)):
        raise BadRequest(
            "vif-agent is older than this vifctl", "restart it: systemctl restart vif-agent"
        )
    if sys.stderr.isatty():
        print(f"vif-agent looks twice, {grace:g} s apart ...", file=sys.stderr)
    report = agent.ask_reconcile(grace + _PATIENCE)
    lists = {name: _list(report.get(name)) for name in _DONE}
    trouble = report.get("trouble")
    if as_json:
        text.print_json({**lists, "trouble": trouble, "left_out": []})
    else:
        _print_lists(_DONE, lists)
        names = {"removed": "removed", "plugged again": "plugged", "left": "left"}
        print(_counts({word: lists[name] for word, name in names.items()}))
        if any(told.get("row_id") for told in lists["removed"]):
            print(_RESTORE)
        if trouble:
            print(f"not finished: {one_line(str(trouble))}")
    return WRONG if trouble or lists["left"] else FINE


async def _find(sight: Sight) -> tuple[dict[str, list[_Told]], float]:
    # Who does not answer is named by the error; a host without Open vSwitch has no rows.
    found = await leftovers.find(sight.config, sight.host, Starts(), ask=True)
    if found.in_use is None:
        raise Unavailable("libvirt was not asked", "report this as a mistake of vifctl")
    missing = await lost.find(sight.config, sight.host, found.in_use)
    lists: dict[str, list[_Told]] = {
        "to_remove": [
            asdict(of_leftover(one, _more_patience(one, sight.config.grace)))
            for one in found.leftovers
        ],
        "to_plug": [asdict(of_lost(port)) for port in missing],
        "kept": [asdict(of_kept(port, why)) for port, why in found.kept],
    }
    return lists, sight.config.grace


def _more_patience(one: Leftover, grace: float) -> str:
    return f"; that must be so for {one.patience:g} s" if one.patience > grace else ""


def _why_nobody(known: service.Service) -> str | None:
    """Tell why the agent does nothing; None if it does."""
    if not known.answers:
        return str(known.error)
    trouble = known.state.get("configuration_error")
    return None if trouble is None else f"vif-agent does not look after this host: {trouble}"


def _print_lists(words: Mapping[str, str], lists: _Lists) -> None:
    rows = [
        (word, one_line(f"{told.get('what')}: {told.get('why')}"))
        for name, word in words.items()
        for told in lists[name]
    ]
    if rows:
        text.print_table(rows)


def _counts(lists: Mapping[str, Sequence[_Told]]) -> str:
    return ", ".join(f"{len(told)} {word}" for word, told in lists.items())


def _list(value: object) -> list[_Told]:
    """Give what an agent, maybe of another version, tells of."""
    known: Iterable[object] = value if isinstance(value, list) else ()
    return [one for one in known if isinstance(one, dict)]
