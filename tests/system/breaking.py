"""Runs an agent behind a proxy that breaks connections to the gate. In the sandbox:

    breaking.py GATE_URL CONFIG_FILE CUTS COMMAND...

CONFIG_FILE is made to name the proxy in the gate's place. CUTS says of each request, in order and with
commas between, where its connection is reset: `headers` (before the agent has any), `wait` (behind them),
`answer` (in the middle of it), or nothing.
"""

import itertools
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

url, config, cuts, *command = sys.argv[1:]
gate_address = urllib.parse.urlsplit(url).netloc
cuts = itertools.chain(cuts.split(","), itertools.repeat(""))
lock = threading.Lock()


class Reader:
    def __init__(self, connection):
        self.connection = connection
        self.buffer = b""

    def more(self):
        data = self.connection.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data

    def take(self, size):
        while len(self.buffer) < size:
            self.more()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def until(self, end):
        while end not in self.buffer:
            self.more()
        return self.take(self.buffer.index(end) + len(end))


def length_of(head):
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return None


def reset(*connections):
    # Nobody tells when the agent has read what it was sent, and a reset takes what it has not.
    time.sleep(0.3)
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def copy_answer(head, source, agent):
    length = length_of(head)
    if length is not None:
        agent.sendall(source.take(length))
        return
    size = None
    while size != 0:
        line = source.until(b"\r\n")
        size = int(line, 16)
        agent.sendall(line + source.take(size + 2))


def serve_one(request, cut, agent):
    """False when the connection was broken."""
    host, port = gate_address.split(":")
    gate = socket.socket()
    # With room for little: the rest of a long answer then stays with the gate, unacknowledged.
    gate.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    gate.connect((host, int(port)))
    gate.sendall(request)
    source = Reader(gate)
    head = source.until(b"\r\n\r\n")  # of a streamed call it comes at once
    if cut != "headers":
        agent.sendall(head)
    if cut == "answer":
        agent.sendall(source.take(2000))
    if cut:
        reset(agent, gate)
        return False
    copy_answer(head, source, agent)
    gate.close()
    return True


def serve(agent):
    requests = Reader(agent)
    try:
        while True:
            head = requests.until(b"\r\n\r\n")
            body = requests.take(length_of(head) or 0)
            with lock:
                cut = next(cuts)
            if not serve_one(head + body, cut, agent):
                return
    except (EOFError, OSError):
        agent.close()


def accept(listener):
    while True:
        agent, _ = listener.accept()
        threading.Thread(target=serve, args=(agent,), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
with open(config, encoding="utf-8") as file:
    text = file.read()
assert gate_address in text
with open(config, "w", encoding="utf-8") as file:
    file.write(text.replace(gate_address, "127.0.0.1:%d" % listener.getsockname()[1]))
threading.Thread(target=accept, args=(listener,), daemon=True).start()
sys.exit(subprocess.run(command, check=False).returncode)
