"""Rebuilds `expected.safetensors`, TFF's own values for the matrix's cases.

Run it in the folder `tests`: `python -m matrix.expected`. TFF's executor computes the updates with
the `work` of the `MapReduceForm`, and the states and results with `next`. Muster's runtime is not
used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow_federated as tff
from data import rebuild
from matrix.cases import CASES, CLIENTS, ROUNDS, key

from muster.author import restore_state, tff_worker
from muster.author.round_computation import extract_round
from muster.demo.computation import fed_avg
from muster.runtime.data import adapt
from muster.wire.plan import Plan
from muster.wire.tensors import encode

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

EXPECTED = FOLDER / "expected.safetensors"


def computations() -> dict[str, Any]:
    """Returns the computations of the cases by name."""
    return {
        "client_ids_sum": rebuild.client_ids_sum,
        "mean": rebuild.mean,
        "collatz": rebuild.collatz,
        "digits_fedavg": fed_avg(),
    }


def expected_of(name: str, computation: Any, plan: Plan, clients: list[Any]) -> dict[str, Any]:
    """Returns TFF's own values of every round."""
    following = extract_round(computation).next
    form = tff.backends.mapreduce.get_map_reduce_form_for_computation(following)
    manifest = plan.manifest
    state = restore_state(following, plan.initial_state())
    tensors: dict[str, Any] = {}
    for number in range(1, ROUNDS + 1):
        broadcast = form.prepare(state)
        for client, data in enumerate(clients):
            values = tff.structure.flatten(tff.structure.from_container(form.work(data, broadcast), recursive=True))
            for spec, value in zip(manifest.update, values, strict=True):
                tensors[key(name, f"update-{client}-{number}", spec.path)] = (
                    spec.dtype.numpy.type(value) if not spec.shape else value
                )
        state, result = following(state, clients)
        for path, value in adapt(state, manifest.state_type, root="state").tensors.items():
            tensors[key(name, f"state-{number}", path)] = value
        for path, value in adapt(result, manifest.result_type, root="result").tensors.items():
            tensors[key(name, f"result-{number}", path)] = value
    return tensors


def main() -> None:
    """Writes the file."""
    tensors: dict[str, Any] = {}
    made = computations()
    with tff_worker.running():
        for case in CASES:
            plan = Plan.load(ROOT / case.plan)
            clients = [case.data(client) for client in range(CLIENTS)]
            tensors |= expected_of(case.name, made[case.name], plan, clients)
    EXPECTED.write_bytes(encode(tensors))


if __name__ == "__main__":
    tff_worker.start()
    main()
