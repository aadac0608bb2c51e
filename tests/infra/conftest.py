"""A copy of infra/terraform for each test worker."""

from __future__ import annotations

from typing import Any

import pytest
from support import terraform


@pytest.fixture(scope="session")
def copy(tmp_path_factory: Any) -> terraform.Copy:
    terraform.require()
    return terraform.Copy(tmp_path_factory.mktemp("terraform"))
