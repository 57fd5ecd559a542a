"""Pictures and clips looked up in films: a store of their frames, what is asked, what was found."""
