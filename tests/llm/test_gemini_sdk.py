"""Google's Python SDK, as it comes, against the gemini dialect."""

import base64
import json
import urllib.request

import pytest
from google import genai
from google.genai import errors, types

from server import HANG_UP, PNG, RESENDS, answer, outcome_of, problem

TOOLS = [types.Tool(function_declarations=[
    types.FunctionDeclaration(name=name, parameters_json_schema={"type": "object"})
    for name in ("write", "bash")])]


@pytest.fixture
def client(server):
    retries = types.HttpRetryOptions(attempts=3, initial_delay=0.1, max_delay=0.2)
    return genai.Client(api_key="k", http_options=types.HttpOptions(
        base_url=server.url, timeout=30_000, retry_options=retries))


def ask(client, contents="hi", **config):
    return client.models.generate_content(model="mock-model", contents=contents,
                                          config=types.GenerateContentConfig(**config))


def stream(client, contents="hi", **config):
    """The last piece of a streamed answer, in which all of it is."""
    return list(client.models.generate_content_stream(
        model="mock-model", contents=contents, config=types.GenerateContentConfig(**config)))[-1]


@pytest.mark.parametrize("get", [ask, stream])
def test_text(client, server, get):
    server.script(answer("Hello\n", keep_alives=2))
    response = get(client, system_instruction="Be brief.", temperature=0.5, top_k=3,
                   max_output_tokens=7, stop_sequences=["x"])
    assert response.text == "Hello\n"
    assert response.candidates[0].finish_reason == types.FinishReason.STOP
    assert response.usage_metadata.prompt_token_count == 1000
    assert response.usage_metadata.total_token_count == 1050
    assert response.model_version == "mock-model" and response.response_id
    call = server.calls()[0]
    assert call["system"] == "Be brief." and call["stream"] == (get is stream)
    assert [m["role"] for m in call["messages"]] == ["system", "user"]


@pytest.mark.parametrize("get", [ask, stream])
def test_parallel_tools_and_thoughts(client, server, get):
    server.script(answer("Both.", ("call_1", "write", '{"path": "a\\u00e9"}'), ("call_2", "bash", ""),
                         reasoning="First a file.", seal="c2VhbA==", finish="tool_calls"),
                  answer("done"))
    response = get(client, tools=TOOLS)
    content = response.candidates[0].content
    thought, text, first, second = content.parts
    assert thought.thought and thought.text == "First a file."
    assert text.text == "Both."
    assert first.thought_signature == b"seal" and second.thought_signature is None
    assert (first.function_call.id, first.function_call.name) == ("call_1", "write")
    assert first.function_call.args == {"path": "aé"} and second.function_call.args == {}

    history = [
        types.Content(role="user", parts=[types.Part(text="hi")]), content,
        types.Content(role="user", parts=[
            types.Part(function_response=types.FunctionResponse(id=i, name=n, response=r))
            for i, n, r in (("call_1", "write", {"output": "ok"}), ("call_2", "bash", {"a": 1}))])]
    assert ask(client, history, tools=TOOLS).text == "done"
    later = server.calls()[1]
    assert later["echoes"] == [0] and later["extends"] == [0]
    assert later["tool_names"] == ["write", "bash"]
    assert [m["role"] for m in later["messages"]] == ["user", "assistant", "tool", "tool"]
    assert later["messages"][2]["text"] == "ok" and '"a"' in later["messages"][3]["text"]
    turn = later["messages"][1]
    assert (turn["reasoning"], turn["reasoning_seal"]) == ("First a file.", "c2VhbA==")
    assert [c["id"] for c in turn["tool_calls"]] == ["call_1", "call_2"]


def test_the_sdk_calls_functions_by_itself(client, server):
    def write(path: str) -> str:
        return "wrote " + path

    server.script(answer("", ("call_1", "write", '{"path": "a"}'), finish="tool_calls"),
                  answer("done"))
    assert ask(client, tools=[write]).text == "done"
    later = server.calls()[1]
    assert later["echoes"] == [0] and later["messages"][-1]["text"] == "wrote a"


@pytest.mark.parametrize("keep_alives", [0, 3])
def test_a_chat_remembers_its_turns(client, server, keep_alives):
    server.script(answer("one", keep_alives=keep_alives), answer("two"))
    chat = client.chats.create(model="mock-model")
    assert "".join(c.text or "" for c in chat.send_message_stream("a")) == "one"
    assert chat.send_message("b").text == "two"
    later = server.calls()[1]
    assert [m["text"] for m in later["messages"]] == ["a", "one", "b"] and later["echoes"] == [0]


@pytest.mark.parametrize("get", [ask, stream])
def test_broken_arguments_are_wrapped(client, server, get):
    server.script(answer("", ("call_1", "write", "{oops"), finish="tool_calls"))
    call = get(client).candidates[0].content.parts[0].function_call
    assert call.args == {"INVALID_JSON": "{oops"}


@pytest.mark.parametrize("get", [ask, stream])
@pytest.mark.parametrize("finish, reason", [("length", "MAX_TOKENS"), ("content_filter", "SAFETY")])
def test_finish_reasons(client, server, get, finish, reason):
    server.script(answer("cut", finish=finish))
    assert get(client).candidates[0].finish_reason.value == reason


@pytest.mark.parametrize("get", [ask, stream])
def test_refusal_and_empty_answer(client, server, get):
    server.script(answer(refusal="I will not."), answer("", usage=None))
    assert get(client).text == "I will not."
    empty = get(client)
    assert empty.text == "" and empty.usage_metadata is None


@pytest.mark.parametrize("get", [ask, stream])
def test_several_candidates(client, server, get):
    two = answer("a")
    two["answer"]["choices"].append({"finish": "stop", "text": "b"})
    server.script(two)
    candidates = get(client, candidate_count=2).candidates
    assert [(c.index, c.content.parts[0].text) for c in candidates] == [(0, "a"), (1, "b")]


def test_a_signature_that_is_no_base64_is_left_out(client, server):
    server.script(answer("x", seal="not base64!"))
    assert ask(client).candidates[0].content.parts[0].thought_signature is None


@pytest.mark.parametrize("kind, code, status", [
    ("invalid_argument", 400, "INVALID_ARGUMENT"), ("unauthenticated", 401, "UNAUTHENTICATED"),
    ("permission_denied", 403, "PERMISSION_DENIED"), ("not_found", 404, "NOT_FOUND")])
@pytest.mark.parametrize("get", [ask, stream])
def test_errors(client, server, get, kind, code, status):
    server.script(problem(kind, "because"))
    with pytest.raises(errors.ClientError, match="because") as caught:
        get(client)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert [call["outcome"] for call in server.ended()] == [outcome_of(kind)]


@pytest.mark.parametrize("kind, error, code, status", [
    ("exhausted", errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    ("unavailable", errors.ServerError, 503, "UNAVAILABLE"),
    ("internal", errors.ServerError, 500, "INTERNAL")])
def test_errors_that_stay(client, server, kind, error, code, status):
    server.script(*[problem(kind, "because")] * 3)
    with pytest.raises(error, match="because") as caught:
        ask(client)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert [call["outcome"] for call in server.ended()] == [outcome_of(kind)] * 3


@pytest.mark.parametrize("kind", ["exhausted", "unavailable", "internal"])
def test_what_passes_is_tried_again(client, server, kind):
    server.script(problem(kind), problem(kind), answer("there"))
    assert ask(client).text == "there"
    assert [call["outcome"] for call in server.ended()] == [
        outcome_of(kind), outcome_of(kind), "delivered"]


def test_what_ends_an_agent_is_not_tried_again(client, server):
    server.script(problem("exhausted", "rate limit", end_agent=True))
    with pytest.raises(errors.ClientError, match="has ended") as caught:
        ask(client)
    assert caught.value.code == 400 and len(server.calls()) == 1


def test_a_broken_connection_is_an_error(client, server):
    server.script(HANG_UP, HANG_UP, HANG_UP)
    with pytest.raises(Exception, match="disconnect|closed|terminated"):
        ask(client)


@pytest.mark.parametrize("keep_alives", [1, 3])
def test_error_in_a_stream(client, server, keep_alives):
    server.script(problem("unavailable", "it broke", keep_alives=keep_alives))
    with pytest.raises(errors.ServerError, match="it broke") as caught:
        stream(client)
    assert caught.value.code == 503


def test_without_events_a_stream_is_one_array(server):
    def post(*steps):
        server.script(*steps)
        request = urllib.request.Request(
            server.url + "/v1beta/models/mock-model:streamGenerateContent",
            json.dumps({"contents": [{"parts": [{"text": "hi"}]}],
                        "system_instruction": {"parts": {"text": "brief"}}}).encode())
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.headers["Content-Type"].startswith("application/json")
            return json.load(response)

    (chunk,) = post(answer("Hello", keep_alives=2))
    assert chunk["candidates"][0]["content"]["parts"] == [{"text": "Hello"}]
    (error,) = post(problem("internal", "it broke", keep_alives=1))
    assert error["error"]["status"] == "INTERNAL"
    assert server.calls()[0]["system"] == "brief"


def test_models_and_counting(client, server):
    assert [m.name for m in client.models.list(config={"query_base": True})] == [
        "models/mock-model", "models/other-model"]
    assert client.models.get(model="mock-model").display_name == "mock-model"
    counted = client.models.count_tokens(model="mock-model", contents="hello there")
    assert counted.total_tokens > 5
    assert server.calls() == []


def test_a_lost_answer_is_sent_again_as_it_was(client, server):
    server.script(RESENDS, answer("once"))
    assert ask(client).response_id == ask(client).response_id
    assert [call["resends"] for call in server.calls()] == [1]


def test_cancel_and_come_back(client, server):
    server.script(answer("late", after_ms=1000))
    hasty = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url,
                                                                     timeout=300))
    with pytest.raises(Exception, match="timed out|timeout|Timeout"):
        ask(hasty)
    assert ask(client).text == "late"
    (call,) = server.ended()
    assert call["resends"] >= 1 and call["outcome"] == "delivered"


def test_images_and_other_parts_stay_as_they_came(client, server):
    image = types.Part.from_bytes(data=base64.b64decode(PNG), mime_type="image/png")
    contents = [types.Content(role="user", parts=[
        types.Part(text="see"), image,
        types.Part(executable_code=types.ExecutableCode(code="1", language="PYTHON"))])]
    server.script(answer("", ("call_1", "write", "{}"), finish="tool_calls"), answer("done"))
    contents.append(ask(client, contents).candidates[0].content)
    contents.append(types.Content(role="user", parts=[
        types.Part(function_response=types.FunctionResponse(id="call_1", name="write",
                                                            response={"output": "ok"})), image]))
    ask(client, contents)
    first, later = server.calls()
    assert first["messages"][0]["text"] == "see"
    parts = json.loads(first["messages"][0]["raw"])["parts"]
    # The SDK writes bytes in the alphabet for URLs.
    assert base64.urlsafe_b64decode(parts[1]["inlineData"]["data"]) == base64.b64decode(PNG)
    assert parts[2]["executableCode"] == {"code": "1", "language": "PYTHON"}
    assert later["echoes"] == [0] and later["extends"] == [0]
    assert [m["role"] for m in later["messages"]] == ["user", "assistant", "tool", "user"]
    assert json.loads(later["messages"][3]["raw"])["parts"][1] == parts[1]


def test_unknown_paths(client, server):
    for ask_for in (lambda: client.models.embed_content(model="m", contents="hi"),
                    lambda: list(client.files.list()), lambda: list(client.caches.list()),
                    lambda: client.models.get(model="no-such-model")):
        with pytest.raises(errors.ClientError) as caught:
            ask_for()
        assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")
    assert server.calls() == []


def test_there_were_at_least_twenty_exchanges(server):
    assert server.total("gemini") >= 20
