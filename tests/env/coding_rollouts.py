"""What the tests of the coding environment have in common: the arguments of a rollout, with an agent
that does what it is told and with real ones, and asking for it over plain HTTP.
"""

import json
import shutil
import subprocess

import pytest

from serving import SOURCE

AGENTS = SOURCE / "tests" / "system" / "agents"
KEY = "sk-upstream-key-0123456789"
CALL = {"post": '{"model":"m","messages":[{"role":"user","content":"hi"}]}'}

# How each real agent's own tool for files wants its arguments.
SCRIPTS = {
    "opencode": (("write", {"filePath": "/home/user/workdir/hello.py",
                            "content": "print('hello')\n"}), "I wrote hello.py."),
    "pi": (("write", {"path": "hello.py", "content": "print('hello')\n"}), "I wrote hello.py."),
}
# What each calls its limit of tokens.
LIMITS = {"opencode": "max_tokens", "pi": "max_completion_tokens"}
TASK = {"instruction": "Write hello.py, which prints hello.", "api_key": KEY, "model": "m1",
        "verify": ["test -f hello.py", "python3 hello.py | grep -x hello"]}


def arguments(upstream, steps=(CALL,), **more):
    return {"agent": "caller", "base_url": upstream.url, "api_key": KEY, "model": "m",
            "instruction": json.dumps(list(steps)), **more}


def call(server, given):
    """run_rollout over POST /mcp: the result, or the error's message."""
    answer = server.rpc("tools/call", {"name": "run_rollout", "arguments": given})
    if "error" in answer:
        return answer["error"]["message"]
    assert json.loads(answer["result"]["content"][0]["text"]) == json.loads(answer["result"]["data"])
    return json.loads(answer["result"]["data"])


def installed(server, agent):
    if shutil.which("npm") is None:
        pytest.skip(f"no npm: {agent} cannot be installed")
    done = subprocess.run([str(server.process.args[0]), "agents", "install", agent],
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def rollouts(server, state=""):
    return server.fetch(f"/rollouts?state={state}")[1]["rollouts"]


def warnings_of(result):
    """Those about the request; what a machine cannot give to an ordinary user is not its fault."""
    return [text for text in result["warnings"]
            if "the sandbox has one user" not in text and "is not enforced here" not in text]
