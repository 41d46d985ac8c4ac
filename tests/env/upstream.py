"""A model endpoint (Chat Completions) that plays a script, as an inference server of black-box
rollouts. Only the standard library is used.

The script is a list of turns; a conversation with N assistant messages gets turn N. A turn is a text,
or (tool, arguments) for one tool call.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Upstream:
    # Where logprobs are asked for, an answer has two tokens.
    LOGPROBS = {"content": [{"token": "to", "logprob": -0.5, "bytes": None, "top_logprobs": []},
                            {"token": "ken", "logprob": -0.25, "bytes": None, "top_logprobs": []}]}

    def __init__(self, *script, key="upstream-key", delay=0, host="127.0.0.1", logprobs=LOGPROBS):
        self.script, self.key, self.delay, self.logprobs = script, key, delay, logprobs
        self.requests = []  # bodies, as they came
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.answer(self, body)

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{host}:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request, body):
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return self.send(request, 401, "application/json", b'{"error":{"message":"no key"}}')
        if request.path != "/v1/chat/completions":
            return self.send(request, 404, "application/json", b"{}")
        if self.delay:
            threading.Event().wait(self.delay)
        number = sum(message["role"] == "assistant" for message in body["messages"])
        turn = self.script[min(number, len(self.script) - 1)]
        message = {"role": "assistant", "content": None}
        if isinstance(turn, str):
            message["content"] = turn
        else:
            message["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": {
                "name": turn[0], "arguments": json.dumps(turn[1])}}]
        finish = "stop" if isinstance(turn, str) else "tool_calls"
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        logprobs = self.logprobs if body.get("logprobs") else None
        frame = {"id": "chatcmpl-1", "created": 1, "model": body["model"], "usage": usage}
        if not body.get("stream"):
            return self.send(request, 200, "application/json", json.dumps(
                {**frame, "object": "chat.completion",
                 "choices": [{"index": 0, "message": message, "finish_reason": finish,
                              "logprobs": logprobs}]}).encode())
        for index, call in enumerate(message.get("tool_calls", [])):
            call["index"] = index
        frame["object"] = "chat.completion.chunk"
        frames = [{**frame, "choices": [{"index": 0, "delta": message, "finish_reason": None,
                                         "logprobs": logprobs}]},
                  {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]
        text = "".join(f"data: {json.dumps(one)}\n\n" for one in frames) + "data: [DONE]\n\n"
        return self.send(request, 200, "text/event-stream", text.encode())

    @staticmethod
    def send(request, status, kind, body):
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
