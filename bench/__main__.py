"""``python -m bench [suite …]``: run the benchmarks; each writes its table, JSON and picture to bench/out."""

import importlib
import sys
from typing import Final

SUITES: Final = ("append", "relay", "index", "subscriptions", "schemas")


def main(chosen: list[str]) -> None:
    """Run the suites named, or all."""
    if unknown := set(chosen) - set(SUITES):
        sys.exit(f"No suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}.")
    for name in chosen or SUITES:
        importlib.import_module(f"bench.{name}").main()


main(sys.argv[1:])
