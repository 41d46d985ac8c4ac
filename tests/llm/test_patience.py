"""The vendors' SDKs, with the time-outs that they come with, wait for an answer as long as the gate keeps
the connection alive: 70 s in the slow tier, with a frame every 10 s as the gate sends them by default.
"""

import concurrent.futures
import os
import time

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

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


@pytest.fixture(params=["python", "node"])
def ask(request):
    """Asks for an answer in a dialect, with the SDK for it."""
    if request.param == "python":
        return python
    node = request.getfixturevalue("node")

    def run(server, dialect, text):
        done = node(server, "patience.js", dialect, text)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    return run


def test_every_sdk_waits(ask):
    with Server(KEEP_ALIVE_MS) as server:
        server.script(*[answer("at last", after_ms=SECONDS * 1000)] * len(DIALECTS))
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(len(DIALECTS)) as pool:
            asked = {dialect: pool.submit(ask, server, dialect, "hi") for dialect in DIALECTS}
            told = {dialect: future.result() for dialect, future in asked.items()}
        assert told == {dialect: "at last" for dialect in DIALECTS}
        assert time.monotonic() - began >= SECONDS
        calls = server.ended()
    # Nobody gave up and came again.
    assert len(calls) == len(asked)
    assert {call["outcome"] for call in calls} == {"delivered"}
    assert not any("resends" in call for call in calls)
