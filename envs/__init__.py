"""The denoising MDP: environments, step kernels and the video models that live in them."""
