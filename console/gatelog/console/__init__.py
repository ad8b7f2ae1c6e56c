"""The command line: composes the parts, owns no logic."""
