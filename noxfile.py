"""The tests: `nox` runs them all, `nox -l` lists them.

Each backend has a separate environment; those of JAX and torch do not contain
TensorFlow. The environments are outside the checkout, and the next run reuses them.
"""

import os
import shutil
import tempfile
from pathlib import Path

import nox

BACKENDS = ("tensorflow", "jax", "torch")
OLDEST_KERAS = "3.12.*"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
# Two processes: compilation, which takes most of the time, uses one core. The last
# files in order are short, so that no process waits long for the other.
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
    """Formatting, static checks, types, directions of imports, spelling and prose."""
    # NumPy and Pillow are installed for their types; Keras has none.
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
    if backend == "torch":  # runs the tests that are the same on every backend
        extras += ",ray"
    session.install("-q", "-c", "constraints.txt", f".[{extras}]")
    if backend != "tensorflow":
        session.run("python", "-c", _ABSENT, silent=True)
    session.run("pytest", *TWO, *session.posargs, env=_environment(backend))


@nox.session
def peers(session):
    """Compares our models with those of other packages, on each backend.

    The tests have a separate environment with all backends.
    """
    _install_peers(session, "recipes,test", TRANSFORMERS)
    for backend in BACKENDS:
        options = (*TWO, "tests/peers", *session.posargs)
        session.run("pytest", *options, env=_environment(backend))


@nox.session
def runtimes(session):
    """Exported models in their runtimes, serving, and Keras's inference backends.

    The tests have a separate environment with all backends, since a model on one
    backend can be exported to a format that another backend writes.
    """
    extras = f".[{','.join(BACKENDS)},recipes,export,serving,test]"
    # tf2onnx is Keras's ONNX exporter on TensorFlow; a test covers its defect.
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
    """Runs all cells of the tutorials.

    Each tutorial sets its backend, torch or JAX. TensorFlow is not installed, because
    Keras would import it, which takes seconds and adds output to the notebooks.
    """
    constraints = ("-q", "-c", "constraints.txt")
    session.install(*constraints, ".[torch,jax,recipes,hub,notebooks]", TRANSFORMERS)
    two = ("-n", "2", "--dist", "worksteal")
    options = ("--nbmake", "--nbmake-timeout=300", *two, "docs/tutorials")
    threads = {"OMP_NUM_THREADS": "1"}  # two processes on two cores
    session.run("pytest", *options, *session.posargs, env=threads)


@nox.session
def oldest(session):
    """The quick tests with the oldest supported Keras, on torch."""
    newest = Path("constraints.txt").read_text().splitlines()
    constraints = Path(session.create_tmp()) / "constraints.txt"
    others = [line for line in newest if not line.startswith("keras==")]
    constraints.write_text("\n".join([*others, f"keras=={OLDEST_KERAS}"]))
    session.install("-q", "-c", str(constraints), ".[torch,recipes,test]")
    quick = ("-m", "not slow", "--ignore", "tests/recipes/data")  # reads without Keras
    session.run("pytest", *TWO, *quick, *session.posargs, env=_environment("torch"))


@nox.session(venv_backend="none")
def exchange(session):
    """Loads files saved on each backend on each; needs the tests' environments."""
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
    """Uses the weights in an installed wheel; needs the torch tests' environment."""
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
    """Builds the demo page with its models and ONNX Runtime, and tests it in Chromium.

    The session `docs` adds the page to the site if it is built.
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
    """Builds the documentation site in site/ and checks its links.

    Warnings are errors. The help of the commands and the sizes of the models require a
    backend, JAX; the API reference is read from the sources.
    """
    session.install("-q", "-c", "constraints.txt", ".[docs,jax]")
    environment = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", *session.posargs, env=environment)


@nox.session
def benchmark(session):
    """Benchmarks against other packages: `nox -s benchmark -- model`; not a test.

    The benchmarks have a separate environment with all backends.
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
        # Two processes on two cores: more threads would wait for each other.
        environment["OMP_NUM_THREADS"] = "1"
    if backend == "jax":
        # Compilation takes half of the time, and most results are reusable.
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(CACHE / "keras_cbvit" / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return environment


def _python(backend):
    return str(Path(nox.options.envdir) / f"tests-{backend}" / "bin" / "python")
