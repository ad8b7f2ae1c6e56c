"""The process: ``gatelog``, and ``python -m gatelog.console``."""

import sys

from gatelog.console.ending import INTERRUPTED


def main() -> None:
    """Import the command line, which takes a moment, and run it; Ctrl-C ends either without a traceback."""
    try:
        from gatelog.console.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
