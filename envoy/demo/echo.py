"""An upstream that answers what it was asked, so that one sees what Envoy let through.

    python3 echo.py [PORT] [ADDRESS]        (port 0: any free one, printed)
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        shown = {name: value for name, value in self.headers.items() if name.lower().startswith("x-daypass")}
        body = json.dumps({"upstream": "echo", "method": self.command, "path": self.path, "headers": shown}) + "\n"
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = answer

    def log_message(self, *_: object) -> None:
        """Envoy's access log says it all."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    server = ThreadingHTTPServer((address, port), Echo)
    print(f"echo listens on {address}:{server.server_port}", flush=True)
    server.serve_forever()
