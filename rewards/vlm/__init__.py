"""Rewards read off video-language models of the Qwen2-VL and Qwen2.5-VL classes.

Clips go in as tensors: no mp4, no bytes, no first frame in place of a clip. Weights come from a
local folder and are never downloaded; ``transformers`` is imported when a model is opened.
"""
