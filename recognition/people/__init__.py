"""The task for people: the same episodes in a browser, their answers read back, and published ones."""
