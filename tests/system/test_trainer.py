"""The trainer API from outside: `sluice gate serve` for agents in sandboxes of others, and `sluice run
--policy trainer`. The trainer and the agents here are plain HTTP clients."""

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
import unittest
import urllib.parse

from harness import SLUICE, SystemTest

KEYS = {"SLUICE_TRAINER_KEY": "trainer-key-of-the-test", "SLUICE_OPERATOR_KEY": "operator-key-of-the-test"}


class Client:
    """JSON over HTTP, one connection for each request."""

    def __init__(self, url, key):
        self.url = urllib.parse.urlsplit(url)
        self.key = key

    def ask(self, method, path, body=None, timeout=60):
        connection = http.client.HTTPConnection(self.url.netloc, timeout=timeout)
        try:
            connection.request(method, self.url.path + path, None if body is None else json.dumps(body),
                               {"Authorization": "Bearer " + self.key})
            response = connection.getresponse()
            content = response.read()
            kind = response.headers.get("Content-Type", "")
            return response.status, json.loads(content) if "json" in kind else content.decode()
        finally:
            connection.close()

    def post(self, path, body=None, **more):
        status, answer = self.ask("POST", path, body or {}, **more)
        if status >= 300:
            raise AssertionError(f"{path}: {status} {answer}")
        return answer


def completion(text, ids=(7, 8)):
    return {"object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                         "finish_reason": "stop", "token_ids": list(ids),
                         "logprobs": {"content": [{"token": "", "logprob": -0.5} for _ in ids]}}],
            "prompt_token_ids": [1, 2, 3], "usage": {"prompt_tokens": 3, "completion_tokens": len(ids)}}


def chat(text):
    return {"model": "policy", "messages": [{"role": "user", "content": text}]}


class Agent(threading.Thread):
    """One call, answered some time."""

    def __init__(self, registered, text):
        super().__init__(daemon=True)
        self.client = Client(registered["url"], registered["key"])
        self.text = text
        self.start()

    def run(self):
        self.status, self.answer = self.client.ask("POST", "/v1/chat/completions", chat(self.text))

    def content(self):
        self.join(60)
        return self.answer["choices"][0]["message"]["content"]


class GateServe(SystemTest):
    def setUp(self):
        super().setUp()
        self.server = subprocess.Popen(
            [SLUICE, "gate", "serve", "--listen", "127.0.0.1:0", "--trainer-listen", "127.0.0.1:0",
             "--out", str(self.tmp / "traces"), "--log", str(self.tmp / "log")],
            stdout=subprocess.PIPE, env={**os.environ, **KEYS}, text=True)
        self.addCleanup(self.server.stdout.close)
        self.addCleanup(self.stop)
        self.agents_url = self.server.stdout.readline().split()[-1]
        self.api_url = self.server.stdout.readline().split()[-1]
        self.trainer = Client(self.api_url, KEYS["SLUICE_TRAINER_KEY"])
        self.operator = Client(self.api_url, KEYS["SLUICE_OPERATOR_KEY"])

    def stop(self):
        if self.server.poll() is None:
            self.server.send_signal(signal.SIGTERM)
        self.assertEqual(self.server.wait(30), 0)

    def register(self, **more):
        return self.operator.post("/v1/rollouts", more)

    def take(self, **more):
        return self.trainer.post("/v1/next_batch", {"max": 16, "wait_s": 20, **more})["items"]

    def test_finding_78_an_agent_elsewhere_is_answered_by_a_trainer_elsewhere(self):
        registered = self.register(id="mine")
        self.assertEqual(registered["url"], self.agents_url + "/rollout/mine")
        agent = Agent(registered, "hello?")
        (item,) = self.take()
        self.assertEqual(item["body"]["messages"][0]["content"], "hello?")
        told = self.trainer.post("/v1/reply", {"call": item["id"], "completion": completion("hello!"),
                                               "wait_s": 20})
        self.assertEqual(told["results"][0]["outcome"], "delivered")
        self.assertEqual(agent.content(), "hello!")
        self.operator.ask("DELETE", "/v1/rollouts/mine")
        self.assertEqual(self.take()[0]["type"], "ended")
        trace = (self.tmp / "traces" / "mine.jsonl").read_text()
        self.assertIn('"ids":[7,8]', trace)
        self.assertNotIn(registered["key"], trace + (self.tmp / "log").read_text())

    def test_finding_50_keys_of_one_rollout_open_no_other_and_no_api(self):
        one, two = self.register(), self.register()
        for url, key in ((one["url"], two["key"]), (two["url"], one["key"])):
            self.assertEqual(Client(url, key).ask("POST", "/v1/chat/completions", chat("x"))[0], 404)
        self.assertEqual(Client(one["url"], "wrong").ask("POST", "/v1/chat/completions", chat("x"))[0], 401)
        self.assertEqual(Client(self.api_url, one["key"]).ask("POST", "/v1/next_batch", {})[0], 401)
        self.assertEqual(self.operator.ask("POST", "/v1/next_batch", {})[0], 403)
        self.assertEqual(self.trainer.ask("POST", "/v1/rollouts", {})[0], 403)

    def test_a_killed_trainer_loses_no_call(self):
        registered = self.register()
        agents = [Agent(registered, f"question {i}") for i in range(8)]
        held = []
        while len(held) < 8:
            held += self.take(trainer="node-1", lease_s=3600)
        # It dies here and starts again.
        again = self.take(trainer="node-1", lease_s=3600, afresh=True)
        self.assertEqual({item["id"] for item in again}, {item["id"] for item in held})
        told = self.trainer.post("/v1/reply", {"wait_s": 20, "replies": [
            {"call": item["id"], "completion": completion("to " + item["body"]["messages"][0]["content"])}
            for item in again]})
        self.assertEqual([result["outcome"] for result in told["results"]], ["delivered"] * 8)
        for i, agent in enumerate(agents):
            self.assertEqual(agent.content(), f"to question {i}")

    def test_a_pause_holds_calls_back(self):
        agent = Agent(self.register(), "x")
        self.trainer.post("/v1/pause")
        self.assertEqual([i for i in self.take(wait_s=0.3) if i["type"] == "call"], [])
        self.trainer.post("/v1/resume", {"version": "step-2"})
        (item,) = self.take()
        self.assertEqual(item["version"], "step-2")
        self.trainer.post("/v1/reply", {"call": item["id"], "refusal": {"message": "enough"}})
        agent.join(20)
        self.assertEqual(agent.status, 400)

    def test_metrics_state_and_health(self):
        self.register()
        status, metrics = self.trainer.ask("GET", "/metrics")
        self.assertEqual(status, 200)
        self.assertIn("sluice_gate_rollouts_open 1\n", metrics)
        self.assertEqual(self.operator.ask("GET", "/v1/state")[1]["open_rollouts"], 1)
        self.assertEqual(Client(self.api_url, "").ask("GET", "/health")[1], {"status": "ok"})
        self.assertEqual(Client(self.agents_url, "").ask("GET", "/health")[1], {"status": "ok"})

    def test_sigterm_ends_what_is_open(self):
        agent = Agent(self.register(), "x")
        self.take()
        began = time.monotonic()
        self.stop()
        self.assertLess(time.monotonic() - began, 15)
        agent.join(20)
        self.assertFalse(agent.is_alive())


class Start(SystemTest):
    def test_finding_45_keys_that_are_not_given_are_made_and_kept_private(self):
        server = subprocess.Popen([SLUICE, "gate", "serve", "--listen", ":0", "--trainer-listen", ":0",
                                   "--keys-file", str(self.tmp / "keys"), "--out", str(self.tmp / "t")],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(server.stdout.close)
        lines = [server.stdout.readline() for _ in range(3)]
        self.assertIn("http://127.0.0.1:", lines[0])
        self.assertIn("http://127.0.0.1:", lines[1])
        self.assertEqual((self.tmp / "keys").stat().st_mode & 0o777, 0o600)
        keys = dict(line.split("=") for line in (self.tmp / "keys").read_text().split())
        self.assertEqual(len(set(keys.values())), 2)
        self.assertEqual(Client(lines[1].split()[-1], keys["SLUICE_TRAINER_KEY"]).ask(
            "GET", "/v1/state")[0], 200)
        server.send_signal(signal.SIGINT)
        self.assertEqual(server.wait(30), 0)

    def test_finding_06_a_blank_key_is_refused(self):
        for name in "SLUICE_TRAINER_KEY", "SLUICE_OPERATOR_KEY":
            for key in " ", "two words", "line\n":
                done = self.sluice("gate", "serve", "--listen", ":0", "--trainer-listen", ":0",
                                   "--out", self.tmp / "t", env={**os.environ, name: key})
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(f"{name} holds blanks", done.stderr)
                self.assertNotIn("words", done.stderr)

    def test_wrong_addresses_are_told(self):
        done = self.sluice("gate", "serve", "--listen", "nowhere")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--listen nowhere: must be HOST:PORT", done.stderr)


class RunWithTrainer(SystemTest):
    def test_finding_76_a_rollout_of_our_own_waits_for_its_trainer(self):
        task = self.task(f"""
id = "t"
instruction = {json.dumps(json.dumps([{"post": json.dumps(chat("hello"))}]))}
verify = ["true"]
""")
        done = subprocess.Popen(
            self.arguments(task, "trainer", "caller", "--trainer-listen", "127.0.0.1:0"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **KEYS})
        line = ""
        while "trainer API at" not in line:
            line = done.stderr.readline()
            self.assertNotEqual(line, "", "the API was not announced")
        trainer = Client(re.search(r"http://\S+", line).group(), KEYS["SLUICE_TRAINER_KEY"])
        kinds = []
        while "ended" not in kinds:
            for item in trainer.post("/v1/next_batch", {"wait_s": 30})["items"]:
                kinds.append(item["type"])
                if item["type"] == "call":
                    trainer.post("/v1/reply", {"call": item["id"], "completion": completion("hi")})
        done.communicate(timeout=60)
        result = json.loads((self.out / "result.json").read_text())
        self.assertEqual(result["error"], None)
        self.assertEqual(result["policy"], "trainer")
        self.assertEqual(kinds, ["call", "ended"])
        self.assertEqual(result["llm"]["turns"], 1)

    def test_finding_77_opencode_calls_a_tool_that_the_trainer_answers(self):
        task = self.task("""
id = "t"
instruction = "What does 'sluice' mean here? Write it to answer.txt."
verify = ["true"]
[[tools]]
name = "lookup"
description = "Looks a word up in the glossary."
parameters = { type = "object", properties = { word = { type = "string" } }, required = ["word"] }
""")
        done = subprocess.Popen(
            self.arguments(task, "trainer", "opencode", "--trainer-listen", "127.0.0.1:0"),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **KEYS})
        self.addCleanup(done.stderr.close)
        line = ""
        while "trainer API at" not in line:
            line = done.stderr.readline()
            self.assertNotEqual(line, "", "the API was not announced")
        threading.Thread(target=done.stderr.read, daemon=True).start()
        trainer = Client(re.search(r"http://\S+", line).group(), KEYS["SLUICE_TRAINER_KEY"])
        asked, seen, offered = [], [], set()
        ended = False
        while not ended:
            for item in trainer.post("/v1/next_batch", {"wait_s": 60})["items"]:
                if item["type"] == "ended":
                    ended = True
                elif item["type"] == "tool":
                    asked.append((item["tool"], item["arguments"]))
                    trainer.post("/v1/reply", {"call": item["id"],
                                               "tool_result": {"text": "a gate for water"}})
                else:
                    offered |= {t["function"]["name"] for t in item["body"].get("tools", [])}
                    last = item["body"]["messages"][-1]
                    seen.append(last)
                    answer = completion("A gate for water.")
                    if last["role"] == "user":
                        answer = completion("")
                        answer["choices"][0]["message"]["tool_calls"] = [
                            {"id": "call_1", "type": "function", "function": {
                                "name": "gate_lookup", "arguments": '{"word": "sluice"}'}}]
                    trainer.post("/v1/reply", {"call": item["id"], "completion": answer})
        done.wait(60)
        result = json.loads((self.out / "result.json").read_text())
        self.assertEqual(result["error"], None)
        self.assertIn("gate_lookup", offered)
        self.assertEqual(asked, [("lookup", {"word": "sluice"})])
        self.assertEqual(seen[-1]["role"], "tool")
        self.assertIn("a gate for water", json.dumps(seen[-1]))


if __name__ == "__main__":
    unittest.main()
