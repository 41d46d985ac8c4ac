"""The trainer API from outside: `sluice gate serve` for agents in sandboxes of others, and `sluice run
--policy trainer`. The trainer and the agents here are plain HTTP clients."""

import contextlib
import http.client
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
import urllib.parse

from harness import HERE, SLUICE, SOURCE, SystemTest, Trace, end

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


def chat(said):
    messages = said if isinstance(said, list) else [{"role": "user", "content": said}]
    return {"model": "policy", "messages": messages}


class Agent(threading.Thread):
    """One call, answered some time."""

    def __init__(self, registered, said):
        super().__init__(daemon=True)
        self.client = Client(registered["url"], registered["key"])
        self.said = said
        self.start()

    def run(self):
        self.status, self.answer = self.client.ask("POST", "/v1/chat/completions", chat(self.said))

    def content(self):
        self.join(60)
        return self.answer["choices"][0]["message"]["content"]


# A trainer in a process of its own: takes `calls` calls, answers the first `answers` of them, says what it
# has taken, and waits for more.
TRAINER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from test_trainer import Client, completion, reply_to
url, taker, calls, answers = sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
trainer = Client(url, os.environ["SLUICE_TRAINER_KEY"])
taken = []
while len(taken) < calls:
    taken += trainer.post("/v1/next_batch", {"max": calls, "wait_s": 60, **taker}, timeout=90)["items"]
for item in taken[:answers]:
    trainer.post("/v1/reply", {"trainer": taker["trainer"], "wait_s": 60, **reply_to(item)}, timeout=90)
print(json.dumps([item["id"] for item in taken]), flush=True)
trainer.post("/v1/next_batch", {"wait_s": 300, **taker}, timeout=400)
"""


def reply_to(item):
    return {"call": item["id"], "completion": completion("to " + item["body"]["messages"][0]["content"])}


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

    def kill_a_trainer(self, taker, calls, answers):
        """Has a trainer take `calls` calls and answer some, and kills it; the ids of those it still held."""
        trainer = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(HERE), self.api_url, json.dumps(taker), str(calls),
             str(answers)], stdout=subprocess.PIPE, env={**os.environ, **KEYS}, text=True)
        self.addCleanup(trainer.stdout.close)
        self.addCleanup(end, trainer)
        taken = json.loads(trainer.stdout.readline())
        trainer.send_signal(signal.SIGKILL)
        self.assertEqual(trainer.wait(30), -signal.SIGKILL)
        self.assertEqual(len(set(taken)), calls)
        return taken[answers:]

    def test_a_killed_trainer_loses_no_call(self):
        # Who comes after it: itself, started again, long before its lease is over; or another, when it is.
        again = {"trainer": "node-1", "lease_s": 3600}
        for taker, next_taker in ((again, {**again, "afresh": True}),
                                  ({"trainer": "node-2", "lease_s": 1}, {"trainer": "node-3"})):
            with self.subTest(taker=taker):
                registered = self.register()
                agents = [Agent(registered, f"question {i}") for i in range(8)]
                lost = self.kill_a_trainer(taker, calls=8, answers=3)
                items = []
                while len(items) < len(lost):
                    items += self.take(wait_s=60, **next_taker)
                    next_taker = {**next_taker, "afresh": False}
                self.assertEqual(sorted(item["id"] for item in items), sorted(lost))
                self.assertEqual({item["deliveries"] for item in items}, {2})
                told = self.trainer.post("/v1/reply", {"wait_s": 60, "replies": [
                    reply_to(item) for item in items]}, timeout=90)
                self.assertEqual([result["outcome"] for result in told["results"]],
                                 ["delivered"] * len(lost))
                for i, agent in enumerate(agents):
                    self.assertEqual(agent.content(), f"to question {i}")
                # Each was answered once, whoever did it.
                trace = Trace(self.tmp / "traces" / f"{registered['rollout']}.jsonl")
                for kind in "arrived", "answered", "ended":
                    self.assertEqual(len(trace.of(kind)), len(agents), kind)
                self.assertEqual({call["outcome"] for call in trace.calls()}, {"delivered"})

    def test_a_trainers_prompts_are_written_once(self):
        registered = self.register(id="mine")
        prompt, prompts = list(range(1000)), []
        for turn in range(8):
            agent = Agent(registered, f"question {turn}")
            (item,) = self.take()
            answer = completion("x", ids=[7, turn])
            answer["prompt_token_ids"] = list(prompt)
            prompts.append(list(prompt))
            told = self.trainer.post("/v1/reply", {"call": item["id"], "completion": answer})
            self.assertTrue(told["results"][0]["accepted"])
            agent.join(20)
            prompt += [7, turn, 100 + turn]
        path = self.tmp / "traces" / "mine.jsonl"
        trace = Trace(path)
        written = [line["answer"] for line in trace.of("answered")]
        self.assertEqual([answer["prompt_ids"] for answer in written],
                         [prompts[0]] + [[100 + turn] for turn in range(7)])
        calls = trace.calls()
        self.assertEqual([answer.get("prompt_after") for answer in written],
                         [None] + [call["call"] for call in calls[:-1]])
        self.assertEqual([call["answer"]["prompt_ids"] for call in calls], prompts)
        self.assertEqual(trace.of("opened")[0]["version"], 3)

    def state(self):
        return self.trainer.ask("GET", "/v1/state")[1]

    def wait_for_a_call(self):
        """Until one waits for a trainer."""
        deadline = time.monotonic() + 60
        while self.state()["waiting"] == 0:
            self.assertLess(time.monotonic(), deadline, "no call came")
            time.sleep(0.01)

    def test_what_a_rollout_may_write_to_the_disk_is_bounded(self):
        registered = self.register(id="mine", budget={"host_disk_mb": 1})
        for letter in "abcd":
            agent = Agent(registered, letter * 300_000)
            (item,) = self.take()
            self.trainer.post("/v1/reply", {"call": item["id"], "completion": completion("y"),
                                            "wait_s": 20})
            self.assertEqual(agent.content(), "y")
        status, refused = Client(registered["url"], registered["key"]).ask(
            "POST", "/v1/chat/completions", chat("one more"))
        self.assertEqual(status, 400, refused)
        books = self.operator.ask("GET", "/v1/rollouts/mine")[1]
        self.assertEqual(books["budget_reason"],
                         "the budget of 1048576 bytes of this machine's disk is used up")
        written = sum(file.stat().st_size for file in (self.tmp / "traces").iterdir())
        self.assertLess(written, 1536 * 1024)

    def test_a_pause_holds_calls_back(self):
        registered = self.register()
        self.trainer.post("/v1/pause")
        agent = Agent(registered, "x")
        self.wait_for_a_call()
        self.assertTrue(self.state()["paused"])
        self.assertEqual(self.take(wait_s=0), [])
        self.assertEqual(self.take(wait_s=0.3), [])
        self.trainer.post("/v1/resume", {"version": "step-2"})
        (item,) = self.take()
        self.assertEqual((item["type"], item["version"]), ("call", "step-2"))
        self.trainer.post("/v1/reply", {"call": item["id"], "refusal": {"message": "enough"}})
        agent.join(20)
        self.assertEqual(agent.status, 400)

    def test_tools_are_added_to_what_the_trainer_sees_and_to_nothing_else(self):
        registered = self.register(id="mine", tools_in_requests=True, tools=[
            {"name": "lookup", "description": "Looks up.", "parameters": {"type": "object"}}])
        agent = Agent(registered, "hello?")
        (item,) = self.take()
        self.assertEqual(item["body"], {**chat("hello?"), "tools": [{"type": "function", "function": {
            "name": "lookup", "description": "Looks up.", "parameters": {"type": "object"}}}]})
        answer = completion("", ids=[7])
        answer["choices"][0]["message"]["tool_calls"] = [
            {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}]
        self.trainer.post("/v1/reply", {"call": item["id"], "completion": answer, "wait_s": 20})
        agent.join(20)
        # The agent has offered no such tool, and sees the call of it all the same.
        (call,) = agent.answer["choices"][0]["message"]["tool_calls"]
        self.assertEqual(call["function"]["name"], "lookup")
        trace = Trace(self.tmp / "traces" / "mine.jsonl")
        (recorded,) = trace.calls()
        self.assertEqual(json.loads(recorded["body"]), chat("hello?"))
        self.assertEqual(trace.events("tools_added"),
                         [{"call": item["id"], "tools": item["body"]["tools"]}])

    def test_no_request_of_an_agent_stops_the_example_of_a_trainer(self):
        registered = self.register(dialects=["chat", "gemini"], budget={"calls_per_second": 0})
        trainer = subprocess.Popen([sys.executable, SOURCE / "examples" / "trainer.py", self.api_url],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   env={**os.environ, **KEYS}, text=True)
        self.addCleanup(trainer.stderr.close)
        self.addCleanup(end, trainer)
        agent = Client(registered["url"], registered["key"])
        message = '{"role":"user","content":"x"}'

        def ask(body, path="/v1/chat/completions"):
            connection = http.client.HTTPConnection(agent.url.netloc, timeout=60)
            self.addCleanup(connection.close)
            connection.request("POST", agent.url.path + path, body.encode(),
                               {"Authorization": "Bearer " + agent.key})
            response = connection.getresponse()
            return response.status, response.read().decode()

        for more in ('{"role":"critic","content":"y"}', "7", '{"role":"user","content":NaN}',
                     '{"role":"user","n":' + "9" * 5000 + "}",
                     '{"role":"user","x":' + "[" * 2000 + "]" * 2000 + "}"):
            self.assertEqual(ask('{"model":"m","messages":[' + message + "," + more + "]}")[0], 400, more)
        for more in (r'{"role":"user","content":"\ud800"}', '{"role":"user","content":[1,null,{}]}',
                     '{"role":"assistant","tool_calls":[7]}',
                     '{"role":"user","content":"' + "\u00e9" * 1_000_000 + '"}'):
            status, said = ask('{"model":"m","messages":[' + message + "," + more + "]}")
            self.assertEqual(status, 200, said)
            self.assertIn("You said", said)
        gemini = {"contents": [
            {"role": "user", "parts": [{"text": "weather?"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "w", "args": {}}}]},
            {"role": "tool", "parts": [
                {"functionResponse": {"name": "w", "response": {"result": "sunny"}}}]}]}
        status, said = ask(json.dumps(gemini), "/v1beta/models/m:generateContent")
        self.assertEqual((status, "You said: sunny" in said), (200, True), said)
        self.assertIsNone(trainer.poll(), "the trainer is gone")

    def test_a_trainer_may_number_tool_calls_as_it_likes(self):
        registered = self.register(id="mine")
        messages = [{"role": "user", "content": "go"}]
        for _ in range(2):
            agent = Agent(registered, messages)
            (item,) = self.take(canonical=True)
            answer = completion("", ids=[7])
            answer["choices"][0]["message"]["tool_calls"] = [
                {"id": f"call:{i}", "type": "function", "function": {"name": "run", "arguments": ""}}
                for i in range(2)]
            self.trainer.post("/v1/reply", {"call": item["id"], "completion": answer, "wait_s": 20})
            agent.join(20)
            message = agent.answer["choices"][0]["message"]
            messages = messages + [message] + [
                {"role": "tool", "tool_call_id": call["id"], "content": "ok"}
                for call in message["tool_calls"]]
        Agent(registered, messages)
        (item,) = self.take(canonical=True)
        self.trainer.post("/v1/reply", {"call": item["id"], "completion": completion("done"),
                                        "wait_s": 20})

        def ids(said):
            return [call["id"] for message in said for call in message.get("tool_calls", [])]

        def results(said):
            return [message["tool_call_id"] for message in said if message["role"] == "tool"]

        self.assertEqual(len(set(ids(messages))), 4)
        for said in item["body"]["messages"], item["request"]["messages"]:
            self.assertEqual(ids(said), ["call:0", "call:1"] * 2)
            self.assertEqual(results(said), ids(said))
        trace = Trace(self.tmp / "traces" / "mine.jsonl")
        calls = trace.calls()
        self.assertEqual(json.loads(calls[2]["body"])["messages"], messages)
        self.assertEqual([call["confirmed"] for call in calls], [True, True, False])
        self.assertEqual(trace.events("ids_renamed"), [
            {"call": call["call"], "ids": dict(zip(names, ["call:0", "call:1"]))}
            for call, names in zip(calls, (ids(messages)[:2], ids(messages)[2:]))])

    def test_what_was_cut_inside_a_tool_call_goes_out_without_it(self):
        for rule, calls in (("withheld", 0), ("sent", 1)):
            registered = self.register(id=rule, cut_calls=rule)
            agent = Agent(registered, "go")
            (item,) = self.take()
            answer = completion("Well.")
            answer["choices"][0]["finish_reason"] = "length"
            answer["choices"][0]["message"]["tool_calls"] = [
                {"id": "c", "type": "function", "function": {"name": "run", "arguments": '{"a": "b'}}]
            self.trainer.post("/v1/reply", {"call": item["id"], "completion": answer, "wait_s": 20})
            agent.join(20)
            (choice,) = agent.answer["choices"]
            self.assertEqual(choice["finish_reason"], "length")
            self.assertEqual(len(choice["message"].get("tool_calls", [])), calls)
            (call,) = Trace(self.tmp / "traces" / f"{rule}.jsonl").calls()
            recorded = call["answer"]
            self.assertEqual((recorded["origin"], recorded["choices"][0]["ids"]), ("sampled", [7, 8]))
            self.assertEqual(len(recorded["choices"][0].get("withheld", [])), 1 - calls)

    def test_metrics_state_and_health(self):
        self.register()
        status, metrics = self.trainer.ask("GET", "/metrics")
        self.assertEqual(status, 200)
        self.assertIn("sluice_gate_rollouts_open 1\n", metrics)
        self.assertEqual(self.operator.ask("GET", "/v1/state")[1]["open_rollouts"], 1)
        self.assertEqual(Client(self.api_url, "").ask("GET", "/health")[1], {"status": "ok"})
        self.assertEqual(Client(self.agents_url, "").ask("GET", "/health")[1], {"status": "ok"})

    def test_sigterm_ends_what_is_open(self):
        registered = self.register()
        taken = Agent(registered, "x")
        (item,) = self.take()
        waiting = Agent(registered, "y")
        self.wait_for_a_call()
        self.stop()
        for agent in taken, waiting:
            agent.join(20)
            self.assertFalse(agent.is_alive())
            self.assertEqual(agent.status, 400)
            self.assertIn("has ended", agent.answer["error"]["message"])
        calls = Trace(self.tmp / "traces" / f"{registered['rollout']}.jsonl").calls()
        self.assertEqual(calls[0]["call"], item["id"])
        self.assertEqual([call["outcome"] for call in calls], ["cancelled"] * 2)


class Start(SystemTest):
    def test_finding_45_keys_that_are_not_given_are_made_and_kept_private(self):
        server = subprocess.Popen([SLUICE, "gate", "serve", "--listen", ":0", "--trainer-listen", ":0",
                                   "--keys-file", str(self.tmp / "keys"), "--out", str(self.tmp / "t")],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(server.stdout.close)
        lines = [server.stdout.readline() for _ in range(4)]
        self.assertIn("http://127.0.0.1:", lines[0])
        self.assertIn("http://127.0.0.1:", lines[1])
        self.assertEqual(lines[2], f"traces in {self.tmp / 't'}\n")
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


    def start(self, *arguments):
        """A server of ours, with pipes for what it says."""
        server = subprocess.Popen([SLUICE, *map(str, arguments)], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, env={**os.environ, **KEYS})
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.stderr.close)
        self.addCleanup(end, server)
        return server

    def gate_serve(self, *flags, listen="127.0.0.1:0"):
        """It, the URL that its agents are told, and its operator."""
        server = self.start("gate", "serve", "--listen", listen, "--trainer-listen", "127.0.0.1:0",
                            "--out", self.tmp / "traces", "--log", self.tmp / "log", *flags)
        agents, api = (server.stdout.readline().split()[-1] for _ in range(2))
        return server, agents, Client(api, KEYS["SLUICE_OPERATOR_KEY"])

    def said_until_the_end(self, server):
        server.send_signal(signal.SIGTERM)
        said = server.stderr.read()
        self.assertEqual(server.wait(30), 0, said)
        return said

    def test_finding_45_any_address_but_loopback_warns(self):
        server, agents, _ = self.gate_serve(listen="0.0.0.0:0")
        self.assertRegex(agents, r"^http://0\.0\.0\.0:[1-9][0-9]*$")
        said = self.said_until_the_end(server)
        self.assertRegex(said, r"WARNING: the agents' endpoint listens on 0\.0\.0\.0:[1-9]")
        self.assertNotIn("the trainer API listens", said)
        self.assertEqual(self.said_until_the_end(self.gate_serve()[0]), "")
        # The trainer API, wherever it is served.
        for command in ("gate", "serve", "--listen", ":0", "--out", self.tmp / "t"), (
                "serve", "--port", "0", "--data", self.tmp / "d"):
            server = self.start(*command, "--trainer-listen", "0.0.0.0:0", "--log", self.tmp / "log")
            server.stdout.readline()
            said = self.said_until_the_end(server)
            self.assertRegex(said, r"WARNING: the trainer API listens on 0\.0\.0\.0:[1-9]", command)
            self.assertNotIn("the agents' endpoint listens", said)

    def test_agents_are_told_the_url_that_is_advertised(self):
        _, agents, operator = self.gate_serve("--advertise", "https://gate.example/of/mine/")
        self.assertEqual(agents, "https://gate.example/of/mine")
        self.assertEqual(operator.post("/v1/rollouts", {"id": "r"})["url"],
                         "https://gate.example/of/mine/rollout/r")

    def test_the_policy_trainer_may_be_named_wherever_it_is_served(self):
        _, _, operator = self.gate_serve("--policy", "trainer")
        self.assertEqual(operator.ask("GET", "/v1/state")[0], 200)
        environment = self.start("serve", "--policy", "trainer", "--trainer-listen", "127.0.0.1:0",
                                 "--port", "0", "--data", self.tmp / "data")
        address = environment.stdout.readline().split()[-1]
        status, metadata = Client("http://" + address, "").ask("GET", "/metadata")
        self.assertEqual(status, 200)
        api = Client(metadata["trainer"]["api"], KEYS["SLUICE_TRAINER_KEY"])
        self.assertEqual(api.ask("GET", "/v1/state")[0], 200)

    def test_another_policy_is_refused_where_there_is_none(self):
        for command in ("gate", "serve"), ("serve", "--port", "0"):
            done = self.sluice(*command, "--policy", "script:x.toml", "--trainer-listen", ":0")
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("--policy script:x.toml: must be trainer", done.stderr)

    def test_limits_over_all_rollouts_and_the_tools_that_a_gate_allows(self):
        _, _, operator = self.gate_serve("--total-calls", "1", "--tool-names", "lookup,search")
        tool = {"name": "fetch", "parameters": {"type": "object"}}
        status, told = operator.ask("POST", "/v1/rollouts", {"tools": [tool]})
        self.assertEqual(status, 403, told)
        self.assertIn("tool fetch is not among those", told["error"]["message"])
        one = operator.post("/v1/rollouts", {"tools": [{**tool, "name": "search"}]})
        two = operator.post("/v1/rollouts", {"id": "two"})
        trainer = Client(operator.url.geturl(), KEYS["SLUICE_TRAINER_KEY"])
        agent = Agent(one, "x")
        (item,) = trainer.post("/v1/next_batch", {"wait_s": 20})["items"]
        trainer.post("/v1/reply", {"call": item["id"], "completion": completion("y"), "wait_s": 20})
        self.assertEqual(agent.content(), "y")
        status, _ = Client(two["url"], two["key"]).ask("POST", "/v1/chat/completions", chat("z"))
        self.assertEqual(status, 400)
        self.assertEqual(operator.ask("GET", "/v1/rollouts/two")[1]["budget_reason"],
                         "the gate's budget of 1 calls is used up")

    def test_limits_that_are_no_numbers_are_told(self):
        for flags in (["--total-time-s", "nan"], ["--total-calls-per-second", "-1"],
                      ["--total-calls", "-1"], ["--total-tokens", "1.5"]):
            done = self.sluice("gate", "serve", "--listen", ":0", "--trainer-listen", ":0", *flags)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(flags[0], done.stderr)


class Example(unittest.TestCase):
    def test_it_survives_every_item(self):
        spec = importlib.util.spec_from_file_location("trainer", SOURCE / "examples" / "trainer.py")
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        call = {"type": "call", "rollout": "r", "ordinal": 1, "dialect": "chat"}
        items = [{**call, "id": "1", "request": {"messages": [{"role": "user", "text": "hello"}]}},
                 {**call, "id": "2", "body_base64": "AA==", "request_error": "JSON: malformed"},
                 {**call, "id": "3", "body_error": "the trace is gone", "request_error": "the trace is gone"},
                 {**call, "id": "4", "request": {"messages": []}},
                 {**call, "id": "5"},
                 {"type": "tool", "id": "6", "rollout": "r", "tool": "x", "arguments": {}, "time_left_s": 1},
                 {"type": "something_new", "rollout": "r"},
                 {"type": "ended", "rollout": "r", "reason": "the agent has ended"}]

        class Gate:
            replies = None

            def post(self, path, message):
                if path == "/v1/reply":
                    self.replies = message["replies"]
                    return {"results": [{"call": reply["call"], "accepted": True} for reply in self.replies]}
                if self.replies is not None:
                    raise OSError("it has ended")
                return {"items": items}

        gate = Gate()
        with self.assertRaisesRegex(OSError, "it has ended"), contextlib.redirect_stdout(io.StringIO()):
            example.train(gate)
        self.assertEqual([(reply["call"], *(set(reply) - {"call"})) for reply in gate.replies],
                         [("1", "answer"), ("2", "refusal"), ("3", "refusal"), ("4", "refusal"),
                          ("5", "refusal"), ("6", "tool_result")])
        self.assertIn("JSON: malformed", gate.replies[1]["refusal"]["message"])


class RunWithTrainer(SystemTest):
    def begin(self, task, agent, *flags):
        """A rollout that runs, and its trainer."""
        run = subprocess.Popen(
            self.arguments(task, "trainer", agent, "--trainer-listen", "127.0.0.1:0", *flags),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **KEYS})
        self.addCleanup(run.stderr.close)
        self.addCleanup(end, run)
        line = ""
        while "trainer API at" not in line:
            line = run.stderr.readline()
            self.assertNotEqual(line, "", "the API was not announced")
        threading.Thread(target=run.stderr.read, daemon=True).start()
        return run, Client(re.search(r"http://\S+", line).group(), KEYS["SLUICE_TRAINER_KEY"])

    def result(self, run):
        run.wait(60)
        return json.loads((self.out / "result.json").read_text())

    def three_calls(self, more=""):
        """A task whose agent asks three times, streaming the first time."""
        steps = [{"post": json.dumps({**chat(f"question {i}"), "stream": i == 0})} for i in range(3)]
        return self.task(f"id = 't'\ninstruction = {json.dumps(json.dumps(steps))}\n{more}")

    def test_the_gates_rules_come_from_the_task_or_from_flags(self):
        rules = '[gate]\naccept = "sampled"\ndelivery = "incremental"\nmax_version_lag = 0\n'
        flags = ["--accept", "sampled", "--delivery", "incremental", "--max-version-lag", "0"]
        for text, given in (rules, []), ("", flags):
            run, trainer = self.begin(self.three_calls(text), "caller", *given)

            def reply(trainer=trainer, **what):
                return trainer.post("/v1/reply", what)["results"][0]

            (item,) = trainer.post("/v1/next_batch", {"wait_s": 30})["items"]
            told = reply(call=item["id"], completion=completion("x"), origin="edited")
            self.assertIn("takes only what was sampled", told["error"]["message"])
            self.assertTrue(reply(call=item["id"], piece={"text": "He"})["accepted"])
            self.assertTrue(reply(call=item["id"], refusal={"message": "no"})["accepted"])
            trainer.post("/v1/resume", {"version": "step-1"})
            (item,) = trainer.post("/v1/next_batch", {"wait_s": 30})["items"]
            told = reply(call=item["id"], completion=completion("x"), wait_s=30)
            self.assertEqual(told["outcome"], "delivered")
            trainer.post("/v1/resume", {"version": "step-2"})
            result = self.result(run)
            trace = Trace(result["trace"])
            # Part of an answer went ahead of one that never came.
            self.assertEqual([event["text_bytes"] for event in trace.events("unfinished")], [2])
            self.assertEqual(trace.events("cancelled"), [{"reason": "stale: 1 versions behind"}])
            self.assertEqual(result["llm"]["turns"], 1)

    def test_a_trainer_is_told_what_came_of_each_rollout_and_which_attempts_belong_together(self):
        run, trainer = self.begin(self.three_calls('verify = ["true", "false"]\n'), "caller",
                                  "--repeat", "2")
        told = {"ended": {}, "closed": {}}
        while len(told["closed"]) < 2:
            taken = trainer.post("/v1/next_batch", {"max": 8, "wait_s": 30, "rollouts": True})
            for item in taken["items"]:
                if item["type"] == "call":
                    trainer.post("/v1/reply", {"call": item["id"], "completion": completion("x")})
                else:
                    told[item["type"]][item["rollout"]] = item
        self.assertEqual(run.wait(60), 0)
        lines = [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]
        self.assertEqual({line["name"] for line in lines}, {"t@1", "t@2"})
        self.assertEqual(len({line["group"] for line in lines}), 1)
        for line in lines:
            result = line["result"]
            (opened,) = Trace(result["trace"]).of("opened")
            ended, closed = (told[kind].pop(result["rollout_id"]) for kind in ("ended", "closed"))
            self.assertEqual((opened["name"], opened["group"]), (line["name"], line["group"]))
            self.assertEqual(result["group_id"], line["group"])
            for item in ended, closed:
                self.assertEqual(item["task"], {"id": "t"})
                self.assertEqual((item["name"], item["group"]), (line["name"], line["group"]))
            self.assertEqual((closed["reward"], closed["error_kind"], closed["error"]),
                             (0.5, None, None))
            self.assertEqual(closed["llm"]["turns"], 3)
        self.assertEqual(told, {"ended": {}, "closed": {}})

    def test_a_trainer_that_is_busy_at_the_end_is_waited_for(self):
        run, trainer = self.begin(self.three_calls('verify = ["true"]\n'), "caller")
        take = {"max": 8, "wait_s": 30, "rollouts": True}
        ended = None
        while not ended:
            for item in trainer.post("/v1/next_batch", take)["items"]:
                if item["type"] == "call":
                    trainer.post("/v1/reply", {"call": item["id"], "completion": completion("x")})
                else:
                    ended = item
        self.assertEqual((ended["type"], ended["name"]), ("ended", "t"))
        self.assertNotIn("group", ended)
        deadline = time.monotonic() + 60
        while not (self.out / "result.json").exists():
            self.assertLess(time.monotonic(), deadline, "it did not end")
            time.sleep(0.01)
        path = f"/v1/rollouts/{ended['rollout']}"
        for key in KEYS.values():
            status, books = Client(trainer.url.geturl(), key).ask("GET", path)
            self.assertEqual((status, books["state"], books["reward"]), (200, "closed", 1.0))
        (closed,) = trainer.post("/v1/next_batch", take)["items"]
        self.assertEqual((closed["type"], closed["reward"]), ("closed", 1.0))
        self.assertEqual(run.wait(60), 0)

    def test_the_limit_that_ended_a_rollout_is_named(self):
        for text, flags, reason in (
                ("[budget]\ntokens = 5\n", [], "the budget of 5 tokens is used up"),
                ("", ["--total-calls", "1"], "the gate's budget of 1 calls is used up")):
            run, trainer = self.begin(self.three_calls(text), "caller", *flags)
            (item,) = trainer.post("/v1/next_batch", {"wait_s": 30})["items"]
            trainer.post("/v1/reply", {"call": item["id"], "completion": completion("x")})
            result = self.result(run)
            self.assertEqual(result["error_kind"], "budget")
            self.assertEqual(result["error"], "refused by its budget: " + reason)
            self.assertEqual(result["llm"]["turns"], 1)

    TOOL = """
id = "t"
instruction = "Look it up."
[[tools]]
name = "lookup"
parameters = { type = "object" }
"""

    def test_finding_77_pi_is_refused_a_task_with_tools_by_name_and_version(self):
        for flags in [], ["--repeat", "2"]:
            rollout = self.run_rollout(self.task(self.TOOL), "trainer", "pi",
                                       "--trainer-listen", "127.0.0.1:0", *flags)
            self.assertNotEqual(rollout.code, 0)
            self.assertIn("pi 0.74.2 has no MCP", rollout.stderr)
            self.assertFalse(rollout.directory.exists(), "it got as far as a directory")

    def test_finding_49_a_tool_that_the_gate_does_not_allow_is_refused_before_a_sandbox(self):
        rollout = self.run_rollout(self.task(self.TOOL), "trainer", "opencode", "--trainer-listen",
                                   "127.0.0.1:0", "--tool-names", "search,fetch")
        self.assertEqual(rollout.result["error_kind"], "task", rollout.stderr)
        self.assertIn("tool lookup is not among those", rollout.result["error"])
        self.assertEqual(rollout.result["sandbox_id"], "")

    def test_only_a_trainer_samples(self):
        rollout = self.run_rollout(self.task("instruction = 'x'\n[gate]\naccept = 'sampled'\n"),
                                   self.script("[[rules]]\ntext = 'x'\n"), "caller")
        self.assertNotEqual(rollout.code, 0)
        self.assertIn("only a trainer says of its answers that they were sampled", rollout.stderr)

    def test_the_example_of_a_trainer_answers_a_rollout_to_its_end(self):
        run, trainer = self.begin(self.three_calls(), "caller")
        example = subprocess.run(
            [sys.executable, SOURCE / "examples" / "trainer.py", trainer.url.geturl()],
            capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **KEYS})
        self.assertEqual((example.returncode, example.stderr), (0, ""))
        result = self.result(run)
        self.assertEqual(result["error"], None)
        lines = example.stdout.splitlines()
        for line in lines[:3]:
            self.assertRegex(line, r"^call \S+: delivered$")
        self.assertEqual(lines[3], f"rollout {result['rollout_id']} has ended: the agent has ended")
        self.assertIn("You said: question 2", (self.out / "agent.stdout").read_text())
        self.assertEqual({call["answer"]["origin"] for call in Trace(result["trace"]).calls()},
                         {"injected"})

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
