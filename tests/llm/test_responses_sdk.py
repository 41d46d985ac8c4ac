"""OpenAI's Python SDK, as it comes, against the responses dialect."""

import json

import openai
import pytest

from server import HANG_UP, PNG, RESENDS, answer, outcome_of, problem

TOOLS = [
    {"type": "function", "name": "write", "description": "", "strict": False,
     "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}},
    {"type": "function", "name": "bash", "description": "", "strict": False,
     "parameters": {"type": "object", "properties": {}}},
    {"type": "custom", "name": "apply_patch", "description": "free text"},
    {"type": "namespace", "name": "mcp__env", "description": "",
     "tools": [{"type": "function", "name": "answer", "parameters": {"type": "object"}}]},
]
KEEP = dict(store=False, include=["reasoning.encrypted_content"])


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=2, timeout=30)


def ask(client, input="hi", **more):
    return client.responses.create(model="mock-model", input=input, **KEEP, **more)


def stream(client, input="hi", **more):
    """The events of a streamed answer and the response that the SDK makes of them."""
    with client.responses.stream(model="mock-model", input=input, **KEEP, **more) as events:
        seen = list(events)
        return seen, events.get_final_response()


def test_plain_text(client, server):
    server.script(answer("Hello\n"))
    response = ask(client, instructions="Be brief.")
    assert response.output_text == "Hello\n"
    assert response.status == "completed" and response.object == "response"
    assert response.usage.input_tokens == 1000 and response.usage.total_tokens == 1050
    call = server.calls()[0]
    assert call["system"] == "Be brief."
    assert [m["role"] for m in call["messages"]] == ["system", "user"]


def test_stream_of_text(client, server):
    server.script(answer("Hello\n"))
    events, response = stream(client)
    assert [e.type for e in events] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done", "response.completed"]
    assert [e.sequence_number for e in events] == list(range(9))
    assert response.output_text == "Hello\n" and response.usage.output_tokens == 50


def test_keep_alives_are_events_and_the_numbers_go_on(client, server):
    server.script(answer("Hello", keep_alives=3))
    events, response = stream(client)
    types = [e.type for e in events]
    first = types.index("response.output_item.added")
    assert first >= 3 and types[:first] == ["response.created"] + ["response.in_progress"] * (first - 1)
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert response.output_text == "Hello"


@pytest.mark.parametrize("streamed", [False, True])
def test_blank_arguments_are_an_empty_object(client, server, streamed):
    server.script(answer("", ("call_1", "bash", " \n"), ("call_2", "apply_patch", ""),
                         finish="tool_calls"))
    response = stream(client, tools=TOOLS)[1] if streamed else ask(client, tools=TOOLS)
    first, second = response.output
    # Of a function: free text may be blank.
    assert (first.arguments, second.input) == ("{}", "")


BUSY = answer("Both.", ("call_1", "write", '{"path": "a\\u00e9"}'), ("call_2", "bash", "{broken"),
              reasoning="First a file.", seal="c2VhbA==", finish="tool_calls")


@pytest.mark.parametrize("streamed", [False, True])
def test_parallel_tools_reasoning_and_broken_arguments(client, server, streamed):
    server.script(BUSY, answer("done"))
    response = stream(client, tools=TOOLS)[1] if streamed else ask(client, tools=TOOLS)
    reasoning, message, first, second = response.output
    assert reasoning.type == "reasoning" and reasoning.summary[0].text == "First a file."
    assert reasoning.encrypted_content == "c2VhbA=="
    assert message.content[0].text == "Both."
    assert (first.call_id, first.name) == ("call_1", "write")
    assert json.loads(first.arguments) == {"path": "aé"}
    assert second.arguments == "{broken"

    # The next turn sends the items back and the tools' outputs with them.
    history = [{"role": "user", "content": "hi"}]
    history += [item.model_dump(exclude_none=True) for item in response.output]
    history += [{"type": "function_call_output", "call_id": c.call_id, "output": "ok"}
                for c in (first, second)]
    assert ask(client, input=history, tools=TOOLS).output_text == "done"
    later = server.calls()[1]
    assert later["echoes"] == [0] and later["extends"] == [0]
    assert [m["role"] for m in later["messages"]] == ["user", "assistant", "tool", "tool"]
    turn = later["messages"][1]
    assert turn["reasoning"] == "First a file." and turn["reasoning_seal"] == "c2VhbA=="
    assert [c["id"] for c in turn["tool_calls"]] == ["call_1", "call_2"]
    assert turn["tool_calls"][1]["arguments"] == "{broken"


@pytest.mark.parametrize("streamed", [False, True])
def test_custom_tools_and_tools_in_a_namespace(client, server, streamed):
    server.script(answer("", ("call_1", "apply_patch", "*** Begin Patch"),
                         ("call_2", "mcp__env__answer", "{}"), finish="tool_calls"))
    response = stream(client, tools=TOOLS)[1] if streamed else ask(client, tools=TOOLS)
    patch, namespaced = response.output
    assert patch.type == "custom_tool_call" and patch.input == "*** Begin Patch"
    assert namespaced.type == "function_call"
    assert (namespaced.namespace, namespaced.name) == ("mcp__env", "answer")
    assert server.calls()[0]["tool_names"] == ["write", "bash", "apply_patch", "mcp__env__answer"]


@pytest.mark.parametrize("streamed", [False, True])
def test_refusal(client, server, streamed):
    server.script(answer(refusal="I will not."))
    response = stream(client)[1] if streamed else ask(client)
    assert response.output[0].content[0].refusal == "I will not."


@pytest.mark.parametrize("finish, reason", [("length", "max_output_tokens"),
                                            ("content_filter", "content_filter")])
def test_incomplete(client, server, finish, reason):
    server.script(answer("cut", finish=finish), answer("cut", finish=finish))
    response = ask(client)
    assert response.status == "incomplete" and response.incomplete_details.reason == reason
    last = list(client.responses.create(model="m", input="hi", stream=True, **KEEP))[-1]
    assert last.type == "response.incomplete" and last.response.output_text == "cut"


@pytest.mark.parametrize("streamed", [False, True])
def test_empty_answer_without_usage(client, server, streamed):
    server.script(answer("", usage=None))
    response = stream(client)[1] if streamed else ask(client)
    assert response.output_text == "" and response.status == "completed"
    assert response.usage.total_tokens == 0


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
    assert ask(client).output_text == "there"
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


@pytest.mark.parametrize("more, code", [
    (dict(previous_response_id="resp_1"), "previous_response_not_found"),
    (dict(conversation="conv_1"), "unsupported_value"),
    (dict(background=True), "unsupported_value")])
def test_what_leans_on_stored_state_is_refused(client, more, code):
    with pytest.raises(openai.BadRequestError, match="whole conversation") as caught:
        ask(client, **more)
    assert caught.value.code == code and caught.value.param == next(iter(more))


def test_a_reference_to_a_stored_item_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="msg_1"):
        ask(client, input=[{"type": "item_reference", "id": "msg_1"}])


def test_parse_into_a_type(client, server):
    server.script(answer('{"path": "a"}'))
    from pydantic import BaseModel

    class File(BaseModel):
        path: str

    response = client.responses.parse(model="m", input="hi", text_format=File, **KEEP)
    assert response.output_parsed == File(path="a")


def test_models_and_counting(client):
    assert [m.id for m in client.models.list()] == ["mock-model", "other-model"]
    assert client.models.retrieve("mock-model").object == "model"
    counted = client.responses.input_tokens.count(model="m", input="hello there")
    assert counted.input_tokens == 4


def test_a_lost_answer_is_sent_again_as_it_was(client, server):
    server.script(RESENDS, answer("once"))
    assert ask(client) == ask(client)
    assert [call["resends"] for call in server.calls()] == [1]


def test_cancel_and_come_back(client, server):
    server.script(answer("late", after_ms=500))
    with client.responses.create(model="mock-model", input="hi", stream=True, **KEEP) as events:
        assert next(iter(events)).type == "response.created"
    again = list(client.responses.create(model="mock-model", input="hi", stream=True, **KEEP))
    assert again[-1].response.output_text == "late"
    (call,) = server.ended()
    assert (call["resends"], call["outcome"]) == (1, "delivered")


def test_images_and_unknown_items_stay_as_they_came(client, server):
    image = {"type": "input_image", "image_url": "data:image/png;base64," + PNG, "detail": "auto"}
    unknown = {"type": "unheard_of", "of": [1, {"a": None}]}
    items = [{"role": "user", "content": [{"type": "input_text", "text": "see"}, image]}, unknown]
    server.script(answer("", ("call_1", "write", "{}"), finish="tool_calls"), answer("done"))
    first = ask(client, input=items)
    items += first.output
    items.append({"type": "function_call_output", "call_id": "call_1",
                  "output": [{"type": "input_text", "text": "ok"}, image]})
    ask(client, input=items)
    first, later = server.calls()
    assert first["messages"][0]["text"] == "see"
    assert json.loads(first["messages"][0]["raw"])["content"][1] == image
    assert json.loads(first["messages"][1]["raw"]) == unknown
    assert later["echoes"] == [0] and later["extends"] == [0]
    assert [m["role"] for m in later["messages"]] == ["user", "user", "assistant", "tool"]
    assert json.loads(later["messages"][3]["raw"])["output"][1] == image


def test_unknown_paths(client, server):
    for ask_for in (lambda: client.responses.retrieve("resp_1"),
                    lambda: client.responses.cancel("resp_1"),
                    lambda: client.responses.compact(model="m", input="hi"),
                    lambda: client.embeddings.create(model="m", input="hi"),
                    lambda: client.models.retrieve("no-such-model")):
        with pytest.raises(openai.NotFoundError) as caught:
            ask_for()
        assert caught.value.type == "invalid_request_error"
    assert server.calls() == []


def test_there_were_at_least_twenty_exchanges(server):
    assert server.total("responses") >= 20
