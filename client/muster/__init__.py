"""Muster: federated learning over HTTP with stateless clients.

The parts import apart, so that a device installs no more than it needs: `muster.client` (check in, work, upload),
`muster.runtime` (a plan's graphs on plain TensorFlow), `muster.author` (TFF to plan), `muster.operator` (tasks, rounds,
checkpoints), `muster.simulation` (the whole protocol in one process).
"""

__version__ = "0.1.0"
