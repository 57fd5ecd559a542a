"""Features of frames: backbones, extraction, feature files, the bank."""
