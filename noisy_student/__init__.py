"""What the six scripts need and do not teach: files, images, runs, backends, pictures.

Imports go one way: a script imports this package, no module here imports a script.
"""

import os

# TensorFlow's greetings and hints are shut out. Its errors are not.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
