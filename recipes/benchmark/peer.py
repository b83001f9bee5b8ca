"""Benchmarks in separate processes, possibly of other Python environments.

`Peer` sends requests, and `serve` answers them, as JSON values on lines. This module
imports only the standard library, so that it runs in any environment.
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
    """A peer is not installed; the message names the missing module."""


class Peer:
    """A process that runs measurements on request.

    Args:
        module: name of a module that calls `serve` when run.
        name: name of a function in the module.
        setup: dict of keyword arguments of the function.
        python: Python interpreter of the environment.
        environment: additional environment variables.

    Raises:
        PeerMissingError: if a package is not installed in the environment.
        ChildProcessError: if the process exits; with the last line of its stderr.
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
        """Sends a request and returns the answer."""
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().strip().rpartition("\n")[2]
            raise ChildProcessError(f"The process of {self.name} exited: {last}")
        return json.loads(answer)

    def close(self):
        self.process.terminate()
        self.process.wait()
        # Requests that the process did not read are still in the pipe.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


def find_peer(module, name, setup, pythons, environment=()):
    """Returns a peer in the first environment that has it, starting with this one."""
    missing = []
    for python in (sys.executable, *pythons):
        try:
            return Peer(module, name, setup, python, environment)
        except PeerMissingError as error:
            missing.append(str(error))
    raise PeerMissingError("; ".join(dict.fromkeys(missing)))


def serve(peers):
    """Answers requests in the process that a `Peer` started.

    Args:
        peers: dict of functions that take the setup as keyword arguments and return
            a function that answers requests, and the names of packages whose versions
            to report.
    """
    # Redirect stdout, so that output of libraries does not mix with the answers.
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
