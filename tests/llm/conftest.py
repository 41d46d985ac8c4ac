import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from server import Server  # noqa: E402


@pytest.fixture(scope="module")
def running_server():
    with Server() as server:
        yield server


@pytest.fixture
def server(running_server):
    running_server.script()
    return running_server
