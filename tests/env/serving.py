"""Starting the servers that the tests of this folder talk to, and asking them over plain HTTP. Only
the standard library is used.
"""

import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD_DIR") or SOURCE / "build" / "release")
SLOW = os.environ.get("SLUICE_SLOW") == "1"


def wait_for(condition, seconds=15):
    """What `condition` gives when that is true."""
    end = time.monotonic() + seconds
    while not (held := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
    return held


class Served:
    """A server that prints "listening on HOST:PORT" when it is ready. What is in `headers` goes along
    with every request."""

    def __init__(self, program, *arguments, env=None, stderr=subprocess.DEVNULL, cwd=None):
        self.process = subprocess.Popen(
            [str(BUILD / "bin" / program), *map(str, arguments)], stdout=subprocess.PIPE,
            stderr=stderr, stdin=subprocess.DEVNULL, text=True, env={**os.environ, **(env or {})},
            cwd=cwd)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            self.process.wait(10)
            raise RuntimeError(f"{program} said {line!r} and ended with {self.process.returncode}")
        self.address = line.removeprefix("listening on ").strip()
        self.url = "http://" + self.address
        self.headers = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self, seconds=20):
        """Ends it in order: its exit code, and what else it printed."""
        self.process.send_signal(signal.SIGTERM)
        rest = self.process.stdout.read()
        return self.process.wait(seconds), rest

    def fetch(self, path, body=None, method=None, headers=None, timeout=60):
        """The status and the body, parsed if it is JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, method=method,
            headers={"Content-Type": "application/json", **self.headers, **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                status, kind, text = response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            status, kind, text = error.code, error.headers, error.read()
        if "json" in kind.get("Content-Type", ""):
            return status, json.loads(text)
        return status, text.decode()

    def rpc(self, method, params=None, **more):
        message = {"jsonrpc": "2.0", "id": 1, "method": method, **more}
        if params is not None:
            message["params"] = params
        status, answer = self.fetch("/mcp", message)
        assert status == 200, answer
        return answer
