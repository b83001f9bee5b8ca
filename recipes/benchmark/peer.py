"""What is measured runs in a process of its own, maybe in another environment.

The one end, `Peer`, asks; the other, `serve`, answers. A line is a JSON value. This
module imports the standard library alone, so that any environment can serve.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


class PeerMissingError(Exception):
    """A peer is not installed; the message says what was not found."""


class Peer:
    """A process that does on request what is measured.

    Args:
        module: whose `main` calls `serve`.
        name: of the function there.
        setup: dict of its keyword arguments.
        python: the Python program of its environment.
        environment: variables beside this process's own.

    Raises:
        PeerMissingError: if something is not installed in that environment.
        ChildProcessError: if the process ends; with its last words.
    """

    def __init__(self, module, name, setup, python=sys.executable, environment=()):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
        self.name = name
        self.process = subprocess.Popen(
            [python, "-m", module, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in paths if path),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                **dict(environment),
            },
        )
        try:
            answer = self.ask(setup)
            if "missing" in answer:
                raise PeerMissingError(answer["missing"])
        except BaseException:
            self.close()
            raise
        self.versions = answer["versions"]

    def ask(self, request):
        """The answer to a request."""
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().strip().rpartition("\n")[2]
            raise ChildProcessError(f"{self.name} ended: {last}")
        return json.loads(answer)

    def close(self):
        self.process.terminate()
        self.process.wait()
        # What a process that ended did not read anymore is still in the pipe.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


def find_peer(module, name, setup, pythons, environment=()):
    """The peer in the first environment that has it; this one is asked first."""
    missing = []
    for python in (sys.executable, *pythons):
        try:
            return Peer(module, name, setup, python, environment)
        except PeerMissingError as error:
            missing.append(str(error))
    raise PeerMissingError("; ".join(dict.fromkeys(missing)))


def serve(peers):
    """Answers one `Peer`, in the process that it started.

    Args:
        peers: dict of functions that take the setup's values and return what answers
            a request, and the names of the packages whose versions matter.
    """
    # What libraries print is not to come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(value):
        print(json.dumps(value), file=answers)

    peer = peers[sys.argv[1]]
    try:
        respond, packages = peer(**json.loads(sys.stdin.readline()))
    except ImportError as error:
        return answer({"missing": str(error)})
    answer({"versions": {name: metadata.version(name) for name in packages}})
    for line in sys.stdin:
        answer(respond(json.loads(line)))
