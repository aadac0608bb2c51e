"""A coordinator in this process with a manual clock, for tests of clients and operators.

It is the real coordinator, HTTP layer included, over an embedded store. Nothing runs in the
background: queued work runs in `settle()`, and time moves when `clock` is advanced. It needs the
extra `server` and Python 3.11.

    from muster.client import MusterClient
    from muster.operator import Operator
    from muster.testing import in_process_coordinator
    from muster.wire.messages import TaskPolicy

    with in_process_coordinator() as coordinator:
        operator = Operator(coordinator.transport())
        policy = TaskPolicy(rounds=1, goal=1, minimum=1)
        operator.create_task("sum", population="phones", plan=plan, policy=policy)
        coordinator.settle()  # opens the round
        client = MusterClient(coordinator.transport(), "phones", data, client_id="ann")
        print(client.run_once())
        coordinator.settle()  # commits the round
        print(operator.result("sum", 1))
"""

from __future__ import annotations

from muster.testing.coordinator import URL, DeliveryError, InProcessCoordinator, in_process_coordinator

__all__ = ["URL", "DeliveryError", "InProcessCoordinator", "in_process_coordinator"]
