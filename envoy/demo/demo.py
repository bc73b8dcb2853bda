"""The main job of daypass, end to end: a real Envoy asks it about every request.

    python3 envoy/demo/demo.py --daypass PATH --envoy PATH [--redis-server PATH]

Starts an upstream, daypass and Envoy on free ports, and walks through the life of access: asked for, agreed to, used and
given back, with the command line and by HTTP and JSON; and of a grant that runs out. Exit status 0 if every step went as
it should. With --redis-server all of it lives in a Redis of its own, and the last grant is written the way any program may
write one: SET and DEL.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import demo_token as tokens  # noqa: E402  (ours, beside this file)

ENVOY_CONFIG = Path(__file__).parent.parent / "jwt.yaml"
ECHO = Path(__file__).parent / "echo.py"
ENTITLEMENTS = Path(__file__).parent.parent.parent / "policies" / "entitlements.yaml"
ENTITLEMENT = "orders-db-read"
SUBJECT = "alice@corp"
# Who they are, and their groups; the entitlement names the groups.
PEOPLE = {"alice": (SUBJECT, "engineering"), "bob": ("bob@corp", "orders-team")}
HOST = "orders.example"
START_SECONDS = 30
# How long a change may take to show. It takes milliseconds; a busy machine may need more to run us at all.
SETTLE_SECONDS = 2.0

BOLD, DIM, GREEN, RED, PLAIN = ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("",) * 5


class Failure(Exception):
    """A step went otherwise."""


class Demo:
    def __init__(self, directory: Path, arguments: argparse.Namespace) -> None:
        self.directory = directory
        self.daypass = arguments.daypass
        self.envoy = arguments.envoy
        self.redis_server = arguments.redis_server
        self.processes: list[subprocess.Popen] = []
        self.ports: dict[str, int] = {}
        self.step_number = 0
        self.api_tokens: dict[str, str] = {}

    # -- what is running

    def start(self, name: str, command: list[str]) -> Path:
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            self.processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
        return log

    def wait_for(self, log: Path, pattern: str) -> str:
        """The first group of the pattern, once a line of the log of the process started last has it."""
        found = None

        def look() -> bool:
            nonlocal found
            found = re.search(pattern, log.read_text(errors="replace"))
            return found is not None

        wait_until(log.stem, look, self.log_tail(log.stem), self.last_has_ended)
        return found.group(1)

    def last_has_ended(self) -> bool:
        return self.processes[-1].poll() is not None

    def start_all(self) -> None:
        log = self.start("echo", [sys.executable, str(ECHO), "0"])
        self.ports["upstream"] = int(self.wait_for(log, r"echo listens on 127\.0\.0\.1:(\d+)"))
        store = "embedded"
        if self.redis_server:
            socket_path = self.directory / "redis.sock"
            self.start("redis", [self.redis_server, "--port", "0", "--unixsocket", str(socket_path), "--save", ""])
            store = f"unix://{socket_path}"
        log = self.start("daypass", [
            self.daypass, "serve", "--data-dir", str(self.directory / "data"), "--store", store,
            "--policy", str(ENTITLEMENTS), "--listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
        ])  # fmt: skip
        for name in ("check", "api", "ops"):
            self.ports[name] = int(self.wait_for(log, rf"listening .*{name}=127\.0\.0\.1:(\d+)"))
        for name, (user, group) in PEOPLE.items():
            self.api_tokens[name] = self.new_token(user, group)
        # The server looks at the file of tokens twice a second.
        wait_until("the API's tokens", lambda: self.api_status("bob", "/v1/caller") == 200, self.log_tail("daypass"))
        self.ports["ingress"], self.ports["admin"] = free_port(), free_port()
        tokens.key(self.directory)
        config = self.directory / "envoy.yaml"
        config.write_text(self.envoy_config())
        log = self.start("envoy", [self.envoy, "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"])
        wait_until("Envoy", lambda: request_status(self.ports["ingress"], "/", {}) is not None, self.log_tail("envoy"), self.last_has_ended)
        wait_until("daypass", lambda: request_status(self.ports["ops"], "/readyz", {}) == 200, self.log_tail("daypass"))

    def new_token(self, user: str, group: str) -> str:
        command = ["token", "create", "--principal", f"user:{user}", "--group", f"group:{group}"]
        command = [self.daypass, *command, "--data-dir", str(self.directory / "data")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def envoy_config(self) -> str:
        """The configuration of the repository, with this run's ports and keys."""
        text = ENVOY_CONFIG.read_text()
        changes = {
            "port_value: 9901": f"port_value: {self.ports['admin']}",
            "port_value: 10000": f"port_value: {self.ports['ingress']}",
            "port_value: 9191": f"port_value: {self.ports['check']}",
            "port_value: 8080": f"port_value: {self.ports['upstream']}",
            "envoy/keys/jwks.json": str(self.directory / "jwks.json"),
        }
        for old, new in changes.items():
            if text.count(old) != 1 and "jwks" not in old:
                raise Failure(f"{ENVOY_CONFIG} no longer has exactly one {old!r}")
            text = re.sub(r"(?m)^(?!#)(.*)" + re.escape(old), lambda found: found.group(1) + new, text)
        return text

    def log_tail(self, name: str):
        return lambda: "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-10:])

    def stop_all(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()

    # -- the walk

    def say(self, text: str) -> None:
        self.step_number += 1
        print(f"\n{BOLD}{self.step_number}. {text}{PLAIN}")

    def request(self, path: str, expected: int, contains: str, bearer: str | None = None, patience: float = 0.0) -> None:
        """Sends, prints, and fails unless the answer is as expected, at once or within `patience` seconds."""
        headers = {"host": HOST} | ({"authorization": f"Bearer {bearer}"} if bearer else {})
        deadline = time.monotonic() + patience
        while True:
            status, body = send(self.ports["ingress"], path, headers)
            if (status == expected and contains in body) or time.monotonic() > deadline:
                break
            time.sleep(0.005)
        who = f"  (token of {SUBJECT})" if bearer else "  (no token)"
        print(f"   GET http://{HOST}{path}{DIM}{who}{PLAIN}")
        is_expected = status == expected and contains in body
        colour = GREEN if is_expected else RED
        print(f"   {colour}{status}{PLAIN} {body.strip()}")
        if not is_expected:
            raise Failure(f"expected {expected} and {contains!r} in the body")

    def create(self, path: str, seconds: int) -> str:
        if self.redis_server:
            return self.set_grant(path, seconds)
        return self.cli(None, [
            "grant", "create", "--subject", f"user:{SUBJECT}", "--host", HOST, "--method", "GET", "--path", path,
            "--ttl", f"{seconds}s", "--ticket", "OPS-42",
        ]).split()[1]  # fmt: skip

    def cli(self, who: str | None, arguments: list[str], fails: str = "") -> str:
        """Runs as one of the people, or as the administrator. With `fails`, it must, and say that."""
        shown = " ".join(f"'{word}'" if re.search(r"[ *]", word) else word for word in arguments)
        print(f"   {who or 'admin'}$ daypass {shown}")
        environment = os.environ | {"DAYPASS_API": f"http://127.0.0.1:{self.ports['api']}", "XDG_CONFIG_HOME": str(self.directory)}
        environment |= {"DAYPASS_TOKEN": self.api_tokens[who]} if who else {"DAYPASS_DATA_DIR": str(self.directory / "data")}
        result = subprocess.run([self.daypass, *arguments], capture_output=True, text=True, check=False, env=environment)
        output = (result.stdout + result.stderr).strip()
        print("   " + output.replace("\n", "\n   "))
        if (result.returncode != 0) != bool(fails) or fails not in output:
            raise Failure(f"expected the command to fail and say {fails!r}" if fails else "the command failed")
        return result.stdout

    def api_status(self, who: str, path: str) -> int | None:
        return request_status(self.ports["api"], path, {"authorization": f"Bearer {self.api_tokens[who]}"})

    def rest(self, who: str, method: str, path: str, body: dict | None = None) -> dict:
        """The same API, as anything that speaks HTTP and JSON would call it."""
        text = json.dumps(body or {})
        print(f"   {who}$ curl -H \"authorization: Bearer $TOKEN\" --json '{text}' http://.../{path.lstrip('/')}")
        headers = {"authorization": f"Bearer {self.api_tokens[who]}", "content-type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["api"], timeout=5)
        connection.request(method, path, body=text, headers=headers)
        response = connection.getresponse()
        answer = response.read().decode()
        print(f"   {response.status} {answer.strip()}")
        if response.status != 200:
            raise Failure("the call failed")
        return json.loads(answer)

    def set_grant(self, path: str, seconds: int) -> str:
        grant = f"demo-{self.step_number}"
        value = {
            "v": 1,
            "subject": f"user:{SUBJECT}",
            "permissions": [{"hosts": [HOST], "methods": ["GET"], "paths": [path]}],
            "ticket": "OPS-42",
        }
        self.redis(["SET", f"{{jit}}:grant:{grant}", json.dumps(value), "PX", str(seconds * 1000)])
        return grant

    def redis(self, words: list[str]) -> None:
        print("   redis> " + " ".join(f"'{word}'" if "{" in word else word for word in words))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.directory / "redis.sock"))
            parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            answer = connection.recv(1024).decode().strip()
        print(f"   {answer}")
        if answer.startswith("-"):
            raise Failure("Redis refused")

    def walk(self) -> None:
        alice = tokens.token(self.directory, SUBJECT, ["engineering"])
        self.say("Nobody: Envoy's jwt_authn turns the request away before anybody is asked.")
        self.request("/db/orders", 401, "Jwt is missing")
        self.say("Alice has a valid token, and no grant. daypass denies, and says how to ask for this very request.")
        self.request("/db/orders", 403, f"daypass request create {ENTITLEMENT}", alice)
        self.by_command_line(alice)
        self.by_http(alice)
        self.say("Every step is on record, numbered and chained; whoever changes one is found out.")
        self.cli(None, ["audit", "verify"])
        self.that_runs_out(alice)

    def by_command_line(self, alice: str) -> None:
        self.say("Alice asks.")
        asked = ["request", "create", ENTITLEMENT, "--for", "15m", "--reason", "customer 4711 misses an order", "--no-wait", "--json"]
        request = json.loads(self.cli("alice", asked))["id"]
        self.say("She cannot agree to it herself.")
        self.cli("alice", ["request", "approve", request], fails="own")
        self.say("Bob can, and gives her ten minutes.")
        self.cli("bob", ["request", "ls", "--reviewable"])
        self.cli("bob", ["request", "approve", request, "--for", "10m", "--reason", "go ahead"])
        grant = json.loads(self.cli("alice", ["request", "show", request, "--json"]))["grant"]
        self.say("The same request passes, and the upstream is told under which grant and until when.")
        self.request("/db/orders", 200, grant, alice, patience=SETTLE_SECONDS)
        self.say("Another path is still denied, and so is the same path in disguise.")
        self.request("/admin", 403, '"reason":"not_covered"', alice)
        self.request("/db/%2e%2e/admin", 403, '"reason":"not_covered"', alice)
        self.say("She gives it back.")
        self.cli("alice", ["grant", "drop", grant])
        self.request("/db/orders", 403, '"reason":"no_grant"', alice, patience=SETTLE_SECONDS)

    def by_http(self, alice: str) -> None:
        self.say("The same by HTTP and JSON: asked ...")
        asked = {"entitlement": ENTITLEMENT, "duration": "900s", "justification": "customer 4711 misses an order"}
        request = self.rest("alice", "POST", "/v1/requests", asked)["id"]
        self.say("... approved ...")
        grant = self.rest("bob", "POST", f"/v1/requests/{request}:approve", {"reason": "go ahead"})["grant"]
        self.say("... used ...")
        self.request("/db/orders", 200, grant, alice, patience=SETTLE_SECONDS)
        self.say("... and given back.")
        self.rest("alice", "POST", f"/v1/grants/{grant}:relinquish")
        self.request("/db/orders", 403, '"reason":"no_grant"', alice, patience=SETTLE_SECONDS)

    def that_runs_out(self, alice: str) -> None:
        self.say("An administrator gives a grant without a request, for 2 seconds.")
        grant = self.create("/db/**", 2)
        created = time.monotonic()
        self.request("/db/orders", 200, grant, alice, patience=SETTLE_SECONDS)
        self.say("It runs out by itself.")
        self.request("/db/orders", 403, '"reason":"no_grant"', alice, patience=2 + SETTLE_SECONDS)
        print(f"   {DIM}denied {time.monotonic() - created:.2f} s after the grant was created{PLAIN}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def send(port: int, path: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def request_status(port: int, path: str, headers: dict[str, str]) -> int | None:
    try:
        return send(port, path, headers)[0]
    except (OSError, http.client.HTTPException):
        return None


def wait_until(what: str, condition, explain, has_ended=lambda: False) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if has_ended() or time.monotonic() > deadline:
            raise Failure(f"{what} did not start:\n{explain()}")
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description="daypass in front of a real Envoy.")
    parser.add_argument("--daypass", required=True)
    parser.add_argument("--envoy", required=True)
    parser.add_argument("--redis-server", default="")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="daypass-demo-"))
    demo = Demo(directory, arguments)
    try:
        store = "a Redis of its own" if arguments.redis_server else "the embedded store"
        print(f"Starting an echo upstream, daypass with {store}, and Envoy ...")
        demo.start_all()
        demo.walk()
        print(f"\n{GREEN}All {demo.step_number} steps went as they should.{PLAIN}")
        return 0
    except Failure as failure:
        print(f"\n{RED}The demo failed: {failure}{PLAIN}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        demo.stop_all()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
