"""Benchmark the package against others, on the same machine in the same run.

    python -m recipes.benchmark input --data-dir FOLDER [--option value ...]
    python -m recipes.benchmark feed [--option value ...]
    python -m recipes.benchmark model [--option value ...]
    python -m recipes.benchmark profile [--option value ...]
    python -m recipes.benchmark runtimes [--option value ...]
    python -m recipes.benchmark gpu --minutes 25 --out FOLDER [--option value ...]

Other packages are measured if they are installed, in this environment or in those of
--peer-python.
"""

import json

from ..commands import parse, report_errors
from .feed import Feed
from .gpu import Gpu
from .input import Input
from .model import Model
from .profile import Profile
from .runtimes import Runtimes


def main(arguments=None):
    kinds = Input | Feed | Model | Profile | Runtimes | Gpu
    options = parse("benchmark", kinds, __doc__, arguments)
    with report_errors():
        result = options.measure()
        if options.json:
            options.json.write_text(json.dumps(result, indent=2, default=str) + "\n")
    print(options.markdown(result))


if __name__ == "__main__":
    main()
