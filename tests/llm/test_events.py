"""Streams as clients read them that split text into lines by all that Unicode takes for a line's
end, as Python's splitlines() does.
"""

import json
import urllib.request

import pytest

from server import answer

ENDS = "a\u0085b\u2028c\u2029d"
HI = {"role": "user", "content": "hi"}
WAYS = {
    "chat": ("/v1/chat/completions", {"messages": [HI]}),
    "responses": ("/v1/responses", {"input": "hi"}),
    "messages": ("/v1/messages", {"max_tokens": 99, "messages": [HI]}),
    "gemini": ("/v1beta/models/m:streamGenerateContent?alt=sse",
               {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
}


@pytest.mark.parametrize("dialect", WAYS)
def test_no_text_ends_an_event(server, dialect):
    path, body = WAYS[dialect]
    if dialect != "gemini":
        body = {**body, "model": "m", "stream": True}
    arguments = json.dumps({"text": ENDS}, ensure_ascii=False)
    server.script(answer(ENDS, ("call_ends", "write", arguments), reasoning=ENDS,
                         finish="tool_calls"))
    request = urllib.request.Request(server.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        lines = response.read().decode().splitlines()
    seen = []
    for line in lines:
        if line.startswith("data: {"):
            seen.append(json.loads(line.removeprefix("data: ")))
        else:
            assert not line or line == "data: [DONE]" or line.startswith("event: "), line
    assert ENDS in json.dumps(seen, ensure_ascii=False)
