"""What the scripts need and do not teach: files, images, runs, backends, pictures.

Imports go one way: scripts import this package, and no module here imports a script when it is
imported itself.
"""

import os

# TensorFlow's greetings and hints are shut out. Its errors are not.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
