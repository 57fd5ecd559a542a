"""Say what was seen: captions of films, clip after clip, with a memory of what came before."""
