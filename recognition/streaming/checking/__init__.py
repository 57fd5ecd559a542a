"""How well runs do on streams: thresholds for so many false events an hour, streams made of films, scores."""
