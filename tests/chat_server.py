"""A chat server on the loopback interface, with faults to order."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Answers chat completions with the last message in capitals, or what ``reply`` makes of it;
    told faults come first.
    """

    def __init__(self) -> None:
        outer = self
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        self.faults: list[tuple] = []  # (status, headers) or ("cut",)
        self.refused: set[str] = set()
        self.models = ["tiny"]
        self.reply = str.upper
        self.delay = 0.0
        self.logprobs: dict[str, dict[str, float]] = {}
        self.now = self.most = 0
        self.lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, status, data, headers=()):
                content = json.dumps(data).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):
                data = [{"id": name} for name in outer.models]
                self.answer(200 if self.path == "/v1/models" else 404, {"data": data})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                    fault = outer.faults.pop(0) if outer.faults else None
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                try:
                    time.sleep(outer.delay)
                    self.respond(body, fault)
                finally:
                    with outer.lock:
                        outer.now -= 1

            def respond(self, body, fault):
                text = body["messages"][-1]["content"]
                if fault == ("cut",):
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"choices"')
                    self.close_connection = True
                elif fault:
                    self.answer(fault[0], {"error": "busy"}, fault[1])
                elif text in outer.refused:
                    self.answer(400, {"error": "no such thing"})
                else:
                    choice = {"message": {"content": outer.reply(text)}, "finish_reason": "stop"}
                    if body.get("logprobs"):
                        scored = next((v for k, v in outer.logprobs.items() if k in text), {})
                        top = [{"token": t, "logprob": p} for t, p in scored.items()]
                        choice["logprobs"] = {"content": [{"top_logprobs": top}]} if top else None
                    self.answer(200, {"choices": [choice]})

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
