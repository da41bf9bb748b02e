"""Asks scripts for --help where whatever takes seconds to import ends the program.

Prints JSON: {script: [exit status, what it printed]}.
"""

import contextlib
import io
import json
import os
import runpy
import sys

SLOW = ("keras", "tensorflow", "jax", "torch", "numba", "matplotlib")


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in SLOW:
            raise SystemExit(f"imports {name}")


sys.meta_path.insert(0, Refuse())
said = {}
for script in sys.argv[1:]:
    sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            status = runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = end.code
    said[script] = [status, out.getvalue()]
print(json.dumps(said))
