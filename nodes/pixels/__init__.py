"""A map of times inside one call of a loaded network.

`scope` puts the map into a model call, `families` says how each architecture takes it, `hooks` has
what those have in common, `attention` reads where the prompt's words are.
"""
