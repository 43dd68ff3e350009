"""NanoJudge: a real Qwen2.5-VL judge of MovingShapes under a million parameters, trained here."""
