"""Outages of whoever answers: a trainer who is dead, silent or wrong, an inference server that cannot. They
are nobody's zero: the kind is `policy`, the reward null, and a warning says what to do. What an agent does to
itself while others are served stays its own.

Agents end when they have waited for as long as they like (`patience`), many times the trainer's lease here.
"""

import contextlib
import http.client
import json
import os
import socket
import socketserver
import struct
import subprocess
import threading
import time
import unittest

from harness import SystemTest, count, end
from test_trainer import KEYS, Client, completion

LEASE = "0.2"
PATIENCE = 4


def steps(*wanted):
    return json.dumps(wanted)


def post(text="hello", **more):
    """One call of the agent `caller`."""
    body = {"model": "policy", "messages": [{"role": "user", "content": text}]}
    if more.pop("stream", False):
        body["stream"] = True
    return {"post": json.dumps(body), "patience": PATIENCE, **more}


class OutageTest(SystemTest):
    def calling(self, *wanted, name="task.toml", more=""):
        """A task whose agent does these steps, and is not pleased with itself."""
        return self.task(f"instruction = '''{steps(*wanted, {'exit': 1})}'''\nverify = ['true']\n{more}", name)

    def check_policy(self, result, *said):
        self.assertEqual((result["error_kind"], result["reward"]), ("policy", None), result["error"])
        self.assertEqual(result["reward_if_counted"], 1.0)
        self.assertIn(result["error"], result["warnings"])
        for words in said:
            self.assertIn(words, result["error"])


# --- Trainers ---------------------------------------------------------------------------------------

def answer(**choice):
    return {"answer": {"choices": [{"text": "x", **choice}], "origin": "sampled"}}


# Ways of a trainer to be wrong: what stands beside "call" in its replies.
WRONG = {
    "no token ids": answer(),
    "ids without logprobs": answer(ids=[1, 2]),
    "counts that differ": answer(ids=[1, 2, 3], logprobs=[-0.5, -0.5]),
    "a logprob of no probability": answer(ids=[1], logprobs=[0.5]),
    "no choices": {"completion": {"choices": []}},
    "too many choices": {"completion": {"choices": completion("a")["choices"] * 2}},
    "no completion": {"completion": "hello"},
    "a member that there is not": answer(ids=[1], logprobs=[-0.5], surprise=1),
    "an end that there is not": answer(ids=[1], logprobs=[-0.5], finish="whenever"),
    "nothing": {},
    "two at once": {**answer(ids=[1], logprobs=[-0.5]), "refusal": {"message": "no"}},
    "a tool's result": {"tool_result": {"text": "x"}},
}


class Trainers(OutageTest):
    def begin(self, task, *flags, lease=LEASE):
        self.process = subprocess.Popen(
            self.arguments(task, "trainer", "caller", "--trainer-listen", "127.0.0.1:0", "--trainer-lease-s",
                           lease, *flags),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **KEYS})
        self.addCleanup(self.process.stderr.close)
        self.addCleanup(end, self.process)
        for line in self.process.stderr:
            if line.startswith("trainer API at "):
                break
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        self.trainer = Client(line.split()[-1], KEYS["SLUICE_TRAINER_KEY"])

    def finish(self):
        self.assertIsNotNone(self.process.wait(180))
        return json.loads((self.out / "result.json").read_text())

    def take(self, **more):
        """The first call, once there is one."""
        while True:
            items = self.trainer.post("/v1/next_batch", {"max": 16, "wait_s": 20, **more})["items"]
            calls = [item for item in items if item["type"] == "call"]
            if calls:
                return calls[0]

    def while_it_runs(self, act):
        """Again and again, until nobody is there to be asked."""
        while self.process.poll() is None:
            with contextlib.suppress(OSError, AssertionError, http.client.HTTPException):
                act()
            time.sleep(0.02)

    def test_one_who_never_came(self):
        self.begin(self.calling(post()))
        # Who only watches, with the trainer's key, is none.
        self.while_it_runs(lambda: self.trainer.ask("GET", "/metrics"))
        self.check_policy(self.finish(), "nothing was heard of a trainer from", "start the trainer")
        self.assertEqual(self.process.returncode, 69)

    def test_one_who_dies_with_the_call(self):
        self.begin(self.calling(post()))
        self.take(trainer="node-1", lease_s=3600)
        self.check_policy(self.finish(), "nothing was heard of a trainer from")

    def test_one_who_dies_when_the_agent_is_killed_by_its_time_out(self):
        self.begin(self.calling(post(patience=50), more=f"[limits]\nagent_timeout_s = {PATIENCE}\n"))
        self.take(trainer="node-1")
        result = self.finish()
        self.check_policy(result, "nothing was heard of a trainer from")
        self.assertEqual(result["agent_ended"], "timed out")

    def test_one_who_is_slow_but_lives(self):
        self.begin(self.calling(post()), lease=str(PATIENCE / 2))
        self.take(trainer="node-1")
        self.while_it_runs(lambda: self.trainer.ask("GET", "/v1/state"))
        result = self.finish()
        self.assertEqual((result["error_kind"], result["reward"]), ("agent", 1.0), result["error"])
        self.assertNotIn("reward_if_counted", result)

    def test_one_who_is_wrong_in_each_way(self):
        self.begin(self.calling(post()), "--repeat", str(len(WRONG)), "--concurrency", str(len(WRONG)), "--retries", "0")
        ways, told = dict(WRONG), {}

        def be_wrong():
            for item in self.trainer.post("/v1/next_batch", {"max": 16, "wait_s": 0})["items"]:
                if item["type"] == "call" and item["rollout"] not in told:
                    way = next(iter(ways))
                    told[item["rollout"]] = (way, {"call": item["id"], **ways.pop(way)})
            for _, reply in told.values():
                self.trainer.post("/v1/reply", reply)

        self.while_it_runs(be_wrong)
        self.assertEqual(self.process.wait(), 69)
        lines = [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]
        self.assertEqual(len(told), len(WRONG))
        self.assertEqual(len(lines), len(WRONG))
        for line in lines:
            result = line["result"]
            with self.subTest(way=told[result["rollout_id"]][0]):
                self.check_policy(result, "every reply of the trainer to a call was rejected from",
                                  "mend what the trainer replies")
                self.assertGreaterEqual(result["llm"]["rejected"], 1)
                reasons = [w for w in result["warnings"] if "a reply of the trainer was rejected" in w]
                self.assertIn(len(reasons), (1, 2, 3))
                log = (self.out / "engine.log").read_text()
                self.assertIn("a trainer's reply was rejected", log)
        summary = json.loads((self.out / "summary.json").read_text())
        self.assertEqual(summary["errors"], {"policy": len(WRONG)})
        self.assertEqual(summary["failed_attempts"], {"policy": len(WRONG)})

    def test_recovery_in_mid_rollout(self):
        wanted = steps(post("one", patience=50), post("two", patience=50))
        self.begin(self.task(f"instruction = '''{wanted}'''\nverify = ['true']\n"))
        item = self.take(trainer="node-1", lease_s=1)
        for way in "no token ids", "no choices":
            self.trainer.post("/v1/reply", {"call": item["id"], **WRONG[way]})
        self.trainer.post("/v1/reply", {"call": item["id"], "completion": completion("1")})
        # The next one takes the second call and dies of it; another comes when the lease is over.
        self.take(trainer="node-1", lease_s=1)
        item = self.take(trainer="node-2")
        self.trainer.post("/v1/reply", {"call": item["id"], "completion": completion("2")})
        result = self.finish()
        self.assertEqual((result["error_kind"], result["reward"]), (None, 1.0), result["error"])
        self.assertEqual(result["llm"]["turns"], 2)
        self.assertEqual(result["llm"]["rejected"], 2)
        self.assertEqual(self.process.returncode, 0)


# --- Upstreams --------------------------------------------------------------------------------------

CHUNK = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
BEGINNING = CHUNK + b'"delta":{"role":"assistant","content":"Once upon"},"finish_reason":null}]}\n\n'
FINISH = CHUNK + b'"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


class Upstream(socketserver.ThreadingTCPServer):
    """An inference server that speaks chat, as well as it can. `mode` says how, or is a function of the
    request's method and body that does."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, mode):
        self.mode = mode
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True, args=(0.02,)).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        pass  # clients leave when they like


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline()
        length = 0
        while (header := self.rfile.readline()) not in (b"\r\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        body = self.rfile.read(length)
        mode = self.server.mode
        getattr(self, mode(line.split()[0], body) if callable(mode) else mode)(body)

    def reply(self, status, body, kind="application/json"):
        self.wfile.write(f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                         "Connection: close\r\n\r\n".encode() + body)

    def reset(self, _):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def garbage(self, _):
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")

    def busy(self, _):
        self.reply(429, b'{"error":{"message":"slow down","type":"rate_limit"}}')

    def broken(self, _):
        self.reply(500, b'{"error":{"message":"CUDA out of memory","type":"server_error"}}')

    def wrong(self, _):
        self.reply(400, b'{"error":{"message":"no such thing","type":"invalid_request_error"}}')

    def cuts(self, _):
        """The connection goes in the middle of a stream."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100000\r\n\r\n"
                         + BEGINNING)

    def ends_early(self, _):
        """The stream is one that ends, but before its finish."""
        self.reply(200, BEGINNING, "text/event-stream")

    def silent(self, _):
        self.rfile.read()  # until the client is gone

    def well(self, body):
        if b'"stream":true' in body.replace(b" ", b""):
            self.reply(200, BEGINNING + FINISH, "text/event-stream")
        else:
            self.reply(200, b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
                            b'"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"data":[]}')


def closed_port():
    """One that nobody listens on, for as long as the socket is held."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder


OUT = ["reset", "garbage", "busy", "broken", "cuts"]


class Upstreams(OutageTest):
    def run_against(self, upstream, task, *flags, agent="caller"):
        return self.run_rollout(task, "passthrough:" + upstream, agent, "--upstream-patience-s", "0.5",
                                *flags, env={"OPENAI_API_KEY": ""})

    def test_each_way_to_be_out(self):
        task = self.calling(post("plain"), post("streamed", stream=True))
        for mode in OUT:
            with self.subTest(mode=mode), Upstream(mode) as upstream:
                rollout = self.run_against(upstream.url, task)
                self.check_policy(rollout.result, f"the upstream at {upstream.url} failed", "start it")
                self.assertEqual(rollout.code, 69)
                self.assertEqual(rollout.result["llm"]["turns"], 0)

    def test_one_that_refuses(self):
        with closed_port() as port:
            url = f"http://127.0.0.1:{port.getsockname()[1]}/v1"
            rollout = self.run_against(url, self.calling(post()))
        self.check_policy(rollout.result, f"the upstream at {url} failed", "refused", "start it")

    def test_one_that_says_nothing(self):
        with Upstream("silent") as upstream:
            rollout = self.run_against(upstream.url, self.calling(post(patience=1)))
        self.check_policy(rollout.result, "did not answer from")

    def test_a_stream_that_ends_before_its_finish_is_no_turn_and_no_outage_of_one_that_answers(self):
        def mode(method, _):
            return "well" if method == b"GET" else "ends_early"

        with Upstream(mode) as upstream:
            rollout = self.run_against(upstream.url, self.calling(post(stream=True)))
        self.assertEqual((rollout.result["error_kind"], rollout.result["reward"]), ("agent", 1.0))
        self.assertEqual(rollout.result["llm"]["turns"], 0)
        (call,) = rollout.trace.calls()
        self.assertEqual(call["outcome"], "undelivered")

    def test_recovery_in_mid_rollout(self):
        modes = iter(["broken", "cuts", "well"])
        with Upstream(lambda method, _: next(modes) if method == b"POST" else "broken") as upstream:
            task = self.task(f"instruction = '''{steps(*(post(str(i), stream=True) for i in range(3)))}'''\n"
                             "verify = ['true']\n")
            rollout = self.run_against(upstream.url, task)
        self.assertEqual((rollout.result["error_kind"], rollout.result["reward"]), (None, 1.0))
        self.assertEqual(rollout.result["llm"]["turns"], 1)

    def test_errors_that_the_agent_provokes_are_its_own(self):
        """The server answers all but what this agent sends."""
        for mode in "wrong", "broken", "busy", "reset":
            with self.subTest(mode=mode), Upstream(
                    lambda _, body, mode=mode: mode if b"provoke" in body else "well") as upstream:
                rollout = self.run_against(upstream.url, self.calling(post("fine"), post("provoke")))
                self.assertEqual((rollout.result["error_kind"], rollout.result["reward"]), ("agent", 1.0))
                self.assertEqual(rollout.code, 1)

    def test_errors_of_one_while_others_are_served_are_its_own_though_the_gate_is_refused(self):
        served = {"others": 0}

        def mode(method, body):
            if method == b"GET":
                return "busy"
            if b"provoke" in body:
                return "broken"
            served["others"] += 1
            return "well"

        tasks = self.tmp / "tasks"
        tasks.mkdir()
        self.calling(post("provoke"), {"sleep": PATIENCE}, name="tasks/one.toml")
        # Its calls come before, beside and behind the other's.
        self.calling(*(step for i in range(40) for step in (post(f"question {i}"), {"sleep": 0.2})),
                     name="tasks/other.toml")
        with Upstream(mode) as upstream:
            self.run_against(upstream.url, tasks, "--concurrency", "2")
        self.assertGreater(served["others"], 1)
        results = {line["task"]: line["result"] for line in map(
            json.loads, (self.out / "results.jsonl").read_text().splitlines())}
        self.assertEqual((results["one"]["error_kind"], results["one"]["reward"]), ("agent", 1.0))
        self.assertEqual((results["other"]["error_kind"], results["other"]["llm"]["turns"]), ("agent", 40))

    def test_a_batch_tries_again_twice_and_counts_apart(self):
        with Upstream("broken") as upstream:
            rollout = self.run_against(upstream.url, self.calling(post()), "--repeat", "2")
        self.assertEqual(rollout.code, 69, rollout.stderr)
        lines = [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]
        for line in lines:
            self.check_policy(line["result"])
            self.assertEqual([a["error_kind"] for a in line["failed_attempts"]], ["policy"] * 3)
        summary = json.loads((self.out / "summary.json").read_text())
        self.assertEqual((summary["errors"], summary["failed_attempts"], summary["ended"]),
                         ({"policy": 2}, {"policy": 6}, 0))
        self.assertIn("6 failed attempts (policy)", rollout.stdout)

    def test_every_shipped_agent(self):
        """They retry each in its way, and some for ever: then their time-out ends them."""
        task = self.task("instruction = 'say hello'\nverify = ['true']\n[limits]\nagent_timeout_s = 20\n")
        agents = {"opencode": (), "pi": (), "claude_code": ("--approvals", "bypass"),
                  "codex": ("--approvals", "bypass")}
        modes = OUT if count(0, 1) else ["cuts"]
        for agent, flags in agents.items():
            with self.subTest(agent=agent, mode="refuses"), closed_port() as port:
                url = f"http://127.0.0.1:{port.getsockname()[1]}/v1"
                rollout = self.run_against(url, task, *flags, agent=agent)
                self.check_policy(rollout.result, f"the upstream at {url} failed", "refused")
            for mode in modes:
                with self.subTest(agent=agent, mode=mode), Upstream(mode) as upstream:
                    rollout = self.run_against(upstream.url, task, *flags, agent=agent)
                    self.check_policy(rollout.result, f"the upstream at {upstream.url} failed")
                    self.assertEqual(rollout.result["llm"]["turns"], 0)


# --- What a task names that cannot be ---------------------------------------------------------------

class TasksThatCannotBe(SystemTest):
    def test_they_are_refused_when_they_are_read(self):
        self.file("no-image.tar", "nothing of an image")
        for text, said in (
                ("[sandbox]\nimage = 'no-image.tar'\n", "no-image.tar"),
                ("[sandbox]\nimage = '/no/such/root'\n", "is no root directory"),
                (f"setup = ['{'x' * 131072}']\n", "command 1 has 131072 bytes"),
                (f"verify = ['true', '{'x' * 131072}']\n", "command 2 has 131072 bytes")):
            with self.subTest(said=said):
                rollout = self.run_rollout(self.task("instruction = 'x'\n" + text), "script:none", "caller")
                self.assertEqual(rollout.code, 2, rollout.stderr)
                self.assertIn(said, rollout.stderr)
                self.assertFalse(self.out.exists(), "nothing was begun")

    def test_set_up_of_a_group_that_cannot_be_kept_is_the_tasks(self):
        if not count(0, 1):
            self.skipTest("writes over 1 GiB")
        task = self.task("instruction = 'x'\nsetup = ['head -c 1100m /dev/zero > big']\n"
                         "[limits]\nmemory_mb = 4096\ndisk_mb = 2048\n")
        done = self.run_rollout(task, self.script('[[rules]]\ntext = "x"\n'), "caller", "--group", "2")
        self.assertEqual(done.code, 1, done.stderr)
        for line in (self.out / "results.jsonl").read_text().splitlines():
            self.assertEqual(json.loads(line)["result"]["error_kind"], "task")

    def test_logs_replaced_by_a_link_in_set_up_are_no_infrastructure(self):
        task = self.task("instruction = '[]'\nsetup = ['rm -rf /home/user/logs; ln -s /tmp /home/user/logs']\n"
                         "verify = ['true']\n")
        for flags in (), ("--group", "2"):
            done = self.run_rollout(task, self.script('[[rules]]\ntext = "x"\n'), "caller", *flags)
            self.assertNotEqual(done.code, 69, done.stderr)


if __name__ == "__main__":
    unittest.main()
