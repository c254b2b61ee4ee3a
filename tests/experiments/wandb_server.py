"""A W&B server on loopback, as far as training runs need one, and three that fail."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """What was sent to it, and how it behaves.

    Attributes:
        kind: "good", "hangs" (accepts, never answers), "broken" (500 to all), or "dies" (good until
            the first history arrives, then hangs),
            "full" (403 to data), or "viewless" (no to dashboards).
        history: Lines of each run's history, as the server holds them.
        summary: The last summary of each run.
        runs: The last upsert of each run.
        exits: Exit code of each run that ended.
        files: Content of uploaded files by run and name.
        views: Workspaces and reports that were saved.
        bodies: All that was received, raw.
    """

    kind: str
    url: str = ""
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    summary: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    views: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    dead: bool = False

    def graphql(  # noqa: PLR0911  one answer a request
        self, query: str, variables: dict[str, Any]
    ) -> dict[str, Any]:
        name = re.match(r"\s*(?:query|mutation)\s+(\w+)", query)
        operation = name[1] if name else ""
        self.operations.append(operation)
        if operation == "RunResumeStatus":
            return {"model": self._resume(variables["name"])}
        if operation == "UpsertBucket":
            run = variables["name"]
            self.runs[run] = {**self.runs.get(run, {}), **{k: v for k, v in variables.items() if v}}
            return {"upsertBucket": {"bucket": self._bucket(run), "inserted": True}}
        if operation == "CreateRunFiles":
            run = variables["run"]
            urls = [
                {"name": f, "uploadUrl": f"{self.url}/upload/{run}/{f}"} for f in variables["files"]
            ]
            return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": urls}}
        if operation == "RunUploadUrls":
            run = variables["run"]
            nodes = [
                {"node": {"name": f, "uploadUrl": f"{self.url}/upload/{run}/{f}"}}
                for f in variables["files"]
            ]
            bucket = {"id": run, "files": {"uploadHeaders": [], "edges": nodes}}
            return {"model": {"bucket": bucket}}
        if operation.lower().startswith("upsertview"):
            self.views.append(variables)
            view = {"id": f"view{len(self.views)}", "name": variables["name"],
                    "spec": variables["spec"]}  # fmt: skip
            return {"upsertView": {"view": view, "inserted": True}}
        if operation == "GetProjects":
            project = {"__typename": "Project", "id": "p", "name": "mine", "entityName": "team",
                       "createdAt": "2026-01-01T00:00:00", "isBenchmark": False,
                       "user": None}  # fmt: skip
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": page, "edges": [{"node": project}]}}
        if "viewer" in query:
            viewer = {"id": "u", "username": "u", "entity": "team", "flags": "{}", "email": "",
                      "teams": {"edges": []}, "name": "u", "admin": False, "deletedAt": None,
                      "apiKeys": {"edges": []}}  # fmt: skip
            return {"viewer": viewer, "serverInfo": {"features": [], "cliVersionInfo": {}}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": {}}}
        return {}

    def _bucket(self, run: str) -> dict[str, Any]:
        project = {"id": "p", "name": "ceus", "entity": {"id": "e", "name": "team"}}
        return {"id": f"id-{run}", "name": run, "displayName": run, "description": "",
                "config": "{}", "sweepName": None, "project": project,
                "historyLineCount": len(self.history.get(run, []))}  # fmt: skip

    def _resume(self, run: str) -> dict[str, Any]:
        model: dict[str, Any] = {"id": "p", "name": "ceus", "entity": {"id": "e", "name": "team"}}
        if run not in self.runs:
            return model | {"bucket": None}
        lines = self.history.get(run, [])
        tail = json.dumps([json.dumps(lines[-1])] if lines else [])
        return model | {
            "bucket": {
                "id": f"id-{run}", "name": run, "displayName": run, "tags": [], "notes": None,
                "summaryMetrics": json.dumps(self.summary.get(run, {})),
                "logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(lines),
                "eventsTail": "[]", "historyTail": tail,
                "config": self.runs[run].get("config", "{}"), "wandbConfig": json.dumps({"t": 1}),
            }
        }  # fmt: skip

    def stream(self, run: str, body: dict[str, Any]) -> None:
        if body.get("complete"):
            self.exits[run] = body["exitcode"]
        for name, chunk in (body.get("files") or {}).items():
            content = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-history.jsonl":
                lines = self.history.setdefault(run, [])
                lines[chunk["offset"] :] = content
            elif name == "wandb-summary.json" and content:
                self.summary[run] = content[-1]


@contextmanager
def serve(kind: str) -> Iterator[Server]:
    """A server on a free port of loopback, for as long as the context lasts."""
    server = Server(kind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            server.bodies.append(body)
            if kind == "hangs" or server.dead:
                stop.wait(120)
            status = 500 if kind == "broken" else 403 if self._refused else 200
            answer = self._answer(body) if status == 200 else {}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

        @property
        def _refused(self) -> bool:
            return kind == "full" and self.path.endswith("file_stream")

        def _answer(self, body: bytes) -> dict[str, Any]:
            if self.path == "/graphql":
                request = json.loads(body)
                if kind == "viewless" and "upsertView" in request["query"]:
                    return {"errors": [{"message": "no room for dashboards"}]}
                return {"data": server.graphql(request["query"], request.get("variables") or {})}
            if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                if kind == "dies":
                    server.dead = True
                    stop.wait(120)
                server.stream(match[1], json.loads(body))
            elif match := re.fullmatch(r"/upload/([^/]+)/(.+)", self.path):
                server.files.setdefault(match[1], {})[match[2]] = body
            return {}

        def log_message(self, *_: Any) -> None:
            pass

    stop = threading.Event()

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # clients that went away
            pass

    listener = Listener(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        listener.shutdown()
        thread.join()
        listener.server_close()
