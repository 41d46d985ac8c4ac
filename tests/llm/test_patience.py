"""The vendors' SDKs, with the time-outs that they come with, wait for an answer, streamed or plain: 70 s in
the slow tier, with a keep-alive frame in the stream every 10 s as the gate sends them by default.
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
FORMS = ["streamed", "plain"]  # to a plain one nothing comes before the answer


def python(server, dialect, form):
    messages = [{"role": "user", "content": form}]
    model = "mock-model"
    streamed = form == "streamed"
    if dialect in ("chat", "responses"):
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)
        if dialect == "chat":
            answer = client.chat.completions.create(model=model, messages=messages, stream=streamed)
            if not streamed:
                return answer.choices[0].message.content
            return "".join(c.choices[0].delta.content or "" for c in answer if c.choices)
        answer = client.responses.create(model=model, input=messages, stream=streamed)
        return (list(answer)[-1].response if streamed else answer).output_text
    if dialect == "messages":
        client = anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0)
        request = dict(model=model, messages=messages, max_tokens=100)
        if not streamed:
            return client.messages.create(**request).content[0].text
        with client.messages.stream(**request) as stream:
            return stream.get_final_text()
    client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
    if not streamed:
        return client.models.generate_content(model=model, contents=form).text
    return "".join(c.text or "" for c in client.models.generate_content_stream(model=model,
                                                                               contents=form))


@pytest.fixture(params=["python", "node"])
def ask(request):
    """Asks for an answer in a dialect, with the SDK for it."""
    if request.param == "python":
        return python
    node = request.getfixturevalue("node")

    def run(server, dialect, form):
        done = node(server, "patience.js", dialect, form)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    return run


def test_every_sdk_waits(ask):
    with Server(KEEP_ALIVE_MS) as server:
        every = [(dialect, form) for dialect in DIALECTS for form in FORMS]
        server.script(*[answer("at last", after_ms=SECONDS * 1000)] * len(every))
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(len(every)) as pool:
            asked = [pool.submit(ask, server, *each) for each in every]
            told = [future.result() for future in asked]
        assert told == ["at last"] * len(every)
        assert time.monotonic() - began >= SECONDS
        calls = server.ended()
    # Nobody gave up and came again.
    assert sorted((call["dialect"], call["stream"]) for call in calls) == sorted(
        (dialect, form == "streamed") for dialect, form in every)
    assert {call["outcome"] for call in calls} == {"delivered"}
    assert not any("resends" in call for call in calls)
