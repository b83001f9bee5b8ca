import json
import sys

import recipes.benchmark
from recipes.benchmark.input import Input
from recipes.benchmark.model import Model
from recipes.benchmark.profile import Profile
from recipes.commands import parse, report_errors

BENCHMARKS = {"input": Input, "model": Model, "profile": Profile}


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    known = ", ".join(BENCHMARKS)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{recipes.benchmark.__doc__}\nWhat can be measured: {known}")
        return
    name, *rest = arguments
    if name not in BENCHMARKS:
        sys.exit(f"There is no benchmark {name!r}; there are {known}.")
    benchmark = BENCHMARKS[name]
    options = parse(f"recipes.benchmark {name}", benchmark, benchmark.__doc__, rest)
    with report_errors():
        result = options.measure()
        if options.json:
            options.json.write_text(json.dumps(result, indent=2, default=str) + "\n")
    print(options.markdown(result))


if __name__ == "__main__":
    main()
