"""The task for people: episodes as experiments in a browser, sessions read back, published people."""
