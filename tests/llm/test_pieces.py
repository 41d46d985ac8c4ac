"""Answers that are delivered while they are made: the vendors' SDKs get them in pieces, and put together
what the policy said.
"""

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from server import answer

REASONING = "First a file ☃, then another."
TEXT = "I will write it: naïve, but it is done soon. \N{GRINNING FACE}\n"
CALL = ("call_1", "write", '{"path": "a"}')


def said(server):
    server.script(answer(TEXT, CALL, reasoning=REASONING, finish="tool_calls", pieces_ms=10))


def many(pieces):
    """They came one after the other, and no piece is a broken character."""
    assert len(pieces) > 5 and "\ufffd" not in "".join(pieces)
    return "".join(pieces)


def check(server):
    (call,) = server.ended()
    assert call["outcome"] == "delivered"


def test_chat(server):
    said(server)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "hi"}]) as stream:
        deltas = [event.chunk.choices[0].delta for event in stream
                  if event.type == "chunk" and event.chunk.choices]
        message = stream.get_final_completion().choices[0].message
    assert many([d.content for d in deltas if d.content]) == message.content == TEXT
    assert many([d.reasoning_content for d in deltas
                 if getattr(d, "reasoning_content", None)]) == REASONING
    assert [call.id for call in message.tool_calls] == ["call_1"]
    check(server)


def test_responses(server):
    said(server)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)
    with client.responses.stream(model="m", input="hi") as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = {kind: [e.delta for e in events if e.type == f"response.{kind}.delta"]
              for kind in ("output_text", "reasoning_summary_text")}
    assert many(deltas["output_text"]) == final.output_text == TEXT
    assert many(deltas["reasoning_summary_text"]) == final.output[0].summary[0].text == REASONING
    assert final.output[2].call_id == "call_1"
    assert [e.sequence_number for e in events] == list(range(len(events)))
    check(server)


def test_messages(server):
    said(server)
    client = anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0)
    with client.messages.stream(model="m", max_tokens=9,
                                messages=[{"role": "user", "content": "hi"}]) as stream:
        deltas = [event.delta for event in stream if event.type == "content_block_delta"]
        thinking, text, call = stream.get_final_message().content
    assert many([d.text for d in deltas if d.type == "text_delta"]) == text.text == TEXT
    assert many([d.thinking for d in deltas if d.type == "thinking_delta"]) == thinking.thinking
    assert thinking.thinking == REASONING and thinking.signature and call.id == "call_1"
    check(server)


def test_gemini(server):
    said(server)
    client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
    parts = [part for chunk in client.models.generate_content_stream(model="m", contents="hi")
             for part in chunk.candidates[0].content.parts]
    assert many([p.text for p in parts if p.text and not p.thought]) == TEXT
    assert many([p.text for p in parts if p.text and p.thought]) == REASONING
    assert [p.function_call.id for p in parts if p.function_call] == ["call_1"]
    check(server)


def test_a_chat_of_geminis_echoes_what_came_in_pieces(server):
    server.script(answer(TEXT, pieces_ms=10), answer("two"))
    client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
    chat = client.chats.create(model="m")
    assert many([c.text for c in chat.send_message_stream("a") if c.text]) == TEXT
    assert chat.send_message("b").text == "two"
    first, later = server.calls()
    assert later["echoes"] == [0] and first["confirmed"]


@pytest.mark.parametrize("ask", ["chat", "responses", "messages", "gemini"])
def test_plain_answers_wait_for_the_end(server, ask):
    said(server)
    messages = [{"role": "user", "content": "hi"}]
    if ask == "messages":
        client = anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0)
        got = client.messages.create(model="m", max_tokens=9, messages=messages).content[1].text
    elif ask == "gemini":
        client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
        parts = client.models.generate_content(model="m", contents="hi").candidates[0].content.parts
        got = parts[1].text
    else:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)
        if ask == "chat":
            got = client.chat.completions.create(model="m", messages=messages)
            got = got.choices[0].message.content
        else:
            got = client.responses.create(model="m", input="hi").output_text
    assert got == TEXT
    check(server)


def test_node(node_test, server):
    node_test(server, "pieces.test.js")
