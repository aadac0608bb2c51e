"""Checks TFF's program API, on which `train_model` and release managers rely."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tensorflow_federated as tff


@pytest.mark.parametrize(
    "state",
    [
        1.5,
        np.arange(6, dtype=np.float32).reshape(2, 3),
        {"weights": [np.zeros(3, np.float32), np.ones((), np.int64)], "rounds": 7},
    ],
    ids=["number", "array", "structure"],
)
def test_file_program_state_manager_saves_and_loads(tmp_path, state):
    manager = tff.program.FileProgramStateManager(tmp_path)

    async def there_and_back():
        await manager.save(state, 1)
        await manager.save(state, 2)
        return await manager.load_latest(state)

    loaded, version = asyncio.run(there_and_back())
    assert version == 2
    np.testing.assert_equal(loaded, state)
