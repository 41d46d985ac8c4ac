"""The vendors' Node SDKs, as they come, against their dialects. The tests themselves are node/*.js;
Node resolves packages from where a file lies, so they are run from a copy beside the packages.
"""

import os
import shutil
import subprocess

import pytest

from node_sdks import HERE, node_with_sdks


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    found = node_with_sdks()
    if found is None:
        pytest.skip("no npm: the Node SDKs cannot be installed")
    binary, packages = found
    place = tmp_path_factory.mktemp("node")
    for source in HERE.iterdir():
        shutil.copy(source, place)
    (place / "node_modules").symlink_to(packages / "node_modules")
    return binary, place


@pytest.mark.parametrize("vendor, dialect", [("chat", "chat"), ("openai", "responses"),
                                             ("anthropic", "messages"), ("google", "gemini")])
def test_sdk(node, server, vendor, dialect):
    binary, place = node
    before = server.total(dialect)
    done = subprocess.run([binary, "--test", "--test-reporter=tap", f"{vendor}.test.js"], cwd=place, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                          check=False,
                          env={**os.environ, "SERVER_URL": server.url, "SERVER_CONTROL": server.control})
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout, done.stdout
    assert server.total(dialect) - before >= 20
