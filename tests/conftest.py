"""What every test runs under: no network, one thread, no wall-clock limit on property tests."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from hypothesis import settings

# Threads of small operations wait for each other by spinning: on a busy machine that is slower
# than one thread by an order of magnitude.
torch.set_num_threads(1)

# Shared machines stall for seconds at a time: a deadline would test the neighbours.
settings.register_profile("reelrl", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("reelrl")
