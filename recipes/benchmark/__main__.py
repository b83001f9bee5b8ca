"""Measures how fast this package is beside others, on the same machine in the same run.

    python -m recipes.benchmark input --data-dir FOLDER [--option value ...]
    python -m recipes.benchmark model [--option value ...]
    python -m recipes.benchmark profile [--option value ...]

The others are measured where they are installed: in this environment, or in those of
`--peer-python`.
"""

import json
import sys

from ..commands import parse, report_errors
from .input import Input
from .model import Model
from .profile import Profile

BENCHMARKS = {"input": Input, "model": Model, "profile": Profile}


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    known = ", ".join(BENCHMARKS)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nWhat can be measured: {known}")
        return
    name, *rest = arguments
    if name not in BENCHMARKS:
        sys.exit(f"There is no benchmark {name!r}; there are {known}.")
    benchmark = BENCHMARKS[name]
    options = parse(f"benchmark {name}", benchmark, benchmark.__doc__, rest)
    with report_errors():
        result = options.measure()
        if options.json:
            options.json.write_text(json.dumps(result, indent=2, default=str) + "\n")
    print(options.markdown(result))


if __name__ == "__main__":
    main()
