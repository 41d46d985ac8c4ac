"""A WebSocket client (RFC 6455) as far as this wire needs one: text messages in turn, no extensions.

Reading goes on in the background, so that pings are answered while a rollout runs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
import struct
import urllib.parse

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
MAX_MESSAGE = 256 * 1024 * 1024


def _masked(payload: bytes, key: bytes) -> bytes:
    whole = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(payload), "big")


class WebSocket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ping_s: float):
        self._reader, self._writer = reader, writer
        self._messages: asyncio.Queue[str | None] = asyncio.Queue(16)
        self._failure: str = "the connection was closed"
        self._heard = asyncio.get_running_loop().time()
        self._ping_s = ping_s
        self._closing = False
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._ping())]

    @classmethod
    async def connect(cls, url: str, headers: dict[str, str], timeout_s: float,
                      ping_s: float = 20.0) -> WebSocket:
        parts = urllib.parse.urlsplit(url)
        secure = parts.scheme == "wss"
        port = parts.port or (443 if secure else 80)
        if not parts.hostname:
            raise ConnectionError(f"{url}: no host in this URL")
        try:
            return await asyncio.wait_for(
                cls._connect(parts, port, secure, headers, ping_s), timeout_s)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError,
                asyncio.TimeoutError) as error:
            if isinstance(error, ConnectionError) and str(error).startswith("ws"):
                raise
            raise ConnectionError(f"cannot connect to {_shown(url)}: {error!r}") from error

    @classmethod
    async def _connect(cls, parts, port, secure, headers, ping_s):
        reader, writer = await asyncio.open_connection(
            parts.hostname, port, ssl=ssl.create_default_context() if secure else None,
            limit=1 << 20)
        try:
            nonce = base64.b64encode(os.urandom(16)).decode()
            host = parts.netloc.rpartition("@")[2]
            lines = [f"GET {parts.path or '/'} HTTP/1.1", f"Host: {host}", "Upgrade: websocket",
                     "Connection: Upgrade", f"Sec-WebSocket-Key: {nonce}", "Sec-WebSocket-Version: 13"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            if any("\r" in line or "\n" in line for line in lines):
                raise ValueError("a header holds a line break")
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = head[0].split(" ", 2)
            if len(status) < 2 or status[1] != "101":
                raise ConnectionError(f"ws handshake refused: {head[0]}")
            answer = {name.strip().lower(): value.strip()
                      for name, _, value in (line.partition(":") for line in head[1:])}
            expected = base64.b64encode(hashlib.sha1(nonce.encode() + _GUID).digest()).decode()
            if answer.get("sec-websocket-accept") != expected:
                raise ConnectionError("ws handshake broken: not a WebSocket server")
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer, ping_s)

    def _frame(self, opcode: int, payload: bytes) -> None:
        head = bytes([0x80 | opcode])
        size = len(payload)
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 1 << 16:
            head += bytes([0x80 | 126]) + struct.pack("!H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack("!Q", size)
        key = os.urandom(4)
        self._writer.write(head + key + _masked(payload, key))

    async def send(self, text: str) -> None:
        if self._closing:
            raise ConnectionError(self._failure)
        try:
            self._frame(_TEXT, text.encode())
            await self._writer.drain()
        except OSError as error:
            raise ConnectionError(f"the connection is lost: {error}") from error

    async def receive(self, timeout_s: float | None) -> str:
        try:
            message = await asyncio.wait_for(self._messages.get(), timeout_s)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer within {timeout_s} s") from None
        if message is None:
            self._messages.put_nowait(None)
            raise ConnectionError(self._failure)
        return message

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        whole = b""
        try:
            while True:
                first, second = await self._reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    size = struct.unpack("!H", await self._reader.readexactly(2))[0]
                elif size == 127:
                    size = struct.unpack("!Q", await self._reader.readexactly(8))[0]
                if second & 0x80 or first & 0x70:
                    raise ConnectionError("the server broke the WebSocket protocol")
                if size + len(whole) > MAX_MESSAGE:
                    raise ConnectionError(f"a message of more than {MAX_MESSAGE} bytes")
                payload = await self._reader.readexactly(size)
                self._heard = loop.time()
                opcode = first & 0x0F
                if opcode == _PING:
                    self._frame(_PONG, payload)
                elif opcode == _CLOSE:
                    code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
                    self._failure = f"the server closed the connection ({code})"
                    if not self._closing:
                        self._frame(_CLOSE, payload[:2])
                    break
                elif opcode in (_TEXT, _BINARY, 0):
                    whole += payload
                    if first & 0x80:
                        text, whole = whole.decode(), b""
                        await self._messages.put(text)
        except (OSError, asyncio.IncompleteReadError, UnicodeDecodeError) as error:
            self._failure = f"the connection is lost: {error}"
        finally:
            self._closing = True
            self._tasks[1].cancel()
            self._writer.close()
            if self._messages.full():
                self._messages.get_nowait()
            self._messages.put_nowait(None)

    async def _ping(self) -> None:
        """A server that is gone without a word is noticed by its silence."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._ping_s)
            if loop.time() - self._heard > 2 * self._ping_s + 1:
                self._failure = "the server does not answer pings"
                self._writer.transport.abort()
                return
            self._frame(_PING, b"")

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            try:
                self._frame(_CLOSE, struct.pack("!H", 1000))
                await self._writer.drain()
                await asyncio.wait_for(asyncio.shield(self._tasks[0]), 5)
            except (OSError, asyncio.TimeoutError):
                pass
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.close()


def _shown(url: str) -> str:
    """The URL without what may be a key."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
