"""Learn your own backbone from films: with labels, without, and what it is good for."""
