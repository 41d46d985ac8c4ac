"""OpenCode, as it comes, in each dialect that it speaks: tools, parallel calls, reasoning, arguments
that are no JSON, keep-alive frames, and errors that have to end it.

It is configured as agents/opencode.toml configures it, and runs outside of any sandbox: what is
tested is the wire. Needs npm, or the bundle in the cache: `sluice agents install opencode`.
"""

import json
import os
import subprocess

import pytest

from bundles import bundle
from server import answer, problem

DIALECTS = {
    "chat": ("@ai-sdk/openai-compatible", "/v1"),
    "responses": ("@ai-sdk/openai", "/v1"),
    "messages": ("@ai-sdk/anthropic", "/v1"),
    "gemini": ("@ai-sdk/google", "/v1beta"),
}


@pytest.fixture(scope="module")
def opencode():
    return bundle("opencode")


class Run:
    """One run of OpenCode with the prompt "Write hello.txt" against the scripted server."""

    def __init__(self, opencode, server, dialect, tmp_path):
        spec, place = opencode
        provider, path = DIALECTS[dialect]
        config = spec["files"][0]["content"]
        for name, value in {"model|json": "mock-model", "provider": provider, "key|json": "k",
                            "base_url": server.url + path, "context_window": "131072",
                            "max_output": "8192"}.items():
            config = config.replace("{" + name + "}", value)
        config = json.loads(config)
        config["provider"]["gate"]["models"]["mock-model"]["reasoning"] = True
        home = tmp_path / "home"
        self.work = tmp_path / "work"
        folder = home / ".config" / "opencode"
        folder.mkdir(parents=True)
        self.work.mkdir()
        (folder / "opencode.json").write_text(json.dumps(config))
        program = spec["bundle"]["program"].replace("{bundle}", str(place))
        command = [program, *spec["run"]["command"][1:], *spec["run"]["approvals_bypass"]]
        done = subprocess.run(
            command, cwd=self.work, input="Write hello.txt", text=True, check=False, timeout=120,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(home), **spec["run"]["env"]})
        self.code, self.output = done.returncode, done.stdout
        self.calls = server.calls()


WRITE = answer("I will write.\n",
               ("call_1", "write", '{"filePath": "hello.txt",\n "content": "h\\u00e9llo\\n"}'),
               reasoning="First a file.", seal="c2VhbA==", finish="tool_calls", keep_alives=2)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_conversation_with_tools(opencode, server, dialect, tmp_path):
    server.script(
        WRITE,
        answer("", ("call_2", "bash", '{"command": "cat hello.txt", "description": "d"}'),
               ("call_3", "bash", '{"command": "echo two", "description": "d"}'),
               finish="tool_calls", keep_alives=1),
        answer("", ("call_4", "bash", "{oops"), finish="tool_calls"),
        answer("All done."))
    run = Run(opencode, server, dialect, tmp_path)
    assert run.code == 0, run.output
    assert (run.work / "hello.txt").read_text() == "héllo\n"
    assert "All done." in run.output
    assert [call["dialect"] for call in run.calls] == [dialect] * 4
    for turn, call in enumerate(run.calls):
        # Each request holds all answers so far, and all that was said before them.
        assert call["echoes"] == call["extends"] == list(range(turn)), (turn, call["messages"])
        assert {"write", "bash"} <= set(call["tool_names"])
        assert call["system"].startswith("You are opencode")
    messages = run.calls[-1]["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "assistant",
                                             "tool", "tool", "assistant", "tool"]
    assert messages[1]["text"] == "Write hello.txt"
    assert messages[2]["text"] == "I will write.\n"
    assert messages[2]["reasoning"] == "First a file."
    assert messages[2].get("reasoning_seal", "") == ("" if dialect == "chat" else "c2VhbA==")
    assert [(m["tool_call_id"], m["text"]) for m in messages[5:7]] == [
        ("call_2", messages[5]["text"]), ("call_3", messages[6]["text"])]
    assert "héllo" in messages[5]["text"] and "two" in messages[6]["text"]
    assert "invalid" in messages[8]["text"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_answers_in_pieces(opencode, server, dialect, tmp_path):
    server.script(
        answer("I will write, ☃.\n", ("call_1", "write", '{"filePath": "a.txt", "content": "a"}'),
               reasoning="First a file.", finish="tool_calls", pieces_ms=10),
        answer("All of it is done.", pieces_ms=10))
    run = Run(opencode, server, dialect, tmp_path)
    assert run.code == 0, run.output
    assert (run.work / "a.txt").read_text() == "a"
    assert "All of it is done." in run.output
    first, later = run.calls
    assert later["echoes"] == [0] and first["confirmed"]
    turn = next(m for m in later["messages"] if m["role"] == "assistant")
    assert turn["text"] == "I will write, ☃.\n"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("keep_alives", [0, 2])
def test_an_end_is_an_end(opencode, server, dialect, keep_alives, tmp_path):
    """No second call, whether the status could still be chosen or was spent on a stream."""
    server.script(WRITE, problem("exhausted", "rate limit", end_agent=True, keep_alives=keep_alives))
    run = Run(opencode, server, dialect, tmp_path)
    assert run.code == 1, run.output
    assert len(run.calls) == 2


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("said", ["", "Done."])
def test_an_answer_without_usage_ends_the_run(opencode, server, dialect, said, tmp_path):
    server.script(answer(said, usage=None))
    run = Run(opencode, server, dialect, tmp_path)
    assert run.code == 0, run.output
    assert len(run.calls) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_empty_answer_ends_the_run(opencode, server, dialect, tmp_path):
    server.script(answer(""))
    run = Run(opencode, server, dialect, tmp_path)
    assert run.code == 0, run.output
    assert len(run.calls) == 1
