"""OpenAI's Python SDK, as it comes, against the chat dialect. tests/gate has it against a gate with a
trainer and a recorder.
"""

import json

import openai
import pydantic
import pytest

from server import HANG_UP, PNG, RESENDS, answer, outcome_of, problem

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
         for name in ("write", "bash")]


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=2, timeout=30)


def prompt(**more):
    return {"model": "mock-model", "messages": [{"role": "user", "content": "hi"}], **more}


def ask(client, **more):
    return client.chat.completions.create(**prompt(**more))


def stream(client, **more):
    """What the SDK makes of a streamed answer."""
    options = {"include_usage": True}
    with client.chat.completions.stream(**prompt(stream_options=options, **more)) as events:
        return events.get_final_completion()


@pytest.mark.parametrize("get", [ask, stream])
def test_parallel_tools_and_reasoning(client, server, get):
    server.script(answer("Both.", ("call_1", "write", '{"path": "a\\u00e9"}'),
                         ("call_2", "bash", "{broken"), reasoning="First a file.",
                         finish="tool_calls", keep_alives=2), answer("done"))
    completion = get(client, tools=TOOLS)
    assert completion.usage.total_tokens == 1050
    assert completion.choices[0].finish_reason == "tool_calls"
    message = completion.choices[0].message
    assert (message.content, message.reasoning_content) == ("Both.", "First a file.")
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls] == [
        ("call_1", "write", '{"path": "a\\u00e9"}'), ("call_2", "bash", "{broken")]

    history = prompt()["messages"] + [message] + [
        {"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in message.tool_calls]
    assert ask(client, messages=history, tools=TOOLS).choices[0].message.content == "done"
    later = server.calls()[1]
    assert later["echoes"] == [0] and later["extends"] == [0]
    turn = later["messages"][1]
    assert turn["reasoning"] == "First a file."
    assert turn["tool_calls"][1]["arguments"] == "{broken"


@pytest.mark.parametrize("get", [ask, stream])
def test_blank_arguments_are_an_empty_object(client, server, get):
    server.script(answer("", ("call_blank1", "bash", ""), ("call_blank2", "bash", " \n"),
                         finish="tool_calls", keep_alives=1))
    calls = get(client, tools=TOOLS).choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == ["{}", "{}"]


def test_a_keep_alive_chunk_has_a_choice_that_says_nothing(client, server):
    server.script(answer("late", keep_alives=2))
    chunks = list(ask(client, stream=True))
    # As examples read a stream.
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "late"
    assert [chunk.choices[0].finish_reason for chunk in chunks].count("stop") == 1
    assert chunks[0].choices[0].delta.role is None and chunks[2].choices[0].delta.role


def test_custom_tools(client, server):
    step = answer("", ("call_1", "patch", "*** Begin Patch"), ("call_2", "write", "{}"),
                  finish="tool_calls")
    server.script(step, step, answer("done"))
    tools = [*TOOLS, {"type": "custom", "custom": {"name": "patch"}}]
    patch, write = ask(client, tools=tools).choices[0].message.tool_calls
    assert (patch.type, patch.custom.name, patch.custom.input) == (
        "custom", "patch", "*** Begin Patch")
    assert (write.type, write.function.name) == ("function", "write")
    # The SDK's helper for streams knows no custom tools.
    chunks = ask(client, tools=tools, stream=True)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.type) for call in calls] == [(0, "custom"), (1, "function")]
    assert calls[0].custom == {"name": "patch", "input": "*** Begin Patch"}

    history = prompt()["messages"] + [
        {"role": "assistant", "tool_calls": [c.model_dump() for c in (patch, write)]}]
    ask(client, messages=history, tools=tools)
    later = server.calls()[2]
    assert 0 in later["echoes"]
    assert later["messages"][1]["tool_calls"][0]["kind"] == "custom"


@pytest.mark.parametrize("get", [ask, stream])
def test_refusal_is_sent_back_and_known_again(client, server, get):
    server.script(answer(refusal="I will not."), answer("done"))
    message = get(client).choices[0].message
    assert message.refusal == "I will not." and not message.content
    ask(client, messages=[*prompt()["messages"], message, {"role": "user", "content": "please"}])
    later = server.calls()[1]
    assert later["echoes"] == [0] and later["messages"][1]["refusal"] == "I will not."


@pytest.mark.parametrize("get", [ask, stream])
def test_several_choices_and_an_empty_one(client, server, get):
    two = answer("a", usage=None)
    two["answer"]["choices"].append({"finish": "stop", "text": ""})
    server.script(two)
    first, second = get(client, n=2).choices
    assert (first.message.content, second.message.content or "") == ("a", "")
    assert (first.finish_reason, second.finish_reason) == ("stop", "stop")
    assert server.calls()[0]["n"] == 2


def test_parse_into_a_type(client, server):
    class File(pydantic.BaseModel):
        path: str

    server.script(answer('{"path": "a"}'), answer('{"pa', finish="length"),
                  answer("", finish="content_filter"))
    def parse():
        return client.chat.completions.parse(**prompt(response_format=File))
    assert parse().choices[0].message.parsed == File(path="a")
    with pytest.raises(openai.LengthFinishReasonError):
        parse()
    with pytest.raises(openai.ContentFilterFinishReasonError):
        parse()


def test_images_and_unknown_parts_stay_as_they_came(client, server):
    parts = [{"type": "text", "text": "see"},
             {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PNG}},
             {"type": "unheard_of", "of": [1, {"a": None}]}]
    history = [{"role": "user", "content": parts}]
    server.script(answer("nice"), answer("done"))
    history += [ask(client, messages=history).choices[0].message,
                {"role": "user", "content": parts[1:]}]
    ask(client, messages=history)
    first, later = server.calls()
    assert first["messages"][0]["text"] == "see"
    assert json.loads(first["messages"][0]["raw"])["content"] == parts
    assert json.loads(later["messages"][2]["raw"])["content"] == parts[1:]
    assert later["echoes"] == [0] and later["extends"] == [0]


@pytest.mark.parametrize("kind, error", [
    ("invalid_argument", openai.BadRequestError), ("unauthenticated", openai.AuthenticationError),
    ("permission_denied", openai.PermissionDeniedError), ("not_found", openai.NotFoundError),
    ("exhausted", openai.RateLimitError), ("unavailable", openai.InternalServerError),
    ("internal", openai.InternalServerError)])
def test_errors(client, server, kind, error):
    server.script(problem(kind, "because"))
    with pytest.raises(error, match="because") as caught:
        ask(client.with_options(max_retries=0))
    assert type(caught.value) is error
    assert [call["outcome"] for call in server.ended()] == [outcome_of(kind)]


@pytest.mark.parametrize("kind", ["exhausted", "unavailable", "internal"])
def test_what_passes_is_tried_again(client, server, kind):
    server.script(problem(kind), HANG_UP, answer("there"))
    assert ask(client).choices[0].message.content == "there"
    # The one that was lost with its connection was joined, not made anew.
    assert [(call.get("resends", 0), call["outcome"]) for call in server.ended()] == [
        (0, outcome_of(kind)), (1, "delivered")]


def test_what_ends_an_agent_is_not_tried_again(client, server):
    server.script(problem("exhausted", "rate limit", end_agent=True))
    with pytest.raises(openai.BadRequestError, match="has ended"):
        ask(client)
    assert len(server.calls()) == 1


@pytest.mark.parametrize("keep_alives", [1, 3])
def test_error_in_a_stream(client, server, keep_alives):
    server.script(problem("internal", "it broke", keep_alives=keep_alives))
    with pytest.raises(openai.APIError, match="it broke"):
        stream(client)


def test_a_lost_answer_is_sent_again_as_it_was(client, server):
    server.script(RESENDS, answer("once"))
    assert ask(client) == ask(client)
    assert [call["resends"] for call in server.calls()] == [1]


def test_unknown_paths(client, server):
    for ask_for in (lambda: client.chat.completions.retrieve("chatcmpl-1"),
                    lambda: client.completions.create(model="m", prompt="hi"),
                    client.files.list, lambda: client.models.retrieve("no-such-model")):
        with pytest.raises(openai.NotFoundError) as caught:
            ask_for()
        assert caught.value.type == "invalid_request_error"
    assert server.calls() == []


def test_there_were_at_least_twenty_exchanges(server):
    assert server.total("chat") >= 20
