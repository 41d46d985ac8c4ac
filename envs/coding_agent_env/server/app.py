"""Starts the environment's server, which is the program `sluice serve`.

OpenEnv's tools look for a Python entry point; this one becomes that program. $SLUICE_BINARY names it,
else it is looked up in PATH. Arguments are handed on.
"""

import os
import shutil
import sys


def command(arguments):
    program = os.environ.get("SLUICE_BINARY") or shutil.which("sluice")
    if not program:
        raise SystemExit("sluice is not in PATH: build it (./dev build release) or set SLUICE_BINARY")
    return [program, "serve", *arguments]


def main():
    argv = command(sys.argv[1:])
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
