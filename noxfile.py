"""The tests: `nox` runs them all, `nox -l` lists them.

Each backend has an environment of its own; those of JAX and torch hold no
TensorFlow. They are kept outside the checkout, so that the next run is quick.
"""

import os
import shutil
import tempfile
from pathlib import Path

import nox

BACKENDS = ("tensorflow", "jax", "torch")
OLDEST_KERAS = "3.12.*"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
# Two at a time: compiling, which takes most of the time, uses one core. Files in their
# order end with short ones, so that no process waits long for the other.
TWO = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")

nox.needs_version = ">=2024.3"
nox.options.envdir = str(CACHE / "keras_cbvit" / "nox")
nox.options.default_venv_backend = "virtualenv"  # uv does not know pip's settings
nox.options.reuse_venv = "yes"
nox.options.sessions = (
    "lint",
    "tests",
    "peers",
    "runtimes",
    "notebooks",
    "oldest",
    "exchange",
    "wheel",
    "demo",
    "docs",
)
TRANSFORMERS = "transformers==5.24.0"
PEERS = ("keras-hub==0.32.0", "kimm==0.2.5")
# torchvision, which timm requires, would bring a torch for GPUs.
PEERS_ALONE = ("timm==1.0.31", "torchvision==0.28.0")
OF_PEERS_ALONE = ("huggingface_hub", "pyyaml", "safetensors")


@nox.session
def lint(session):
    """Formatting, static checks, types, which way imports run, spelling and prose."""
    # NumPy and Pillow, for their types; Keras has none.
    typed = ("numpy", "pillow")
    tools = ("ruff", "import-linter", "pyright[nodejs]", "codespell", "proselint")
    session.install("-c", "constraints.txt", *tools, *typed)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "."})
    session.run("pyright")
    session.run("codespell")
    session.run("python", "tests/prose.py")


@nox.session
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session, backend):
    """The tests on one backend."""
    extras = f"{backend},recipes,test"
    if backend == "torch":  # where what is the same on every backend runs
        extras += ",ray"
    session.install("-q", "-c", "constraints.txt", f".[{extras}]")
    if backend != "tensorflow":
        session.run("python", "-c", _ABSENT, silent=True)
    session.run("pytest", *TWO, *session.posargs, env=_environment(backend))


@nox.session
def peers(session):
    """Models of other packages beside ours with their weights, on each backend.

    They have an environment of their own, with all backends.
    """
    _install_peers(session, "recipes,test", TRANSFORMERS)
    for backend in BACKENDS:
        options = (*TWO, "tests/peers", *session.posargs)
        session.run("pytest", *options, env=_environment(backend))


@nox.session
def runtimes(session):
    """Exported models in the runtimes that they are for; serving; Keras for inference.

    They have an environment of their own, with all backends, since one backend writes
    what another one's model is exported to.
    """
    extras = f".[{','.join(BACKENDS)},recipes,export,serving,test]"
    # Keras's own way to ONNX from TensorFlow, for a test of its defect.
    session.install("-q", "-c", "constraints.txt", extras, "tf2onnx")
    # Tests of one group share what is traced.
    two = ("-n", "2", "--dist", "loadgroup")
    for backend in BACKENDS:
        tests = [
            f"tests/export/test_{n}.py" for n in ("runtimes", "docs", "keras_defects")
        ]
        if backend == "torch":
            tests += ["tests/test_serving.py", "tests/test_inference_backends.py"]
        options = (*two, *tests, *session.posargs)
        session.run("pytest", *options, env=_environment(backend))


@nox.session
def notebooks(session):
    """The tutorials, each from its first cell to its last.

    Each sets its backend, torch or JAX. TensorFlow is not among them: Keras imports it
    wherever it is installed, and it takes seconds and writes into the notebooks.
    """
    constraints = ("-q", "-c", "constraints.txt")
    session.install(*constraints, ".[torch,jax,recipes,hub,notebooks]", TRANSFORMERS)
    two = ("-n", "2", "--dist", "worksteal")
    options = ("--nbmake", "--nbmake-timeout=300", *two, "docs/tutorials")
    threads = {"OMP_NUM_THREADS": "1"}  # two at a time, on two cores
    session.run("pytest", *options, *session.posargs, env=threads)


@nox.session
def oldest(session):
    """The quick tests with the oldest Keras that is supported, on torch."""
    newest = Path("constraints.txt").read_text().splitlines()
    constraints = Path(session.create_tmp()) / "constraints.txt"
    others = [line for line in newest if not line.startswith("keras==")]
    constraints.write_text("\n".join([*others, f"keras=={OLDEST_KERAS}"]))
    session.install("-q", "-c", str(constraints), ".[torch,recipes,test]")
    quick = ("-m", "not slow")
    session.run("pytest", *TWO, *quick, *session.posargs, env=_environment("torch"))


@nox.session(venv_backend="none")
def exchange(session):
    """Files saved on each backend are loaded on each; needs the tests' environments."""
    with tempfile.TemporaryDirectory() as folder:
        for step in ("save", "check"):
            for backend in BACKENDS:
                session.run(
                    _python(backend),
                    "-m",
                    "tests.exchange",
                    step,
                    folder,
                    env=_environment(backend),
                    external=True,
                )


@nox.session(venv_backend="none")
def wheel(session):
    """An installed wheel finds its weights; needs the torch tests' environment."""
    python = _python("torch")
    with tempfile.TemporaryDirectory() as folder:
        pip = (python, "-m", "pip", "-q")
        build = ("wheel", "--no-deps", "-w", folder, str(Path.cwd()))
        session.run(*pip, *build, external=True)
        install = ("install", "--no-deps", "--no-index", "--find-links", folder)
        session.run(*pip, *install, "--target", folder, "keras_cbvit", external=True)
        session.chdir(folder)
        script = Path(__file__).parent / "tests" / "installed.py"
        environment = {**_environment("torch"), "PYTHONPATH": folder}
        session.run(python, str(script), folder, env=environment, external=True)


@nox.session
def demo(session):
    """The demo page: its models and ONNX Runtime are built, then Chromium tests it.

    The site of the session `docs` shows the page once it is built.
    """
    if not _chromium() and shutil.which("apt-get") and os.geteuid() == 0:
        for step in (["update"], ["install", "-y", "chromium"]):
            options = {"external": True, "success_codes": range(256)}
            session.run("apt-get", "-qq", *step, **options)
    if not _chromium():
        session.skip("The demo's tests run in Chromium; install chromium.")
    session.install("-q", "-c", "constraints.txt", ".[torch,demo,test]")
    environment = _environment("torch")
    session.run("python", "docs/demo/build.py", env=environment)
    session.run("pytest", "tests/demo", *session.posargs, env=environment)


@nox.session
def docs(session):
    """The documentation site, in site/: warnings are errors, links are checked.

    JAX is for the help of the commands and the sizes of the models; the API reference
    is read from the sources.
    """
    session.install("-q", "-c", "constraints.txt", ".[docs,jax]")
    environment = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", *session.posargs, env=environment)


@nox.session
def benchmark(session):
    """Not part of the tests: `nox -s benchmark -- model`, beside the other packages.

    They have an environment of their own, with all backends.
    """
    _install_peers(session, "recipes")
    session.install("-q", "pillow==12.3.0")  # timm's posterizing fails on Pillow 13
    session.run("python", "-m", "recipes.benchmark", *session.posargs)


def _chromium():
    return any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))


_ABSENT = (
    "import importlib.util, sys;"
    "sys.exit('TensorFlow is here' if importlib.util.find_spec('tensorflow') else 0)"
)


def _install_peers(session, extras, *others):
    """Installs all backends and other packages of models."""
    constraints = ("-q", "-c", "constraints.txt")
    session.install(*constraints, f".[tensorflow,jax,torch,{extras}]")
    session.install(*constraints, *PEERS, *OF_PEERS_ALONE, *others)
    session.install("-q", "--no-deps", *PEERS_ALONE)


def _environment(backend):
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend == "torch":
        # Two tests at a time, on two cores: more threads would wait for each other.
        environment["OMP_NUM_THREADS"] = "1"
    if backend == "jax":
        # Compiling takes half of its time, and most of it is as in the run before.
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(CACHE / "keras_cbvit" / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return environment


def _python(backend):
    return str(Path(nox.options.envdir) / f"tests-{backend}" / "bin" / "python")
