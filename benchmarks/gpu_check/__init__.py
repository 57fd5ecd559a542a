"""Everything that a GPU is to show, checked and measured in one go: see __main__.py."""
