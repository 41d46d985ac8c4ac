import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from node_sdks import HERE, node_with_sdks  # noqa: E402
from server import Server  # noqa: E402


@pytest.fixture(scope="module")
def running_server():
    with Server() as server:
        yield server


@pytest.fixture
def server(running_server):
    running_server.script()
    return running_server


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """Runs Node with some arguments in a directory that holds node/ and its packages: Node resolves
    packages from where a file lies."""
    found = node_with_sdks()
    if found is None:
        pytest.skip("no npm: the Node SDKs cannot be installed")
    binary, packages = found
    place = tmp_path_factory.mktemp("node")
    for source in HERE.iterdir():
        shutil.copy(source, place)
    (place / "node_modules").symlink_to(packages / "node_modules")

    def run(server, *arguments):
        return subprocess.run([binary, *arguments], cwd=place, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300, check=False,
                              env={**os.environ, "SERVER_URL": server.url,
                                   "SERVER_CONTROL": server.control})

    return run


@pytest.fixture
def node_test(node):
    """Runs one file of node/'s tests, all of which must pass."""

    def run(server, file):
        done = node(server, "--test", "--test-reporter=tap", file)
        assert done.returncode == 0, done.stdout
        assert "# fail 0" in done.stdout, done.stdout

    return run
