# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that run inside the lab's namespaces.

They are started by path with ``python3 -I -S`` and use the standard library only; the rest of the
harness never imports them.
"""
