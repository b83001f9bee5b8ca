"""Catalogs, and servers that give them and their files out."""

import contextlib
import hashlib
import http.server
import json
import socketserver
import threading
from contextlib import contextmanager

from keras_cbvit.pretrained.records import VERSION, parse_catalog
from keras_cbvit.pretrained.sources import Folder

FILE = b"the bytes of a file"
FILENAME = f"vitcb_s.toy-{hashlib.sha256(FILE).hexdigest()[:12]}.keras"


def entry(name="vitcb_s.toy", content=FILE, **changes):
    """An entry of a catalog as JSON has it, for a file of this content."""
    return {
        "name": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "architecture": {"class": "VisionTransformer", "spec": {"depth": 1}},
        "parameters": 10,
        "input_shape": [8, 8, 3],
        "preprocessing": {
            "image_size": [8, 8],
            "crop_fraction": 0.875,
            "interpolation": "bicubic",
            "model_normalizes": True,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 1],
        },
        "class_names": ["cat", "dog"],
        "evaluations": [evaluation()],
        "trained_on": "toys",
        "recipe": "python -m recipes.train toys",
        "license": "Apache-2.0",
        "keras_version": "3.15.1",
        "date": "2026-01-31",
        **changes,
    }


def evaluation(**changes):
    """An evaluation as JSON has it."""
    return {
        "task": "classification",
        "dataset": "toys",
        "split": "test",
        "metrics": {"top1": 0.5},
        "images": 10,
        "command": "python -m recipes.evaluate vitcb_s.toy",
        "options": {"scale": [8, 8]},
        "notes": "",
        **changes,
    }


def record(*arguments, **changes):
    """The `WeightsRecord` of an entry."""
    (found,) = records(entry(*arguments, **changes)).values()
    return found


def records(*entries):
    """The records of a catalog of these entries, by name."""
    return parse_catalog(catalog_text(*entries), "here")


def catalog_text(*entries):
    return json.dumps({"version": VERSION, "weights": entries})


def published_file(folder, name, ending=".keras"):
    """The path of the published file of a name, or of its card."""
    return (folder / Folder(folder).records()[name].filename).with_suffix(ending)


def write_catalog(folder, *entries):
    folder.mkdir(exist_ok=True)
    (folder / "catalog.json").write_text(catalog_text(*entries))


@contextmanager
def server(answers):
    """The URL of a server on this machine, and the list of the paths asked for.

    `answers` has for each path a list of contents: the first request gets the first,
    and so on; the last is given again and again. Other paths are not found.
    """
    asked = []
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with lock:
                number = asked.count(self.path)
                asked.append(self.path)
            contents = answers.get(self.path)
            if contents is None:
                self.send_error(404)
                return
            content = contents[min(number, len(contents) - 1)]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}", asked
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@contextmanager
def raw_server(answer):
    """The URL of a server that answers every request with these bytes."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(65536)
            with contextlib.suppress(OSError):
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()
