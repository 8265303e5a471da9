"""Asks the real program everything its OpenAPI document allows, and what it does not, and holds the answers against the document.

    scripts/api-fuzz                     every operation
    scripts/api-fuzz --include-path X    what else `schemathesis run` takes

Zero answers of 5xx and zero answers that the document does not describe, at most 15 examples for an operation and four minutes in all.
`--phases coverage` tries every bound of every value, which takes longer.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGRAM = pathlib.Path(os.environ.get("LEDGERLINE_BIN", ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/ledgerline"))

# All there is for the whole of it, and what the part of it that hashes passwords may have.
MINUTES = 4
START_S = 90

# Answered for as long as somebody listens; tests/it/live.rs and tests/it/coverage.rs ask them.
STREAMS = r"^/(api/v1/)?ws(/|$)|^/api/v1/stream$"
# Takes lines of JSON, which the tool can't write; tests/it/http/imported.rs asks it.
LINES = r"^/api/v1/executions/import$"
# Each takes 64 MiB and a tenth of a second and more, or ends the session that asks: apart, with fewer examples and without a session.
PASSWORDS = r"^/api/v1/auth/(register|login|logout|refresh|password|request-otp|verify-otp|request-verification|verify-email|sessions/)"

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
]


class Server:
    """The real program with servers of its own, in a folder that goes with it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="ledgerline-fuzz-")
        # Postgres runs as a user of its own when this is root.
        os.chmod(self.folder, 0o711)
        env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
        for name in ("DATABASE_URL", "NATS_URL"):
            env.pop(name, None)
        data = os.path.join(self.folder, "data")
        args = ["serve", "--embedded", "--data-dir", data, "--listen", "127.0.0.1:0"]
        # One person asks more here in a minute than many do in an hour.
        args += ["--limit-reads", "off", "--limit-writes", "off"]
        self.process = subprocess.Popen([PROGRAM, *args], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said = []
        self.ready = threading.Event()
        threading.Thread(target=self._hear, daemon=True).start()
        if not self.ready.wait(START_S):
            self.stop()
            sys.exit("api-fuzz: the program did not start:\n" + "".join(self.said))

    def _hear(self):
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.match(r"listening on (\S+)", line):
                self.url = found[1]
                self.ready.set()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, method, path, body=None, token=None, expect=(200, 201, 202, 204)):
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/v1{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            status, text = refused.code, refused.read()
        if status not in expect:
            sys.exit(f"api-fuzz: {method} {path} answered {status}: {text[:2000]!r}")
        return json.loads(text) if text else None


def furnish(server):
    """Somebody with one of everything: the token, and the ids by noun."""
    person = {"email": "fuzz@example.com", "password": "correct horse battery", "full_name": "Fuzz"}
    registered = server.ask("POST", "/auth/register", person)
    token = registered["access_token"]
    ask = lambda method, path, body=None: server.ask(method, path, body, token)
    workflow = ask("POST", "/workflows", {
        "name": "By itself",
        "nodes": [
            {"id": "clock", "type": "trigger.cron", "config": {"cron": "0 0 1 1 *"}},
            {"id": "hook", "type": "trigger.webhook", "config": {}},
            {"id": "hear", "type": "trigger.event", "config": {"event_type": "member_added"}},
            {"id": "say", "type": "logic.transform", "config": {"expression": "'hello'"}},
        ],
        "connections": [{"from": "clock", "to": "say"}, {"from": "hook", "to": "say"}],
    })["id"]
    ask("POST", f"/workflows/{workflow}/publish", {})
    waits = ask("POST", "/workflows", {
        "name": "Waits",
        "nodes": [{"id": "wait", "type": "logic.wait", "config": {"duration_ms": 3_600_000}}],
        "tags": ["slow"],
    })["id"]
    ask("POST", f"/workflows/{waits}/publish", {})
    quick = ask("POST", f"/workflows/{workflow}/start", {})["id"]
    waiting = ask("POST", f"/workflows/{waits}/start", {})["id"]
    spare = ask("POST", f"/workflows/{workflow}/duplicate", {})["id"]
    ask("PUT", "/secrets/other", {"value": "another value"})
    ask("PUT", "/secrets/token", {"value": "a secret value"})
    connection = ask("POST", "/connections", {
        "name": "db", "settings": {"kind": "postgres", "host": "127.0.0.1", "database": "d", "user": "u"}, "password": "a password",
    })["id"]
    key = ask("POST", "/auth/api-keys", {"name": "k", "scopes": ["read"]})["api_key"]["id"]
    job = ask("POST", "/executions/bulk", {"action": "cancel", "filter": {"ids": [quick]}})
    position = server.ask("GET", "/log/events?limit=1", None, token)["items"][0]["position"]
    triggers = {}
    for noun in ("schedules", "webhooks", "event-triggers"):
        items = []
        deadline = time.monotonic() + 60
        while not items and time.monotonic() < deadline:
            # Waits for what the log says next, and not for time to pass.
            items = ask("GET", f"/{noun}?min_position={position}")["items"]
        triggers[noun] = [item["id"] for item in items]
    return token, {
        "workflows": [workflow, waits],
        "executions": [quick, waiting],
        "workspaces": [registered["user"]["personal_workspace_id"]],
        "connections": [connection],
        "api-keys": [key],
        "bulk": [job["id"]] if job and "id" in job else [],
        "worker-tasks": [f"{waiting}.1.77616974"],
        "streams": [workflow, quick],
        **triggers,
        "execution_id": [quick],
        "user_id": [registered["user"]["id"]],
        "version": ["1"],
        "template": ["greeting"],
        "slug": ["invalid-value"],
        "node": ["wait", "say"],
        "name": ["token", "workflows", "executions"],
        "workspace_id": [registered["user"]["personal_workspace_id"]],
        "spare": {"workflows": [spare], "connections": [], "name": ["other"]},
    }


def fuzz(server, known, deadline, more, headers=()):
    """One run of schemathesis; gives its exit code."""
    env = {**os.environ, "LEDGERLINE_FUZZ_KNOWN": json.dumps(known), "SCHEMATHESIS_HOOKS": "hooks"}
    env |= {"PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run", f"{server.url}/openapi.json"]
    command += ["--url", server.url, "--checks", ",".join(CHECKS)]
    for header in headers:
        command += ["--header", header]
    run = subprocess.Popen([*command, *more], env=env, cwd=server.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    # Asked to end, it still tells what it found.
    late = threading.Timer(max(deadline - time.monotonic(), 1), run.send_signal, [signal.SIGINT])
    late.start()
    found = False
    for line in run.stdout:
        found = found or re.match(r"=+ (FAILURES|ERRORS) =+", line) is not None
        print(line, end="", flush=True)
    code = run.wait()
    if late.is_alive():
        late.cancel()
        return code
    print(f"api-fuzz: stopped after {MINUTES} minutes; this machine is too slow or too busy for all of it", file=sys.stderr)
    return 1 if found else 0


def main():
    if not PROGRAM.exists():
        sys.exit(f"api-fuzz: {PROGRAM} is missing: cargo build -p ledgerline-api --bin ledgerline")
    deadline = time.monotonic() + MINUTES * 60
    server = Server()
    try:
        token, known = furnish(server)
        bearer = [f"Authorization: Bearer {token}"]
        codes = [fuzz(server, known, deadline, ["--exclude-path-regex", f"{STREAMS}|{LINES}|{PASSWORDS}", *sys.argv[1:]], bearer)]
        if len(sys.argv) == 1:
            codes.append(fuzz(server, known, deadline, ["--include-path-regex", PASSWORDS, "--max-examples", "3", "--phases", "examples,fuzzing"]))
        if server.process.poll() is not None:
            print("api-fuzz: the program ended:\n" + "".join(server.said[-40:]), file=sys.stderr)
            codes.append(1)
    finally:
        server.stop()
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
