"""What every test runs under: no network, and no wall-clock limit on property tests."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

# Shared machines stall for seconds at a time: a deadline would test the neighbours.
settings.register_profile("reelrl", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("reelrl")
