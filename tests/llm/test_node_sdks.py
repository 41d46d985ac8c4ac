"""The vendors' Node SDKs, as they come, against their dialects. The tests themselves are node/*.js."""

import pytest


@pytest.mark.parametrize("vendor, dialect", [("chat", "chat"), ("openai", "responses"),
                                             ("anthropic", "messages"), ("google", "gemini")])
def test_sdk(node_test, server, vendor, dialect):
    before = server.total(dialect)
    node_test(server, f"{vendor}.test.js")
    assert server.total(dialect) - before >= 20
