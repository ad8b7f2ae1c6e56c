"""Subscriptions: consumer groups with handlers, in production."""
