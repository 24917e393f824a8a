# SPDX-License-Identifier: GPL-2.0-or-later
"""All figures, in the order in which they are measured and shown."""

from __future__ import annotations

from tests.bench import (
    boot_pass,
    hooks,
    live_pass,
    load,
    migration,
    network_setup,
    readiness,
    reports,
    resources,
    rewriting,
)
from tests.bench.figure import Figure

FIGURES: tuple[Figure, ...] = (
    Figure("hook_not_ours", "ratio", 1.15, hooks.not_ours),
    Figure("hook_ovn_agent", "ratio", 1.35, hooks.ovn_agent),
    Figure("hook_ovn_no_agent", "ratio", None, hooks.ovn_no_agent),
    Figure("network_setup", "ratio", 2.0, network_setup.one_more),
    Figure("network_setup_all", "ratio", None, network_setup.everything),
    Figure("network_setup_no_agent", "ratio", None, network_setup.without_agent),
    Figure("caps_200_vnics", "ratio", 1.5, reports.caps),
    Figure("caps_openstacknet", "ratio", None, reports.caps_openstacknet),
    Figure("caps_provider", "ratio", None, reports.caps_provider),
    Figure("stats_hook", "ratio", 1.15, reports.stats),
    Figure("stats_answer", "ms", None, reports.answer),
    Figure("xml_rewrites", "1/s", None, rewriting.rewrites),
    Figure("hooks_at_once", "failures", 0, load.hooks_at_once),
    Figure("agent_request_median", "ms", None, load.request_median),
    Figure("agent_request_p99", "ms", None, load.request_p99),
    Figure("resume_after_ready", "ms", 30, readiness.after_ready),
    Figure("start_to_running", "ratio", 1.1, readiness.start_to_running),
    Figure("agent_memory", "MiB", 60, resources.memory),
    Figure("agent_wake_ups", "1/min", 60, resources.wake_ups),
    Figure("agent_idle_time", "ms/min", 10, resources.idle_time),
    Figure("agent_start", "s", 1.0, resources.start_up),
    Figure("boot_pass", "ratio", 1.5, boot_pass.against_bare),
    Figure("boot_pass_by_hand", "ratio", None, boot_pass.by_hand),
    Figure("boot_pass_loop", "ratio", None, boot_pass.against_loop),
    Figure("boot_pass_100", "ms", None, boot_pass.of_100),
    Figure("boot_pass_1000", "ms", None, boot_pass.of_1000),
    Figure("boot_pass_10000", "ms", None, boot_pass.of_10000),
    Figure("live_pass_lost_pings", "pings", 0, live_pass.lost_pings),
    Figure("migration_nobody", "ratio", None, migration.nobody_median),
    Figure("migration_nobody_max", "ratio", None, migration.nobody_worst),
    Figure("migration_engine", "ratio", None, migration.engine_median),
    Figure("migration_engine_max", "ratio", None, migration.engine_worst),
    Figure("migration", "ratio", 0.7, migration.ours_median),
    Figure("migration_max", "ratio", 1.0, migration.ours_worst),
    Figure("migration_bound", "ms", 100, migration.bound_after),
    Figure("migration_hook_1", "ms", None, migration.announce_1),
    Figure("migration_hook_10", "ms", None, migration.announce_10),
    Figure("migration_hook_50", "ms", None, migration.announce_50),
)
