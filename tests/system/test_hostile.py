"""Clients that mean harm, at the real servers' real sockets: the gate's for agents, the trainer API, and
`sluice serve`. Each is told what is wrong, and none makes a server's memory grow beyond what its limits
allow. (More of them, at every door of the gate and without the network: gate/http/hostile_test.cc.)"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import resource
import select
import signal
import socket
import subprocess
import threading
import time
import unittest

from harness import SLUICE, SystemTest, count, end

MIB = 1024 * 1024
TRAINER_KEY, OPERATOR_KEY, CLIENT_KEY = (f"{who}-key-0123456789" for who in ("trainer", "operator", "client"))
GOOD = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'


class Process:
    """A server, and the most memory that it has had at once."""

    def __init__(self, *arguments, env):
        self.process = subprocess.Popen([SLUICE, *map(str, arguments)], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env={**os.environ, **env})

    def line(self):
        return self.process.stdout.readline().split()[-1]

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.peak()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code


class Door:
    """Where a server listens, the path there that takes a body, and a key that opens it."""

    def __init__(self, name, server, address, path, key, body_limit, error):
        host, port = address.split("/")[2 if "//" in address else 0].rsplit(":", 1)
        self.name, self.server, self.address = name, server, (host, int(port))
        self.path, self.key, self.body_limit = path, key, body_limit
        self.error = error  # gives an error's text, of the body

    def head(self, headers=b"", key=None, path=None):
        key = self.key if key is None else key
        return (f"POST {path or self.path} HTTP/1.1\r\nHost: localhost\r\n".encode() +
                (f"Authorization: Bearer {key}\r\n".encode() if key else b"") + headers + b"\r\n")

    def sized(self, body, **more):
        return self.head(b"Content-Length: %d\r\n" % len(body), **more) + body

    def chunked(self, chunks, **more):
        return self.head(b"Transfer-Encoding: chunked\r\n", **more) + chunks

    def connect(self):
        return socket.create_connection(self.address, timeout=60)


def answer_of(connection):
    """Status, headers and body of the answer that comes, and what comes behind it."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = response.read()
    response.close()
    return response.status, body.decode(errors="replace")


def send(connection, data):
    """As much as the server takes: what it has refused it need not read."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


# Many small ones, so that only their sum is over the limit.
def chunks_of(size):
    whole = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    return whole * (size // 0x8000) + b"%x\r\n" % (size % 0x8000) + b" " * (size % 0x8000) + b"\r\n0\r\n\r\n"


SMUGGLED = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

# name: what is sent through a door; the status; what the error says.
EVERYWHERE = {
    "a header too large": (lambda d: d.head(b"X: " + b"x" * 70_000 + b"\r\n"), 431, "head is over 65536 bytes"),
    "too many headers": (lambda d: d.head(b"X: y\r\n" * 200), 431, "more than 100 header fields"),
    "a target too long": (lambda d: b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 431,
                          "head is over 65536 bytes"),
    "a header without a colon": (lambda d: d.head(b"no colon here\r\n"), 400, "bad field"),
    "a folded header": (lambda d: d.head(b"X: a\r\n b\r\n"), 400, "folded header"),
    "a space before the colon": (lambda d: d.head(b"Content-Length : 5\r\n") + b"hello", 400, "bad field"),
    "a NUL in a header": (lambda d: d.head(b"X: a\0b\r\n"), 400, "NUL"),
    "TLS": (lambda d: b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400, "NUL"),
    "HTTP/0.9": (lambda d: b"GET / HTTP/0.9\r\n\r\n", 505, "only HTTP/1.1"),
    "a body both sized and chunked": (
        lambda d: d.head(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n" + SMUGGLED,
        400, "bad Transfer-Encoding"),
    "two lengths": (lambda d: d.head(b"Content-Length: 4\r\nContent-Length: 40\r\n") + b"abcd" + SMUGGLED, 400,
                    "multiple Content-Length"),
    "an unknown coding": (lambda d: d.head(b"Transfer-Encoding: xchunked\r\n") + b"0\r\n\r\n" + SMUGGLED, 501,
                          "only transfer coding understood here is chunked"),
    "a length that is no number": (lambda d: d.head(b"Content-Length: 5x\r\n") + b"hello", 400,
                                   "bad Content-Length"),
    "a negative length": (lambda d: d.head(b"Content-Length: -1\r\n") + b"hello", 400, "bad Content-Length"),
    "a length that overflows": (lambda d: d.head(b"Content-Length: 99999999999999999999\r\n"), 400,
                                "bad Content-Length"),
    "a chunk's size that is no number": (lambda d: d.chunked(b"zz\r\nhello\r\n"), 400, "size is not a number"),
    "a chunk that goes on": (lambda d: d.chunked(b"5\r\nhelloXX0\r\n"), 400, "longer than it said"),
    "a chunk of everything": (lambda d: d.chunked(b"ffffffffffffffff\r\n" + b"x" * 1000), 413, "body is over"),
    "a body one byte over": (lambda d: d.sized(b" " * (d.body_limit + 1)), 413, "body is over {limit} bytes"),
    "chunks one byte over": (lambda d: d.chunked(chunks_of(d.body_limit + 1)), 413, "body is over {limit} bytes"),
    "a body said to be huge": (lambda d: d.head(b"Content-Length: 999999999999\r\n") + b"{", 413,
                               "body is over {limit} bytes"),
    "no key": (lambda d: d.sized(GOOD, key=""), 401, "(?i)key|unauthorized"),
    "no key, and a body that never comes": (lambda d: d.head(b"Content-Length: 10000000\r\n", key=""), 401,
                                            "(?i)key|unauthorized"),
    "a changed key": (lambda d: d.sized(GOOD, key=d.key[:-1] + ("0" if d.key[-1] != "0" else "1")), 401,
                      "(?i)key|unauthorized"),
    "an endless key": (lambda d: d.sized(GOOD, key="k" * 60_000), 401, "(?i)key|unauthorized"),
}
LARGE = "a body one byte over", "chunks one byte over"
OF_AGENTS = {
    "deep JSON": (lambda d: d.sized(b'{"model":"m","messages":' + b"[" * 100_000), 400, "could not parse the JSON"),
    "another rollout's path": (lambda d: d.sized(GOOD, path=f"/rollout/{d.other}/v1/chat/completions"), 404,
                               "rollout not found"),
    "out of its rollout": (
        lambda d: d.sized(GOOD, path=f"/rollout/{d.own}/../{d.other}/v1/chat/completions"), 404, "no such path"),
    "a replayed key": (lambda d: d.sized(GOOD, key=d.replayed), 401, "missing, wrong or expired key"),
    "an expired key": (lambda d: d.sized(GOOD, key=d.expired), 401,
                       "missing, wrong or expired key"),
    "the trainer's key": (lambda d: d.sized(GOOD, key=TRAINER_KEY), 401, "missing, wrong or expired key"),
    "the trainer's API": (lambda d: d.sized(b"{}", path="/v1/next_batch"), 404, "no such path"),
}
OF_TRAINERS = {
    "deep JSON": (lambda d: d.sized(b'{"call":' + b"[" * 100_000), 400, "nested too deeply"),
    "a rollout's key": (lambda d: d.sized(GOOD, key=d.rollout_key), 401, "missing or wrong key"),
    "the operator's key": (lambda d: d.sized(GOOD, key=OPERATOR_KEY), 403, "not the operator's"),
    "a forged call": (lambda d: d.sized(b'{"call":"00000000-0000-0000-0000-000000000000.0","refusal":{}}'), 200,
                      "no call of this gate has that id"),
}
OF_SERVE = {
    "deep JSON": (lambda d: d.sized(b'{"action":' + b"[" * 100_000), 422, "valid dictionary"),
    "a file's name": (lambda d: d.sized(b"{}", path="/../../etc/passwd"), 404, "Not Found"),
}


class Hostile(SystemTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Connections of ours; the servers have their own limits.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
        cls.addClassCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def setUp(self):
        super().setUp()
        keys = {"SLUICE_TRAINER_KEY": TRAINER_KEY, "SLUICE_OPERATOR_KEY": OPERATOR_KEY}
        gate = self.server("gate", "serve", "--listen", "127.0.0.1:0", "--trainer-listen", "127.0.0.1:0",
                           "--out", self.tmp / "traces", "--log", self.tmp / "gate.log", env=keys)
        agents, api = gate.line(), gate.line()
        self.file("keys", CLIENT_KEY + "\n").chmod(0o600)
        serve = self.server("serve", "--port", "0", "--data", self.tmp / "data", "--log", self.tmp / "serve.log",
                            "--key-file", self.tmp / "keys", env={})
        self.trainer = Door("trainer", gate, api, "/v1/reply", TRAINER_KEY, 64 * MIB,
                            lambda body: (body["results"][0] if "results" in body else body)["error"]["message"])
        replayed = self.register(id="mine")
        self.operate("DELETE", "/v1/rollouts/mine")
        # An id that has a trace is not registered again.
        for kind in ".jsonl", ".bodies":
            (self.tmp / "traces" / f"mine{kind}").unlink(missing_ok=True)
        own, other, expired = self.register(id="mine"), self.register(), self.register(lifetime_s=1)
        self.trainer.rollout_key = own["key"]
        self.agents = Door("agents", gate, agents, "/v1/chat/completions", own["key"], 32 * MIB,
                           lambda body: body["error"]["message"])
        self.agents.own, self.agents.other = own["rollout"], other["rollout"]
        self.agents.replayed, self.agents.expired = replayed["key"], expired["key"]
        self.expiry = expired["expires_at"]
        self.serve = Door("serve", serve, serve.line(), "/step", CLIENT_KEY, 16 * MIB,
                          lambda body: json.dumps(body["detail"]))
        self.doors = self.agents, self.trainer, self.serve

    def server(self, *arguments, env):
        server = Process(*arguments, env=env)
        self.addCleanup(end, server.process)
        return server

    def operate(self, method, path, body=None):
        connection = http.client.HTTPConnection(*self.trainer.address, timeout=60)
        self.addCleanup(connection.close)
        connection.request(method, path, None if body is None else json.dumps(body),
                           {"Authorization": "Bearer " + OPERATOR_KEY})
        response = connection.getresponse()
        answer = json.loads(response.read())
        self.assertLess(response.status, 300, answer)
        return answer

    def register(self, **more):
        return self.operate("POST", "/v1/rollouts", more)

    def assert_all_is_well(self):
        """What was asked by nobody has not happened, and what is asked is answered as ever."""
        for rollout in self.agents.own, self.agents.other:
            self.assertEqual(self.operate("GET", f"/v1/rollouts/{rollout}")["calls"], 0)
        with self.agents.connect() as agent:
            send(agent, self.agents.sized(GOOD))
            with self.trainer.connect() as trainer:
                take = self.trainer.sized(b'{"wait_s":60}', path="/v1/next_batch")
                send(trainer, take)
                while not (calls := [item for item in json.loads(answer_of(trainer)[1])["items"]
                                     if item["type"] == "call"]):
                    send(trainer, take)
                (call,) = calls
                send(trainer, self.trainer.sized(json.dumps(
                    {"call": call["id"], "answer": {"choices": [{"text": "as ever"}]}}).encode()))
                self.assertEqual(answer_of(trainer)[0], 200)
            self.assertIn("as ever", answer_of(agent)[1])
        with self.serve.connect() as client:
            send(client, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(answer_of(client)[0], 200)
        for door in self.agents, self.serve:
            self.assertEqual(door.server.stop(), 0)

    def test_each_is_told_what_is_wrong_and_costs_no_more_than_its_body(self):
        time.sleep(max(0.0, self.expiry - time.time()))  # keys expire by the clock of the world
        for door, more in zip(self.doors, (OF_AGENTS, OF_TRAINERS, OF_SERVE)):
            for name, (make, status, says) in {**EVERYWHERE, **more}.items():
                with self.subTest(door=door.name, attack=name), door.connect() as hostile:
                    before = door.server.forget_peak()
                    send(hostile, make(door))
                    got, body = answer_of(hostile)
                    self.assertEqual(got, status, body[:200])
                    self.assertRegex(door.error(json.loads(body)), says.format(limit=door.body_limit))
                    grown = door.server.peak() - before
                    # A body that grows is copied from smaller places, which the allocator keeps a while.
                    self.assertLess(grown, (3 * door.body_limit if name in LARGE else 0) + 4 * MIB)
                    # Nothing behind it is a request of its own.
                    if name in EVERYWHERE:
                        send(hostile, SMUGGLED)
                        with contextlib.suppress(OSError):
                            hostile.shutdown(socket.SHUT_WR)
                            self.assertEqual(hostile.recv(1000), b"")
        self.assert_all_is_well()

    def test_what_strangers_send_is_not_kept(self):
        for door in self.doors:
            before = door.server.forget_peak()
            with contextlib.ExitStack() as stack:
                for _ in range(64):
                    hostile = stack.enter_context(door.connect())
                    hostile.settimeout(0.2)  # for what it does not read
                    send_some(hostile, door.head(b"Content-Length: %d\r\n" % (8 * MIB), key="wrong") + b" " * 8 * MIB)
                    hostile.settimeout(60)
                    self.assertEqual(answer_of(hostile)[0], 401)
            self.assertLess(door.server.peak() - before, 16 * MIB, door.name)
        self.assert_all_is_well()

    def test_bodies_that_never_end_share_what_there_is_for_them(self):
        for door, together, connections in zip(self.doors, (64 * MIB, 256 * MIB, 256 * MIB), (16, 14, 60)):
            size = door.body_limit - MIB
            before = door.server.forget_peak()
            with contextlib.ExitStack() as stack:
                hostile = [stack.enter_context(door.connect()) for _ in range(connections)]
                request = door.head(b"Content-Length: %d\r\n" % size) + b" " * (size - 1)
                senders = [threading.Thread(target=send, args=(one, request)) for one in hostile]
                for sender in senders:
                    sender.start()
                # As many as there is room for stay there; the others are told, and so not all.
                refused = set()
                while len(refused) < connections - together // size:
                    told = set(select.select(list(set(hostile) - refused), [], [], 60)[0])
                    self.assertTrue(told, f"{door.name}: only {len(refused)} were refused")
                    for one in told:
                        status, body = answer_of(one)
                        self.assertEqual(status, 503)
                        self.assertRegex(door.error(json.loads(body)), "too many|room|busy|again")
                    refused |= told
                for sender in senders:
                    sender.join()
                self.assertLess(len(refused), connections, door.name)
                self.assertLess(door.server.peak() - before, 2 * together + 32 * MIB, door.name)
        self.assert_all_is_well()

    def test_the_slow_are_let_go(self):
        """Of each server's connections, many with a head that drips, and some with a body that does."""
        for door in self.doors:
            door.before = door.server.forget_peak()
        with contextlib.ExitStack() as stack:
            heads, bodies = [], []
            for door in self.doors:
                for _ in range(300):
                    heads.append((door, stack.enter_context(door.connect())))
                    send(heads[-1][1], door.head(b"X: y\r\n")[:-3])
                bodies.append((door, stack.enter_context(door.connect())))
                send(bodies[-1][1], door.head(b"Content-Length: 1000000\r\n") + b"{")
            slow = {hostile: (door, what) for what, some in (("head", heads), ("body", bodies))
                    for door, hostile in some}
            waiting = set(slow)
            while waiting:
                told = select.select(list(waiting), [], [], 1)[0]
                for hostile in told:
                    door, what = slow[hostile]
                    status, body = answer_of(hostile)
                    self.assertEqual(status, 408, body)
                    self.assertIn(what, door.error(json.loads(body)))
                    self.assertIn("took too long", door.error(json.loads(body)))
                waiting -= set(told)
                for hostile in waiting:
                    send(hostile, b"x")
        for door in self.doors:
            self.assertLess(door.server.peak() - door.before, 16 * MIB, door.name)
        self.assert_all_is_well()

    def test_those_who_say_nothing_keep_nobody_out(self):
        """At each door more of them than a server keeps: silent, in mid-head, or refused and not gone."""
        with contextlib.ExitStack() as stack:
            for door in self.doors:
                says = b"", b"GET /health HT", door.head(b"Content-Length: 1000\r\n", key="wrong")
                for i in range(count(1_500, 4_000)):
                    send(stack.enter_context(door.connect()), says[i % len(says)])
            for door in self.doors:
                with door.connect() as client:
                    send(client, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    self.assertEqual(answer_of(client)[0], 200, door.name)
            self.assert_all_is_well()


def send_some(connection, data):
    with contextlib.suppress(TimeoutError):
        send(connection, data)


if __name__ == "__main__":
    unittest.main()
