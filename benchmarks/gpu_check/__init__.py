"""Everything that a GPU is to show, measured in one go."""
