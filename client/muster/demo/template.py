"""What the demo's client processes start from: TensorFlow, imported once, before anything runs in it.

The fork server of `multiprocessing` imports this module and then forks the clients, which are processes of their own in every
respect, but share the import's two seconds and its memory. Nothing here may start a thread or a session: neither outlives a fork.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module

# Ctrl-C reaches every process of the terminal; the demo alone answers it, and ends the others in order.
signal.signal(signal.SIGINT, signal.SIG_IGN)

# Each client computes in one thread; and BLAS, which makes its threads when it is imported, must make none.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ.update({"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"})
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

for _name in ("muster.runtime.stages", "muster.runtime.graphs", "muster.cli.client", "muster.client"):
    import_module(_name)
