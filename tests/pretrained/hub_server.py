"""A server on this machine that answers as the Hugging Face hub does."""

import contextlib
import hashlib
import http.server
import re
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
# What the hub answers for repositories that are not for everybody.
REFUSALS = {
    "private": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "absent": (404, "RepoNotFound"),
    "busy": (503, ""),
}


class Hub(http.server.ThreadingHTTPServer):
    """The repositories that it has, and the requests that it got."""

    daemon_threads = True

    def __init__(self, repositories, commits):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.commits = repositories, commits
        self.requests = []
        self.cut = set()
        """Files whose next download ends in the middle."""
        self.sent = 0
        """Bytes of files that were sent."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, method, file=""):
        """How many requests there were whose path ends in the name of a file."""
        return sum(m == method and path.endswith(file) for m, path in self.requests)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    commit = COMMIT

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def log_message(self, *arguments):
        pass

    def _answer(self):
        self.server.requests.append((self.command, self.path))
        found = FILE.fullmatch(self.path)
        owner, _, name = found["name"].partition("/")
        if owner == "refused":
            return self._refuse(*REFUSALS[name])
        if found["name"] not in self.server.repositories:
            return self._refuse(404, "RepoNotFound")
        self.commit = self.server.commits.get(found["name"], COMMIT)
        if found["revision"] not in ("main", self.commit):
            return self._refuse(404, "RevisionNotFound")
        content = self.server.repositories[found["name"]].get(found["file"])
        if content is None:
            return self._refuse(404, "EntryNotFound")
        return self._send(content, found["file"])

    def _refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content, file):
        begin = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            all_of_it = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", all_of_it)
        self.end_headers()
        if self.command == "GET":
            is_cut = file in self.server.cut
            self.server.cut.discard(file)
            end = len(content) // 2 if is_cut else len(content)
            self.wfile.write(content[begin:end])
            self.server.sent += len(content[begin:end])
            self.close_connection = is_cut


@contextlib.contextmanager
def hub(repositories, commits=()):
    """A running `Hub` of repositories: `{"owner/name": {"config.json": b"{}"}}`.

    `commits` has those of repositories that are at another than `COMMIT`.
    """
    with Hub(repositories, dict(commits)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
