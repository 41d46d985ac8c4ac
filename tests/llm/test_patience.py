"""The vendors' SDKs, with the time-outs that they come with, wait for an answer as long as the gate keeps
the connection alive: 70 s in the slow tier, with a frame every 10 s as the gate sends them by default.
"""

import concurrent.futures
import os
import shutil
import subprocess
import time

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from node_sdks import HERE, node_with_sdks
from server import Server, answer

SLOW = os.environ.get("SLUICE_SLOW") == "1"
SECONDS, KEEP_ALIVE_MS = (70, 10_000) if SLOW else (2, 200)
DIALECTS = ["chat", "responses", "messages", "gemini"]


def python(server, dialect, text):
    messages = [{"role": "user", "content": text}]
    model = "mock-model"
    if dialect in ("chat", "responses"):
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)
        if dialect == "chat":
            chunks = client.chat.completions.create(model=model, messages=messages, stream=True)
            return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        events = client.responses.create(model=model, input=messages, stream=True)
        return list(events)[-1].response.output_text
    if dialect == "messages":
        client = anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0)
        with client.messages.stream(model=model, messages=messages, max_tokens=100) as stream:
            return stream.get_final_text()
    client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
    return "".join(c.text or "" for c in client.models.generate_content_stream(model=model,
                                                                               contents=text))


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    found = node_with_sdks()
    if found is None:
        return None
    binary, packages = found
    place = tmp_path_factory.mktemp("node")
    for source in HERE.iterdir():
        shutil.copy(source, place)
    (place / "node_modules").symlink_to(packages / "node_modules")

    def run(server, dialect, text):
        done = subprocess.run([binary, "patience.js", dialect, text], cwd=place, text=True,
                              capture_output=True, timeout=300, check=False,
                              env={**os.environ, "SERVER_URL": server.url})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_every_sdk_waits(node):
    clients = {"python": python}
    if node is not None:
        clients["node"] = node
    with Server(KEEP_ALIVE_MS) as server:
        server.script(*[answer("at last", after_ms=SECONDS * 1000)] * 8)
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = {(name, dialect): pool.submit(ask, server, dialect, f"from {name}")
                     for name, ask in clients.items() for dialect in DIALECTS}
            told = {who: future.result() for who, future in asked.items()}
        assert told == {who: "at last" for who in asked}
        assert time.monotonic() - began >= SECONDS
        calls = server.calls()
    # Nobody gave up and came again.
    assert len(calls) == len(asked)
    assert {call["outcome"] for call in calls} == {"delivered"}
    assert not any("resends" in call for call in calls)
