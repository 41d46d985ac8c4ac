"""The vendors' asynchronous Python SDKs, whose caller cancels a call: it is over at the gate, with one
outcome and no retry, and the same again is another call.
"""

import asyncio

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from server import IMPATIENT, answer

MODEL = "mock-model"
MESSAGES = [{"role": "user", "content": "hi"}]


async def chat(server, streamed):
    async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="k") as client:
        if not streamed:
            completion = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
            return completion.choices[0].message.content
        async with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
            return (await stream.get_final_completion()).choices[0].message.content


async def responses(server, streamed):
    async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="k") as client:
        if not streamed:
            return (await client.responses.create(model=MODEL, input="hi")).output_text
        async with client.responses.stream(model=MODEL, input="hi") as stream:
            return (await stream.get_final_response()).output_text


async def messages(server, streamed):
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="k") as client:
        request = dict(model=MODEL, messages=MESSAGES, max_tokens=9)
        if not streamed:
            return (await client.messages.create(**request)).content[0].text
        async with client.messages.stream(**request) as stream:
            return await stream.get_final_text()


async def gemini(server, streamed):
    options = types.HttpOptions(base_url=server.url)
    async with genai.Client(api_key="k", http_options=options).aio as client:
        if not streamed:
            return (await client.models.generate_content(model=MODEL, contents="hi")).text
        chunks = await client.models.generate_content_stream(model=MODEL, contents="hi")
        return "".join([chunk.text or "" async for chunk in chunks])


async def until(server, wanted):
    async with asyncio.timeout(20):
        while not wanted(calls := server.calls()):
            await asyncio.sleep(0.02)
    return calls


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("ask", [chat, responses, messages, gemini])
def test_cancelling(server, ask, streamed):
    async def run():
        server.script(IMPATIENT, answer("late", after_ms=60_000), answer("new"))
        asking = asyncio.ensure_future(ask(server, streamed))
        await until(server, lambda calls: len(calls) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        (call,) = await until(server, lambda calls: "outcome" in calls[0])
        assert call["outcome"] == "undelivered" and "resends" not in call
        assert await ask(server, streamed) == "new"
        assert [call["outcome"] for call in server.ended()] == ["undelivered", "delivered"]

    asyncio.run(run())
