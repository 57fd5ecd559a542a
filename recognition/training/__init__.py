"""Training: configuration, episodes in batches, the one loop, devices, runs, sweeps, provenance."""
