"""A memory that goes on: sources, answers and events of a stream. In `search` films are looked through, in `checking`
runs are calibrated and scored."""
