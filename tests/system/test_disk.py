"""What a rollout may make the engine hold and write: outputs are not held, and the disk is bounded."""

import json
import os
import re
import subprocess
import unittest

from harness import SLUICE, SystemTest, count, end
from test_trainer import KEYS, Client

AGENT = """
name = "printer"
version = "1"
description = "prints and asks as it is told"
needs = ["python3"]

[install]
commands = ["true"]
program = "python3"

[run]
command = ["{program}", "{home}/printer.py", "{base_url}"]
prompt = "stdin"
timeout_s = 300

[[files]]
path = "{home}/printer.py"
content = '''
import http.client, json, sys, urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
told = json.load(sys.stdin)
for _ in range(told.get("lines", 0)):
    line = json.dumps({"type": "text", "text": told["line"]}) if told.get("events") else told["line"]
    print(line)
    print(line, file=sys.stderr)
sys.stdout.flush()
for number in range(told.get("posts", 1)):
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=250)
    text = chr(97 + number % 26) * told.get("size", 1)
    connection.request("POST", url.path + "/chat/completions", json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": text}]}))
    if connection.getresponse().status != 200:
        sys.exit(1)
    connection.close()
'''

[dialects.chat]
path = "/v1"

[[events]]
match = { "/type" = "text" }
kind = "text"
text = "/text"
"""
MiB = 1 << 20


class Disk(SystemTest):
    def setUp(self):
        super().setUp()
        self.agent = self.file("printer.toml", AGENT)

    def instructed(self, more="", **told):
        return self.task(f"instruction = '''{json.dumps(told)}'''\nverify = ['true']\n{more}")

    def run_one(self, more="", **told):
        return self.run_rollout(self.instructed(more, **told), self.script('[[rules]]\ntext = "hi"\n'),
                                self.agent)

    def written(self, rollout):
        return sum(file.stat().st_size for file in rollout.directory.iterdir()
                   if file.suffix in (".jsonl", ".bodies") or file.name.startswith("agent."))

    def test_what_an_agent_prints_is_kept_whole(self):
        rollout = self.run_one(lines=30_000, line="y" * 99)
        self.assertEqual(rollout.result["error_kind"], None, rollout.result)
        for name in ("stdout", "stderr"):
            text = (rollout.directory / f"agent.{name}").read_text()
            self.assertEqual(text, ("y" * 99 + "\n") * 30_000)
        self.assertTrue(rollout.result["agent_log_tail"].endswith("y\n"))

    def test_requests_over_the_bound_end_the_agent_and_the_reward_stands(self):
        rollout = self.run_one("[budget]\nhost_disk_mb = 1\n", posts=20, size=300_000)
        self.assertEqual(rollout.result["error_kind"], "budget", rollout.result)
        self.assertIn("1048576 bytes of this machine's disk", rollout.result["error"])
        self.assertEqual(rollout.result["reward"], 1)
        self.assertLess(rollout.result["llm"]["calls"], 6)
        self.assertLess(self.written(rollout), 2 * MiB)

    def test_output_and_events_stop_at_the_bound(self):
        for events in (False, True):
            rollout = self.run_one("[budget]\nhost_disk_mb = 1\n", lines=60_000, line="y" * 99,
                                   events=events)
            self.assertEqual(rollout.result["error_kind"], "budget", rollout.result)
            self.assertEqual(rollout.result["reward"], 1)
            # The last of what was printed is there all the same.
            self.assertLess(self.written(rollout), MiB + 512 * 1024)
            self.assertIn("is kept in part", " ".join(rollout.result["warnings"]))

    def test_many_that_print_freely_do_not_fill_the_engine(self):
        many = 64
        task = self.instructed(lines=count(60_000, 200_000), line="y" * 99)
        engine = subprocess.Popen(
            self.arguments(task, "trainer", self.agent, "--repeat", str(many), "--concurrency",
                           str(many), "--trainer-listen", "127.0.0.1:0", "--trainer-text"),
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, **KEYS})
        self.addCleanup(engine.stderr.close)
        self.addCleanup(end, engine)
        url = re.search(r"http://\S+", engine.stderr.readline())[0]
        trainer = Client(url, KEYS["SLUICE_TRAINER_KEY"])
        taken = []
        while len(taken) < many:
            taken += [item for item in trainer.post(
                "/v1/next_batch", {"max": many, "wait_s": 60, "trainer": "t"}, timeout=90)["items"]
                if item["type"] == "call"]
        # Each has printed all it prints, and none has ended.
        status = open(f"/proc/{engine.pid}/status").read()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10
        self.assertLess(peak, 200 * MiB)
        for item in taken:
            trainer.post("/v1/reply", {"call": item["id"], "completion": {
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"},
                             "finish_reason": "stop"}]}})
        rest = engine.stderr.read()
        self.assertEqual(engine.wait(120), 0, rest)
        lines = (self.out / "results.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(line)["result"]["reward"] for line in lines], [1] * many)


if __name__ == "__main__":
    unittest.main()
