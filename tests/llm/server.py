"""The scripted gate of the dialect tests: starts dialect_test_server, gives it answers,
and asks what came. Only the standard library is used.
"""

import json
import os
import pathlib
import subprocess
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD_DIR") or SOURCE / "build" / "release")


class Server:
    def __init__(self, keep_alive_ms=20):
        self.keep_alive_ms = keep_alive_ms

    def __enter__(self):
        self.process = subprocess.Popen([BUILD / "tests" / "llm" / "dialect_test_server",
                                         str(self.keep_alive_ms)],
                                        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.url, self.control = ("http://" + a for a in self.process.stdout.readline().split())
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def script(self, *steps):
        """The answers to the calls to come; forgets what came."""
        request = urllib.request.Request(self.control + "/script", json.dumps(steps).encode())
        urllib.request.urlopen(request, timeout=30).close()

    def get(self, path):
        with urllib.request.urlopen(self.control + path, timeout=30) as response:
            return json.load(response)

    def calls(self):
        return self.get("/calls")

    def ended(self):
        """The calls, as soon as all have ended: a client has its answer before the gate knows."""
        end = time.monotonic() + 30
        while True:
            calls = self.calls()
            if (calls and all("outcome" in call for call in calls)) or time.monotonic() > end:
                return calls
            time.sleep(0.01)

    def total(self, dialect):
        """How many calls there were since the server was started."""
        return self.get("/total").get(dialect, 0)


def answer(text="", *tools, finish="stop", reasoning="", seal="", refusal="", usage=(1000, 50),
           **step):
    """A step that answers; each tool is (id, name, arguments as text)."""
    choice = {"finish": finish, "text": text, "reasoning": reasoning, "reasoning_seal": seal,
              "refusal": refusal,
              "tool_calls": [{"id": i, "name": n, "arguments": a} for i, n, a in tools]}
    body = {"origin": "canned", "choices": [choice]}
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return {"answer": body, **step}


def problem(kind, message="", end_agent=False, **step):
    return {"problem": {"kind": kind, "message": message, "end_agent": end_agent}, **step}


def outcome_of(kind):
    """What becomes of a call that gets such a problem."""
    return "failed" if kind in ("unavailable", "internal") else "refused"


HANG_UP = {"hang_up": True}
# With this first, nobody is waited for who has hung up.
IMPATIENT = {"options": {"grace_ms": 0}}
# With this first, an equal request soon after an answer is taken for one sent again.
RESENDS = {"options": {"resend_window_s": 60}}
# An image of one pixel, in base64.
PNG = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
       "rkJggg==")
