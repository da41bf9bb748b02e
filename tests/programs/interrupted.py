"""Is interrupted in the middle of a long call that does not return to Python meanwhile."""

import hashlib
import os
import signal
import threading

from noisy_student.files import interrupted_at_once

# A process that was begun in the background would ignore the interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
with interrupted_at_once():
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 30_000_000)
    finally:
        print("the call has returned")
