"""A real ComfyUI server as a context manager, and the few HTTP calls that the demo and tests
need.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from .host import ensure_base, ensure_host

# Seconds, so that what hangs ends at some time. None is a limit for a slow or a busy machine.
PATIENCE, ANSWER = 3600, 600
PACK = "async-timestep"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyServer:
    """`with ComfyServer(base) as server: server.run(prompt)`. CPU, no other packs, log in
    `base`.
    """

    def __init__(
        self, base: Path, port: int = 0, flags: tuple[str, ...] = ("--cpu",), only_ours: bool = True
    ):
        self.tree, self.python = ensure_host()
        self.base, self.port = ensure_base(base), port or free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", base / "server.log"
        self.flags = (*flags, "--disable-api-nodes")
        if only_ours:
            self.flags += ("--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK)

    def __enter__(self) -> ComfyServer:
        command = [
            self.python,
            self.tree / "main.py",
            "--port",
            self.port,
            "--base-directory",
            self.base,
            "--database-url",  # ComfyUI's is in its own folder, where two servers would make it
            f"sqlite:///{self.base / 'comfyui.db'}",
        ]
        self.output = open(self.log, "wb")
        self.process = subprocess.Popen(
            [str(c) for c in (*command, *self.flags)], stdout=self.output, stderr=subprocess.STDOUT
        )
        started = time.monotonic()
        while time.monotonic() - started < PATIENCE:
            if self.process.poll() is not None:
                break
            try:
                self.get("/system_stats")
                return self
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        self.__exit__()
        raise RuntimeError(
            f"ComfyUI did not start; the end of {self.log}:\n{self.log.read_text()[-3000:]}"
        )

    def __exit__(self, *error) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()

    def get(self, path: str, **query) -> dict:
        url = self.url + path + ("?" + urlencode(query) if query else "")
        with urllib.request.urlopen(url, timeout=ANSWER) as reply:
            return json.loads(reply.read() or b"null")

    def fetch(self, entry: dict) -> bytes:
        """The file behind an output entry {filename, subfolder, type}."""
        return self.fetch_path(f"/view?{urlencode(entry)}")

    def fetch_path(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=ANSWER) as reply:
            return reply.read()

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER) as reply:
                return json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")

    def queue(self, prompt: dict) -> str:
        """Queues an API-format graph. Raises RuntimeError when the server refuses it."""
        answer = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        if "prompt_id" not in answer:
            raise RuntimeError(json.dumps(answer)[:2000])
        return answer["prompt_id"]

    def wait(
        self, prompt_id: str, timeout: float = PATIENCE, tick: Callable[[], None] | None = None
    ) -> dict:
        """The history entry once the prompt is done. Raises TimeoutError."""
        started = time.monotonic()
        while time.monotonic() - started < timeout:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return entry
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended:\n{self.log.read_text()[-3000:]}")
            if tick:
                tick()
            time.sleep(0.1)
        raise TimeoutError(f"The prompt was not done after {timeout} s; see {self.log}.")

    def run(self, prompt: dict, timeout: float = PATIENCE) -> dict:
        """Queues, waits, and returns the outputs by node id. Raises RuntimeError with the
        node's message.
        """
        entry = self.wait(self.queue(prompt), timeout)
        if entry["status"]["status_str"] != "success":
            raise RuntimeError(error_message(entry))
        return entry["outputs"]


def error_message(entry: dict) -> str:
    """The sentence that the user sees for a failed prompt."""
    for kind, detail in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{detail['node_type']}: {detail['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return "interrupted"
    return json.dumps(entry["status"])
