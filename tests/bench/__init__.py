# SPDX-License-Identifier: GPL-2.0-or-later
"""What the product costs, as figures with limits.

``python -m tests.bench`` measures all of them, ``python -m tests.bench NAME`` one.  They are
listed in :mod:`tests.bench.figures`; a new one is a function that takes a :class:`Bench` and
returns a :class:`Measured`, and a line there.

Absolute times say more about the computer than about the product, so what has a limit is a ratio
of medians, of two things measured in turns in one run.
"""
