"""What the scripts need and do not teach: files, images, runs, backends, pictures.

Imports go one way: scripts import this package, and no module here imports a script when it is
imported itself.
"""

import os
import sys

# TensorFlow's greetings and hints are shut out. Its errors are not.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Nothing here opens a window. A notebook tells every program that it starts to draw by a module
# which that program's environment may lack, and Keras would fail on it. The notebook itself keeps
# its own choice.
if "IPython" not in sys.modules:
    os.environ["MPLBACKEND"] = "agg"
