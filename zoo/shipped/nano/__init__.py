"""The shipped nano-Wan models: architecture, training from nothing, export and measurement."""
