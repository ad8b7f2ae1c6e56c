"""A git history as events: one stream a file."""
