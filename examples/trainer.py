#!/usr/bin/env python3
"""The smallest trainer: takes agents' LLM calls from Sluice's trainer API, answers them, and says what
ended. A first lesson, with nothing but the standard library; docs/trainer-api.md has the rest.

    export SLUICE_TRAINER_KEY=$(head -c 32 /dev/urandom | base64)
    sluice run examples/hello/task.toml --agent opencode --policy trainer &
    python3 examples/trainer.py http://127.0.0.1:8790
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request


def policy(request):
    """The answer to one call. Here you would ask an inference server with your newest weights, and reply
    with {"completion": ...}, its chat.completion object as it came, token ids and logprobs included.
    What follows was sampled by nobody and says so: it is delivered, and never trained on."""
    said = request["messages"][-1]["text"][:1000]
    return {"origin": "injected", "choices": [{"text": f"You said: {said}"}]}


def answer(item):
    """What a call is replied. "request" is the same form whatever the agent's dialect; "body" is what it
    sent. An item without a request says why ("request_error"); one mistake of ours costs one call."""
    try:
        return {"answer": policy(item["request"])}
    except Exception as error:
        return {"refusal": {"message": f"no answer: {item.get('request_error') or repr(error)}"[:4000]}}


class Gate:
    def __init__(self, url, key):
        self.url, self.key = url, key

    def post(self, path, message):
        request = urllib.request.Request(self.url + path, json.dumps(message).encode(),
                                         {"Authorization": "Bearer " + self.key})
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)


def wait_for(url):
    """The gate may be a moment behind whoever started both."""
    for _ in range(100):
        try:
            urllib.request.urlopen(url + "/health", timeout=10).close()
            return
        except OSError:
            time.sleep(0.1)


def train(gate):
    afresh = True  # the first time: what an earlier process of this name took comes again
    while True:
        taken = gate.post("/v1/next_batch", {"trainer": "example", "max": 16, "wait_s": 30,
                                             "canonical": True, "afresh": afresh})
        afresh = False
        replies = []
        for item in taken["items"]:
            if item["type"] == "call":
                replies.append({"call": item["id"], **answer(item)})
            elif item["type"] == "tool":  # of tools that the task leaves to the trainer
                replies.append({"call": item["id"],
                                "tool_result": {"text": "this trainer has no tools", "failed": True}})
            elif item["type"] == "ended":
                print(f"rollout {item['rollout']} has ended: {item['reason']}", flush=True)
        if replies:
            told = gate.post("/v1/reply", {"trainer": "example", "wait_s": 10, "replies": replies})
            for result in told["results"]:
                print(f"call {result['call']}: {result.get('outcome') or result.get('error') or 'open'}",
                      flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or "SLUICE_TRAINER_KEY" not in os.environ:
        sys.exit("usage: SLUICE_TRAINER_KEY=... trainer.py URL")
    try:
        wait_for(sys.argv[1])
        train(Gate(sys.argv[1], os.environ["SLUICE_TRAINER_KEY"]))
    except urllib.error.HTTPError as error:
        sys.exit(f"refused: {error.read().decode()}")
    except OSError as error:
        print(f"the gate is gone: {error}")
