"""How the weights that ship with the library were made, from nothing, and measured."""
