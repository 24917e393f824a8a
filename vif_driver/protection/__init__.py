# SPDX-License-Identifier: GPL-2.0-or-later
"""What external networks stand on, and which changes to the host's network would break it.

Everything here but ``reading``, ``known`` and ``allowances`` is pure: values in, values out.
"""
