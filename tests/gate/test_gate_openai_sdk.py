"""OpenAI's own Python client against the gate: what a client of the chat dialect expects, it gets.

The server is tests/gate/gate_test_server.cc; it answers by words in the last message.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import time
import uuid

import httpx2 as httpx
import openai
import pytest

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD_DIR") or SOURCE / "build" / "release")

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


class Server:
    def __init__(self, directory):
        self.directory = directory
        self.process = subprocess.Popen(
            [BUILD / "tests" / "gate" / "gate_test_server", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = json.loads(self.process.stdout.readline())["port"]
        self.base = f"http://127.0.0.1:{self.port}/rollout/r0/v1"

    def client(self, **options):
        options.setdefault("max_retries", 0)
        return openai.OpenAI(base_url=self.base, api_key="placeholder", timeout=20, **options)

    def stop(self):
        """The rollout's counters."""
        out, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return json.loads(out)

    def trace(self):
        lines = (self.directory / "r0.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait()


def say(text):
    # Each test's requests differ, so that none is taken for a resend by chance.
    return [{"role": "user", "content": f"{text} {uuid.uuid4()}"}]


def test_plain(server):
    messages = say("hello")
    completion = server.client().chat.completions.create(model="m", messages=messages)
    assert completion.object == "chat.completion"
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == "m"
    assert abs(completion.created - time.time()) < 3600
    choice = completion.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content == "You said: " + messages[0]["content"]
    assert completion.usage.total_tokens == 15
    counters = server.stop()
    assert counters == {"calls": 1, "resends": 0, "turns": 1, "refused": 0, "open": 0}


def test_stream(server):
    stream = server.client().chat.completions.create(
        model="m", messages=say("hello"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    content = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert content.startswith("You said: hello")
    assert chunks[-1].usage.total_tokens == 15
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert len({c.id for c in chunks}) == 1


def test_stream_without_usage(server):
    stream = server.client().chat.completions.create(model="m", messages=say("hi"), stream=True)
    assert all(chunk.usage is None for chunk in stream)


def test_keep_alive_is_invisible(server):
    # Frames come every 100 ms for a second; the client's own helper puts the answer together.
    with server.client().chat.completions.stream(model="m", messages=say("slow")) as stream:
        for _ in stream:
            pass
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content.startswith("You said: slow")


def test_tools_and_their_results(server):
    client = server.client()
    messages = say("tools")
    completion = client.chat.completions.create(model="m", messages=messages, tools=TOOLS)
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    call = choice.message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages.append(choice.message)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    completion = client.chat.completions.create(model="m", messages=messages, tools=TOOLS)
    assert completion.choices[0].message.content == "You said: sunny"
    server.stop()
    assert [line["type"] for line in server.trace()].count("confirmed") == 1


def test_parallel_tools_streamed(server):
    with server.client().chat.completions.stream(
        model="m", messages=say("parallel"), tools=TOOLS
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert [call.id for call in message.tool_calls] == ["call_1", "call_2"]
    cities = [json.loads(call.function.arguments)["city"] for call in message.tool_calls]
    assert cities == ["Paris", "Rome"]


def test_malformed_arguments_are_passed_as_they_are(server):
    completion = server.client().chat.completions.create(
        model="m", messages=say("malformed"), tools=TOOLS
    )
    assert completion.choices[0].message.tool_calls[0].function.arguments == '{"city": '


def test_reasoning(server):
    completion = server.client().chat.completions.create(model="m", messages=say("reason"))
    assert completion.choices[0].message.reasoning_content == "Let me think."


def test_several_choices(server):
    completion = server.client().chat.completions.create(model="m", messages=say("hi"), n=3)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    stream = server.client().chat.completions.create(
        model="m", messages=say("hi"), n=2, stream=True
    )
    assert {c.choices[0].index for c in stream if c.choices} == {0, 1}


def test_models(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["policy"]
    assert client.models.retrieve("policy").id == "policy"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_bad_requests(server):
    client = server.client()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[])
    assert caught.value.param == "messages"
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="", messages=say("hi"))
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="m", input="x")
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x" * (32 << 20)}]
        )
    assert caught.value.status_code == 413
    assert server.stop()["calls"] == 0


def test_refusals(server):
    client = server.client()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=say("refuse"))
    assert "not this one" in str(caught.value)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="m", messages=say("busy"))
    assert caught.value.status_code == 503


def test_an_error_in_a_stream(server):
    stream = server.client().chat.completions.create(
        model="m", messages=say("refuse"), stream=True
    )
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert "not this one" in str(caught.value)


def test_cancel_and_come_back(server):
    client = server.client()
    messages = say("slow")
    stream = client.chat.completions.create(model="m", messages=messages, stream=True)
    stream.close()
    completion = client.chat.completions.create(model="m", messages=messages, stream=True)
    content = "".join(c.choices[0].delta.content or "" for c in completion if c.choices)
    assert content.startswith("You said: slow")
    counters = server.stop()
    assert (counters["calls"], counters["resends"], counters["turns"]) == (1, 1, 1)


def test_the_clients_own_retry_gets_the_same_answer(server):
    """A connection that breaks on the answer: the client retries by itself, and one call was made."""
    answers = []

    class BreaksOnce(httpx.HTTPTransport):
        def handle_request(self, request):
            response = super().handle_request(request)
            response.read()
            answers.append((request.headers["x-stainless-retry-count"], response.content))
            if len(answers) == 1:
                raise httpx.ReadError("the connection broke")
            return response

    client = server.client(max_retries=2, http_client=httpx.Client(transport=BreaksOnce()))
    completion = client.chat.completions.create(model="m", messages=say("hello"))
    assert completion.choices[0].message.content.startswith("You said: hello")
    assert [retry for retry, _ in answers] == ["0", "1"]
    assert answers[0][1] == answers[1][1]
    counters = server.stop()
    assert (counters["calls"], counters["resends"], counters["turns"]) == (1, 1, 1)
    types = [line["type"] for line in server.trace()]
    assert types.count("arrived") == types.count("answered") == types.count("ended") == 1


def test_a_retry_of_a_call_that_still_waits_joins_it(server):
    """The client times out, retries, and gets the one answer."""
    client = server.client(max_retries=3).with_options(timeout=0.4)
    completion = client.chat.completions.create(model="m", messages=say("slow"))
    assert completion.choices[0].message.content.startswith("You said: slow")
    counters = server.stop()
    assert (counters["calls"], counters["turns"]) == (1, 1)
    assert counters["resends"] >= 1


def test_many_at_once(server):
    client = server.client()

    def ask(number):
        stream = number % 2 == 0
        answer = client.chat.completions.create(
            model="m", messages=say(f"number {number}."), stream=stream
        )
        if not stream:
            return answer.choices[0].message.content
        return "".join(c.choices[0].delta.content or "" for c in answer if c.choices)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(16)))
    for number, answer in enumerate(answers):
        assert answer.startswith(f"You said: number {number}.")
    assert server.stop()["turns"] == 16
