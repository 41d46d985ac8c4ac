"""Anthropic's Python SDK, as it comes, against the messages dialect."""

import json

import anthropic
import pytest
from anthropic import beta_tool

from server import HANG_UP, PNG, RESENDS, answer, outcome_of, problem

TOOLS = [{"name": name, "description": "", "input_schema": {"type": "object"}}
         for name in ("write", "bash")]


@pytest.fixture
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=2, timeout=30)


def prompt(text="hi", **more):
    return dict(model="mock-model", max_tokens=1024, messages=[{"role": "user", "content": text}],
                **more)


def ask(client, **more):
    return client.messages.create(**{**prompt(), **more})


def stream(client, **more):
    """The raw events of a streamed answer and the message that the SDK makes of them."""
    with client.messages.stream(**{**prompt(), **more}) as events:
        seen = [e.type for e in events]
        return seen, events.get_final_message()


def test_plain_text(client, server):
    server.script(answer("Hello\n"))
    message = ask(client, system=[{"type": "text", "text": "Be brief."}])
    assert message.content[0].text == "Hello\n" and message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (1000, 50)
    assert message.id.startswith("msg_") and message.model == "mock-model"
    assert server.calls()[0]["system"] == "Be brief."


def test_stream_of_text(client, server):
    server.script(answer("Hello\n"))
    events = list(client.messages.create(**prompt(), stream=True))
    assert [e.type for e in events] == ["message_start", "content_block_start",
                                        "content_block_delta", "content_block_stop",
                                        "message_delta", "message_stop"]
    server.script(answer("Hello\n", keep_alives=3))
    seen, message = stream(client)
    assert message.content[0].text == "Hello\n" and message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (1000, 50)


CALLS = [("toolu_1", "write", '{"path": "a\\u00e9"}'), ("toolu_2", "bash", "")]


@pytest.mark.parametrize("streamed", [False, True])
def test_parallel_tools_and_thinking(client, server, streamed):
    server.script(answer("Both.", *CALLS, reasoning="First a file.", seal="c2VhbA==",
                         finish="tool_calls"), answer("done"))
    message = stream(client, tools=TOOLS)[1] if streamed else ask(client, tools=TOOLS)
    thinking, text, first, second = message.content
    assert (thinking.thinking, thinking.signature) == ("First a file.", "c2VhbA==")
    assert text.text == "Both." and message.stop_reason == "tool_use"
    assert (first.id, first.name, first.input) == ("toolu_1", "write", {"path": "aé"})
    assert second.input == {}

    history = [
        {"role": "user", "content": [{"type": "text", "text": "hi",
                                      "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"},
            {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True,
             "content": [{"type": "text", "text": "no"}]}]}]
    assert ask(client, messages=history, tools=TOOLS).content[0].text == "done"
    later = server.calls()[1]
    # The first message was a string; it is the same one.
    assert later["echoes"] == [0] and later["extends"] == [0]
    assert [m["role"] for m in later["messages"]] == ["user", "assistant", "tool", "tool"]
    assert [m.get("text") for m in later["messages"]] == ["hi", "Both.", "ok", "no"]
    turn = later["messages"][1]
    assert (turn["reasoning"], turn["reasoning_seal"]) == ("First a file.", "c2VhbA==")
    assert [c["id"] for c in turn["tool_calls"]] == ["toolu_1", "toolu_2"]


def test_thinking_always_has_a_signature(client, server):
    server.script(answer("x", reasoning="hm"))
    assert ask(client).content[0].signature


@pytest.mark.parametrize("streamed", [False, True])
def test_redacted_thinking(client, server, streamed):
    server.script(answer("x", seal="opaque"))
    message = stream(client)[1] if streamed else ask(client)
    assert (message.content[0].type, message.content[0].data) == ("redacted_thinking", "opaque")


def test_broken_arguments_are_wrapped_when_whole(client, server):
    server.script(answer("", ("toolu_1", "write", "{oops"), finish="tool_calls"))
    assert ask(client).content[0].input == {"INVALID_JSON": "{oops"}


def test_broken_arguments_are_streamed_as_they_are(client, server):
    steps = [answer("", ("toolu_1", "write", text), finish="tool_calls")
             for text in ("{oops", '{"path": "a", "text": "cut')]
    server.script(*steps, steps[0])
    events = client.messages.create(**prompt(), stream=True)
    assert [e.delta.partial_json for e in events if e.type == "content_block_delta"] == ["{oops"]
    # What was cut short, the SDK closes; what is wrong, it refuses as it does the vendor's.
    assert stream(client)[1].content[0].input == {"path": "a"}
    with pytest.raises(ValueError, match="Unable to parse tool parameter JSON"):
        stream(client)


@pytest.mark.parametrize("finish, reason", [("length", "max_tokens"), ("content_filter", "refusal")])
@pytest.mark.parametrize("streamed", [False, True])
def test_stop_reasons(client, server, finish, reason, streamed):
    server.script(answer("cut", finish=finish, refusal="policy"))
    message = stream(client)[1] if streamed else ask(client)
    assert message.stop_reason == reason and message.content[0].text == "cut"
    if reason == "refusal":
        assert message.stop_details.explanation == "policy"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_in_words_is_text(client, server, streamed):
    server.script(answer(refusal="I will not."))
    message = stream(client)[1] if streamed else ask(client)
    assert message.content[0].text == "I will not." and message.stop_reason == "end_turn"


@pytest.mark.parametrize("streamed", [False, True])
def test_empty_answer_without_usage(client, server, streamed):
    server.script(answer("", usage=None))
    message = stream(client)[1] if streamed else ask(client)
    assert message.content == [] and message.usage.output_tokens == 0


@pytest.mark.parametrize("kind, error", [
    ("invalid_argument", anthropic.BadRequestError),
    ("unauthenticated", anthropic.AuthenticationError),
    ("permission_denied", anthropic.PermissionDeniedError),
    ("not_found", anthropic.NotFoundError), ("too_large", anthropic.ContentTooLargeError),
    ("exhausted", anthropic.RateLimitError), ("unavailable", anthropic.OverloadedError),
    ("internal", anthropic.InternalServerError)])
def test_errors(client, server, kind, error):
    server.script(problem(kind, "because"))
    with pytest.raises(error, match="because") as caught:
        ask(client.with_options(max_retries=0))
    assert type(caught.value) is error and caught.value.body["type"] == "error"
    assert [call["outcome"] for call in server.ended()] == [outcome_of(kind)]


@pytest.mark.parametrize("kind", ["exhausted", "unavailable", "internal"])
def test_what_passes_is_tried_again(client, server, kind):
    server.script(problem(kind), HANG_UP, answer("there"))
    assert ask(client).content[0].text == "there"
    # The one that was lost with its connection was joined, not made anew.
    assert [(call.get("resends", 0), call["outcome"]) for call in server.ended()] == [
        (0, outcome_of(kind)), (1, "delivered")]


def test_what_ends_an_agent_is_a_403(client, server):
    server.script(problem("exhausted", "rate limit", end_agent=True))
    with pytest.raises(anthropic.PermissionDeniedError, match="has ended"):
        ask(client)
    assert len(server.calls()) == 1


def test_error_in_a_stream(client, server):
    server.script(problem("unavailable", "it broke", keep_alives=2))
    with pytest.raises(anthropic.APIError, match="it broke"):
        stream(client)


@pytest.mark.parametrize("field, more", [("max_tokens", {"max_tokens": None}),
                                         ("messages", {"messages": []})])
def test_a_request_that_lacks_something_is_refused(client, field, more):
    with pytest.raises(anthropic.BadRequestError, match=field):
        ask(client, **more)


def test_models_and_counting(client, server):
    models = client.models.list()
    assert [m.id for m in models] == ["mock-model", "other-model"]
    assert client.models.retrieve("mock-model").display_name == "mock-model"
    counted = client.messages.count_tokens(model="m", messages=prompt()["messages"], tools=TOOLS)
    assert counted.input_tokens > 10
    assert server.calls() == []


def test_a_lost_answer_is_sent_again_as_it_was(client, server):
    server.script(RESENDS, answer("once"))
    assert ask(client) == ask(client)
    assert [call["resends"] for call in server.calls()] == [1]


def test_cancel_and_come_back(client, server):
    server.script(answer("late", after_ms=500))
    client.messages.create(**prompt(), stream=True).close()
    again = [e for e in client.messages.create(**prompt(), stream=True)]
    assert "".join(e.delta.text for e in again if e.type == "content_block_delta") == "late"
    (call,) = server.ended()
    assert (call["resends"], call["outcome"]) == (1, "delivered")


def test_images_and_unknown_blocks_stay_as_they_came(client, server):
    image = {"type": "image",
             "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    unknown = {"type": "unheard_of", "of": [1, {"a": None}]}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "see"}, unknown]}]
    server.script(answer("", ("toolu_1", "write", "{}"), finish="tool_calls"), answer("done"))
    first = ask(client, messages=messages)
    messages += [{"role": "assistant", "content": first.content},
                 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1",
                                               "content": [image, {"type": "text", "text": "ok"}]},
                                              image]}]
    ask(client, messages=messages)
    first, later = server.calls()
    assert first["messages"][0]["text"] == "see"
    assert json.loads(first["messages"][0]["raw"])["content"] == [
        image, {"type": "text", "text": "see"}, unknown]
    assert later["echoes"] == [0] and later["extends"] == [0]
    assert [m["role"] for m in later["messages"]] == ["user", "assistant", "tool", "user"]
    assert json.loads(later["messages"][2]["raw"])["content"][0] == image
    assert json.loads(later["messages"][3]["raw"])["content"][1] == image


def test_the_sdks_tool_runner_sends_the_whole_conversation(client, server):
    """It wants the vendor to store the conversation, and is told that here nothing is."""
    @beta_tool
    def write(path: str) -> str:
        """Writes a file.

        Args:
            path: which
        """
        return "wrote " + path

    server.script(answer("", ("toolu_1", "write", '{"path": "a"}'),
                         ("toolu_2", "write", '{"path": "b"}'), reasoning="Two.",
                         finish="tool_calls"), answer("done"))
    runner = client.beta.messages.tool_runner(**prompt(), tools=[write])
    assert runner.until_done().content[0].text == "done"
    first, later = server.ended()
    assert later["echoes"] == [0] and later["extends"] == [0]
    assert [(m["role"], m.get("text")) for m in later["messages"]] == [
        ("user", "hi"), ("assistant", None), ("tool", "wrote a"), ("tool", "wrote b")]


def test_a_conversation_that_the_vendor_would_store_is_refused(client, server):
    thread = client.beta.messages.thread(model="mock-model", max_tokens=9)
    with pytest.raises(anthropic.types.ThreadUnsupportedRequestError, match="whole conversation"):
        thread.send(*prompt()["messages"])
    assert server.calls() == []


def test_unknown_paths(client, server):
    for ask_for in (client.messages.batches.list, client.beta.files.list,
                    lambda: client.models.retrieve("no-such-model")):
        with pytest.raises(anthropic.NotFoundError) as caught:
            ask_for()
        assert caught.value.body["error"]["type"] == "not_found_error"
    assert server.calls() == []


def test_there_were_at_least_twenty_exchanges(server):
    assert server.total("messages") >= 20
