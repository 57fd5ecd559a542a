"""Films: download, manifest, decoding, shots, alterations, synthetic ones."""
