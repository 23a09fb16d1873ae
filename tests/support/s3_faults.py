"""A proxy before an S3 server that answers late or refuses what is written."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 60  # seconds
ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>refused</Message></Error>'


class S3Proxy:
    """Passes requests on to an S3 server on this machine.

    Attributes:
        refusal: status and code with which writes are refused.
        left: how many more are refused.
        together: how many requests must wait for an answer before the first is answered; then 0.
        silent: how many more requests are never answered, though their connections stay open.
    """

    def __init__(self, port: int) -> None:
        self.refusal, self.left = (507, "InsufficientStorage"), 0
        self.together, self._open, self.silent = 0, 0, 0
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, port))
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @contextmanager
    def request(self) -> Iterator[None]:
        with self._changed:
            self._open += 1
            if self._open >= self.together:
                self.together = 0
                self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self.together, PATIENCE)
        yield
        with self._changed:
            self._open -= 1

    def falls_silent(self) -> bool:
        """Whether a request is to stay without an answer; returns when the proxy is closed."""
        with self._changed:
            silent, self.silent = self.silent > 0, max(0, self.silent - 1)
        return silent and self._closed.wait()

    def close(self) -> None:
        self._closed.set()
        self.server.shutdown()
        self.server.server_close()


def _handler(proxy: S3Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            with proxy.request():
                content = self.content()
                if proxy.falls_silent():
                    self.close_connection = True
                    return
                if proxy.left and self.command in ("PUT", "POST"):
                    proxy.left -= 1
                    status, code = proxy.refusal
                    self.answer(status, {}, ERROR.format(code=code).encode())
                    return
                server = http.client.HTTPConnection("127.0.0.1", port)
                own = ("transfer-encoding", "content-length", "expect", "connection")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in own}
                server.request(self.command, self.path, content, headers)
                found = server.getresponse()
                self.answer(found.status, dict(found.getheaders()), found.read())
                server.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

        def content(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            return content

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            own = {"content-length", "connection", "transfer-encoding"}
            for name, value in headers.items():
                if name.lower() not in own or (name.lower() == "content-length" and self.command == "HEAD"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    return Handler
