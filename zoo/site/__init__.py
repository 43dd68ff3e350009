"""The documentation site: pages generated from registries, presets and docstrings at build time."""
