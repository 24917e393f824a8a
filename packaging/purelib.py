# SPDX-License-Identifier: GPL-2.0-or-later
"""Print the folder below a prefix in which this interpreter looks for packages.

Debian's interpreter puts locally built packages elsewhere than packaged ones, and its scheme for
the prefix /usr would end in /usr/local; asking for one that it searches is what works everywhere.
"""

import sys
import sysconfig

prefix = sys.argv[1]
paths = [
    sysconfig.get_path("purelib", scheme, {"base": prefix})
    for scheme in ("deb_system", "posix_prefix", "posix_local")
    if scheme in sysconfig.get_scheme_names()
]
print(next((path for path in paths if path in sys.path), paths[0]))
