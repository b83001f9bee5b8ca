"""Models of other packages beside ours with their weights.

The packages have an environment of their own: `nox -s peers`. Other environments do not
collect these tests.
"""

import importlib.util

if importlib.util.find_spec("timm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from recipes.benchmark.input_peers import import_torchvision

    import_torchvision()  # before timm and transformers do, which would fail
