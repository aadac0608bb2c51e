"""Imports TensorFlow once in the fork server of `multiprocessing`, for all client processes.

The clients are forked from that process, so they share the two seconds and the memory of the
import. Nothing here may start a thread or a TensorFlow session: neither survives a fork.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module

# Ctrl-C reaches every process of the terminal. Only the demo handles it, and ends the others in
# order.
signal.signal(signal.SIGINT, signal.SIG_IGN)

# One thread for each client. BLAS starts its threads at import, so this must be set before.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ.update({"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"})
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

for _name in ("muster.runtime.stages", "muster.runtime.graphs", "muster.cli.client", "muster.client"):
    import_module(_name)
