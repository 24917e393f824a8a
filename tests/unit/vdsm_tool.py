# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for vdsm-tool: loads what is in ``vdsm/tool`` and runs a command of it.

What counts of VDSM's own (static/usr/bin/vdsm-tool, lib/vdsm/tool/__init__.py): every module of the
folder is imported, and one that fails is left out with a note in the log; a function that was
exposed is a command, and its docstring the usage; it is given its own name and the arguments behind
it; what it returns is the exit status; ExtraArgsError shows the usage, any other exception is 1.
"""

from __future__ import annotations

import textwrap

#: ``vdsm/tool/__init__.py``.
TOOL = textwrap.dedent(
    '''\
    class expose:
        def __init__(self, name):
            self._name = name

        def __call__(self, function):
            function._vdsm_tool = {"name": self._name}
            return function


    class UsageError(RuntimeError):
        """The command was misused."""


    class ExtraArgsError(UsageError):
        def __init__(self, n=0):
            super().__init__(f"takes {n} arguments" if n else "takes no arguments")
    '''
)

#: ``/usr/bin/vdsm-tool``.
PROGRAM = textwrap.dedent(
    """\
    #!/usr/bin/python3
    import importlib
    import os
    import sys
    import traceback

    import vdsm.tool

    commands = {}
    for file in sorted(os.listdir(os.path.dirname(vdsm.tool.__file__))):
        name, extension = os.path.splitext(file)
        if extension == ".py" and not name.startswith("_"):
            try:
                module = importlib.import_module(f"vdsm.tool.{name}")
            except Exception:
                print("could not load", traceback.format_exc(), file=sys.stderr)
                continue
            for found in vars(module).values():
                if hasattr(found, "_vdsm_tool"):
                    commands[found._vdsm_tool["name"]] = found


    def usage(command, stream):
        print("usage:", sys.argv[0], "[options]", command.__doc__.lstrip(), file=stream)


    def main(arguments):
        if arguments == ["--help"]:
            for command in commands.values():
                usage(command, sys.stdout)
            return 0
        if not arguments or arguments[0] not in commands:
            return 1
        command = commands[arguments[0]]
        try:
            return command(*arguments)
        except vdsm.tool.ExtraArgsError:
            usage(command, sys.stderr)
        except vdsm.tool.UsageError as error:
            print("Error:", error, file=sys.stderr)
        except Exception:
            traceback.print_exc()
        return 1


    sys.exit(main(sys.argv[1:]))
    """
)
