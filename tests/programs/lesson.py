"""Runs commands that it reads, a line each, and writes what each printed as a JSON list.

All of them in one process, which imports Keras once.
"""

import contextlib
import io
import json
import runpy
import shlex
import sys

printed = []
for command in sys.stdin:
    _, *sys.argv = shlex.split(command)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            sys.exit(f"{command}{out.getvalue()}\n{ended.code}")
    printed.append(out.getvalue())
print(json.dumps(printed))
