"""Many sessions with all that goes wrong between a client and a server, for 30 s (10 minutes under
--slow): slots come back, memory and descriptors stay where they were.
"""

import asyncio
import base64
import json
import os
import random
import signal
import struct
import time
from pathlib import Path

import pytest

from serving import SLOW, SOURCE, Served, wait_for

SECONDS = 600 if SLOW else 30
SESSIONS = 64


def descriptors_of(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def allocated(server):
    """The bytes that env_test_server has asked for and not given back."""
    server.process.send_signal(signal.SIGUSR1)
    return int(server.process.stdout.readline())


def metric(server, name):
    text = server.fetch("/metrics")[1]
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                if line.startswith(name + " "))


def frame(payload, opcode=1, masked=True):
    head = bytes([0x80 | opcode])
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    return head + (bytes(4) if masked else b"") + payload


ASK = [json.dumps(one).encode() for one in (
    {"type": "reset"}, {"type": "reset", "data": {"episode_id": "x" * 200}}, {"type": "state"},
    {"type": "step", "data": {"type": "list_tools"}},
    {"type": "step", "data": {"tool_name": "echo", "arguments": {"message": "hi", "times": 3}}},
    {"type": "step", "data": {"tool_name": "fail"}},
    {"type": "step", "data": {"tool_name": "wait", "arguments": {"seconds": 0.05}}},
    {"type": "mcp", "data": {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}},
    {"type": "nonsense"}, {"type": "step", "data": {"tool_name": 5, "bogus": []}})]
LARGE = json.dumps({"type": "step", "data": {
    "tool_name": "echo", "arguments": {"message": "x" * 1000, "times": 2000}}}).encode()
BROKEN = [b"{", b"[]", b"\xff\xfe", b"null", b"{" * 2000, b'{"type":"step","data":' + b"[" * 200]


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, server, path, key=None):
        host, port = server.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
        nonce = base64.b64encode(os.urandom(16)).decode()
        extra = f"Authorization: Bearer {key}\r\n" if key else ""
        writer.write((f"GET {path} HTTP/1.1\r\nHost: {server.address}\r\nUpgrade: websocket\r\n"
                      f"Connection: Upgrade\r\nSec-WebSocket-Key: {nonce}\r\n{extra}"
                      "Sec-WebSocket-Version: 13\r\n\r\n").encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert b" 101 " in head, head
        return cls(reader, writer)

    def send(self, payload, opcode=1, masked=True):
        self.writer.write(frame(payload, opcode, masked))

    async def receive(self):
        while True:
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                size = struct.unpack("!H", await self.reader.readexactly(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", await self.reader.readexactly(8))[0]
            payload = await self.reader.readexactly(size)
            if first & 0x0F == 8:
                raise ConnectionError("closed")
            if first & 0x0F == 1:
                return payload

    def abort(self):
        self.writer.transport.abort()


async def session(server, rng, held):
    """One session and its end, whatever that is."""
    client = await Client.open(server, rng.choice(["/ws", "/ws", "/ws", "/mcp"]))
    try:
        for _ in range(rng.randrange(1, 12)):
            what = rng.random()
            if what < 0.7:
                client.send(rng.choice(ASK))
                await asyncio.wait_for(client.receive(), 20)
            elif what < 0.8:
                client.send(rng.choice(BROKEN))
                await asyncio.wait_for(client.receive(), 20)
            elif what < 0.84:  # what is no WebSocket frame at all
                client.writer.write(rng.randbytes(rng.randrange(1, 200)))
                await asyncio.sleep(rng.random() * 0.05)
                return client.abort()
            elif what < 0.88:  # leaves in the middle of a step
                client.send(ASK[6])
                await asyncio.sleep(rng.random() * 0.04)
                return client.abort()
            elif what < 0.92:  # a frame that never ends
                client.writer.write(frame(b"x" * 5000)[:rng.randrange(1, 4000)])
                await asyncio.sleep(rng.random() * 0.05)
                return client.abort()
            elif what < 0.95:  # asks for much, reads slowly, then not at all
                client.send(LARGE)
                client.send(LARGE)
                await asyncio.sleep(0.1)
                return client.abort()
            elif what < 0.98:
                client.send(b"", opcode=9)
            else:  # half-open: says nothing more, does not close
                held.append(client)
                return None
        client.send(b'{"type":"close"}')
        return None
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.TimeoutError):
        return None
    finally:
        if client not in held:
            client.abort()


async def worker(server, seed, end, least, done, held):
    rng = random.Random(seed)
    while time.monotonic() < end or len(done) < least:
        try:
            await session(server, rng, held)
        except (ConnectionError, asyncio.IncompleteReadError, OSError):
            pass  # at capacity
        while len(held) > 16:
            held.pop(0).abort()
        done.append(seed)


async def storm(server, seconds, least, seed):
    """So many sessions at least, for so long at least."""
    end = time.monotonic() + seconds
    held, done = [], []
    await asyncio.gather(*(worker(server, seed * 1000 + n, end, least, done, held)
                           for n in range(SESSIONS)))
    for client in held:
        client.abort()


def settled(server, descriptors, seconds=60):
    """Waits until the server holds no session, and no more than so many descriptors: a connection
    outlives its session by the seconds that its client has to read the end."""
    end = time.monotonic() + seconds
    while (left := metric(server, "sluice_env_sessions")) > 0:
        assert time.monotonic() < end, f"{left} sessions are left"
        time.sleep(0.1)
    while (held := descriptors_of(server)) > descriptors:
        assert time.monotonic() < end, f"{held} descriptors instead of {descriptors}"
        time.sleep(0.1)


def test_sessions_with_all_that_goes_wrong():
    with Served("env_test_server", "--sessions", SESSIONS) as server:
        assert server.fetch("/health") == (200, {"status": "healthy"})
        descriptors = descriptors_of(server)
        # What is made once and kept (tables that have grown, the last rollouts) is made by now.
        asyncio.run(storm(server, 15, least=SESSIONS * 8, seed=1))
        settled(server, descriptors)
        memory = allocated(server)
        asyncio.run(storm(server, SECONDS, least=SECONDS * 10, seed=2))
        settled(server, descriptors)
        assert allocated(server) <= memory + (1 << 20)
        assert server.fetch("/health") == (200, {"status": "healthy"})

        async def all_slots():
            clients = [await Client.open(server, "/ws") for _ in range(SESSIONS)]
            for client in clients:
                client.send(b'{"type":"state"}')
            for client in clients:
                assert b'"type":"state"' in await asyncio.wait_for(client.receive(), 20)
                client.abort()

        asyncio.run(all_slots())
        code, rest = server.stop()
        assert code == 0
        counts = json.loads(rest)
        assert counts["created"] == counts["closed"] and counts["waiting"] == 0


def command_lines():
    """Of every process on this machine, in a sandbox or not."""
    lines = b""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines += file.read_bytes() + b"\n"
        except OSError:
            pass  # it has ended
    return lines


def descendants(pid):
    """What a process has started, and what that has."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def test_rollouts_whose_clients_leave(tmp_path):
    """The same with real sandboxes: none is left, nor what ran in it."""
    step = {"type": "step", "data": {"tool_name": "run_rollout", "arguments": {
        "agent": "caller", "base_url": "http://127.0.0.1:9/v1", "api_key": "k", "model": "m",
        "instruction": json.dumps([{"sleep": 30}]), "verify": ["true"]}}}

    async def one(server, rng):
        client = await Client.open(server, "/ws")
        client.send(json.dumps(step).encode())
        await asyncio.sleep(rng.random() * 0.4)
        client.abort()

    def rollouts(server, state):
        return server.fetch(f"/rollouts?limit=1000&state={state}")[1]["rollouts"]

    # An agent's command line names its rollout, so that it would be seen wherever it has gone.
    def ids(server, state):
        return [row["rollout_id"].encode() for row in rollouts(server, state)]

    async def stay(server):
        client = await Client.open(server, "/ws")
        client.send(json.dumps(step).encode())
        await asyncio.to_thread(wait_for, lambda: any(
            one in command_lines() for one in ids(server, "running")))
        assert descendants(server.process.pid) > idle
        client.abort()

    async def many(server, count):
        rng = random.Random(3)
        for _ in range(count):
            await asyncio.gather(*(one(server, rng) for _ in range(8)))

    with Served("sluice", "serve", "--port", 0, "--max-sessions", SESSIONS, "--data",
                tmp_path / "data", "--agents-dir", SOURCE / "tests/system/agents") as server:
        assert server.fetch("/health")[0] == 200
        descriptors = descriptors_of(server)
        idle = descendants(server.process.pid)
        asyncio.run(stay(server))
        asyncio.run(many(server, 60 if SLOW else 6))
        settled(server, descriptors)
        assert rollouts(server, "running") == []
        ended = ids(server, "ended")
        assert len(ended) > 1
        lines = command_lines()
        assert [one for one in ended if one in lines] == []
        # Sandboxes that were begun ahead of being asked for go some seconds later.
        wait_for(lambda: descendants(server.process.pid) == idle, 60)
        assert server.stop()[0] == 0


@pytest.mark.parametrize("payload", [b"GET / HTTP/1.1\r\n", b"POST /mcp HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"])
def test_half_open_requests_do_not_hold_others_up(payload):
    import socket

    with Served("env_test_server") as server:
        host, port = server.address.rsplit(":", 1)
        held = [socket.create_connection((host, int(port))) for _ in range(100)]
        for one in held:
            one.sendall(payload)
        assert server.fetch("/state")[0] == 200
        for one in held:
            one.close()
