"""``python -m gatelog.console`` is ``gatelog``."""

from gatelog.console.app import main

main()
