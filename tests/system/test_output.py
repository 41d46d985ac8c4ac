"""What the command prints: whoever reads it may go, a disk may be full, and an agent may print anything."""

import json
import os
import re
import signal
import subprocess
import time
import unittest

from harness import SystemTest, end

SCRIPT = '[[rules]]\ntext = "hello"\n'
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
# What a terminal would obey, and a line that would be taken for one of ours.
NASTY = "\x1b[31mred\x07\nreward   1.00\r\u202eturned\u2066\x9b5m\x7f"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
AGENT = f"""
name = "nasty"
version = "1"
description = "says what a terminal would obey"
needs = ["python3"]
[install]
commands = ["true"]
program = "python3"
[run]
command = ["{{program}}", "{{home}}/nasty.py", "{{base_url}}"]
prompt = "stdin"
timeout_s = 60
[[files]]
path = "{{home}}/nasty.py"
content = '''
import http.client, json, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(url.hostname, url.port)
connection.request("POST", url.path + "/chat/completions", {CHAT!r})
connection.getresponse().read()
print(json.dumps({{"type": "tool", "name": {NASTY!r}}}))
print(json.dumps({{"type": "error", "message": {NASTY!r}}}))
sys.exit(1)
'''
[dialects.chat]
path = "/v1"
[[events]]
match = {{ "/type" = "error" }}
kind = "error"
text = "/message"
[[events]]
match = {{ "/type" = "tool" }}
kind = "tool"
tool = "/name"
"""


class Output(SystemTest):
    def setUp(self):
        super().setUp()
        self.policy = self.script(SCRIPT)

    def steps(self, *steps):
        return self.task(f"instruction = '''{json.dumps([{'post': CHAT}, *steps])}'''\n"
                         "verify = ['true']\n")

    def run_in_shell(self, redirections, *flags, task=None):
        """With sh's redirections: its exit code, and what came through where nothing was redirected."""
        command = self.arguments(task or self.steps(), self.policy, "caller", *flags)
        return subprocess.run(["sh", "-c", f'"$@" {redirections}', "sh", *command],
                              capture_output=True, text=True, timeout=120, check=False,
                              stdin=subprocess.DEVNULL)

    def reward(self):
        return json.loads((self.out / "result.json").read_text())["reward"]

    def test_json_into_a_full_disk_is_an_error(self):
        for flags in (["--json"], [], ["--json", "--repeat", "2"]):
            done = self.run_in_shell("> /dev/full", *flags)
            self.assertEqual(done.returncode, 69, done.stderr)
            self.assertIn("not all of the output could be written to stdout", done.stderr)
            ended = self.out / ("results.jsonl" if "--repeat" in flags else "result.json")
            self.assertIn('"reward":1', ended.read_text())
        for command in (["doctor", "--json"], ["agents", "list", "--json"]):
            with open("/dev/full", "w") as full:
                done = subprocess.run([self.arguments("", "", "")[0], *command], stdout=full,
                                      stderr=subprocess.PIPE, text=True, check=False)
            self.assertNotEqual(done.returncode, 0, command)
            self.assertIn("could be written", done.stderr)

    def test_a_closed_or_full_stderr_or_stdout_loses_no_rollout(self):
        for redirections, flags, code in [
                ("2>&-", [], 0), ("2> /dev/full", [], 0), ("2>&- < /dev/null", ["--json"], 0),
                (">&-", [], 69), (">&- 2>&-", [], 69), (">&- 2>&- <&-", ["--json"], 69)]:
            with self.subTest(redirections):
                done = self.run_in_shell(redirections, *flags)
                self.assertEqual(done.returncode, code, (done.stdout, done.stderr))
                self.assertEqual(self.reward(), 1)
                # No file of a rollout has taken the place of what was closed.
                for file in self.out.rglob("*"):
                    if file.is_file():
                        self.assertNotIn(b"reward   ", file.read_bytes(), file)

    def test_whoever_reads_may_go_first(self):
        command = self.arguments(self.steps({"sleep": 0.2}), self.policy, "caller", "--repeat", "8",
                                 "--concurrency", "2", "--json")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(end, process)
        self.assertIn(b'"reward":1', process.stdout.readline())
        process.stdout.close()
        process.stderr.close()
        self.assertEqual(process.wait(120), 0)
        self.assertEqual(len((self.out / "results.jsonl").read_text().splitlines()), 8)

    def test_ctrl_c_with_tee_ends_a_batch_in_order(self):
        command = self.arguments(self.steps({"sleep": 1}), self.policy, "caller", "--repeat", "30",
                                 "--concurrency", "2")
        # One group in the foreground, as a terminal has it: the signal reaches tee, too.
        shell = subprocess.Popen(
            ["bash", "-c", 'trap : INT; "$@" 2>&1 | tee /dev/null; exit ${PIPESTATUS[0]}', "bash",
             *command], start_new_session=True, stdout=subprocess.DEVNULL)
        self.addCleanup(end, shell)
        results = self.out / "results.jsonl"
        deadline = time.monotonic() + 60
        while not results.exists() or not results.read_text():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        os.killpg(shell.pid, signal.SIGINT)
        self.assertEqual(shell.wait(60), 130)
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        summary = json.loads((self.out / "summary.json").read_text())
        self.assertTrue(summary["interrupted"])
        self.assertEqual(summary["ended"] + summary["not_run"], 30)
        # What ran went on to its end.
        self.assertTrue(all(line["result"]["reward"] == 1 for line in lines if line.get("result")), lines)

    def test_an_agents_bytes_are_shown_as_what_they_are(self):
        agent = self.file("nasty.toml", AGENT)
        for flags in ([], ["--json"], ["--repeat", "2"], ["--repeat", "2", "--json"]):
            with self.subTest(flags):
                rollout = self.run_rollout(self.steps(), self.policy, agent, *flags)
                self.assertEqual(rollout.code, 1, rollout.stderr)
                for text in (rollout.stdout, rollout.stderr):
                    self.assertIsNone(RAW.search(text.replace("\n", "")), text)
                    self.assertNotRegex(text, r"(?m)^reward   1\.00.*turned")
                if flags == ["--json"]:
                    self.assertIn(NASTY, json.loads(rollout.stdout)["error"])
                elif not flags:
                    self.assertIn(r"\x1b[31mred\x07\nreward   1.00\x0d\u202eturned\u2066\x9b5m\x7f",
                                  rollout.stdout)


if __name__ == "__main__":
    unittest.main()
