"""What several tests share: models, processes, and ways to wait for a fact."""
