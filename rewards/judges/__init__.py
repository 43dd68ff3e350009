"""Video-language models as judges: here in the process, or behind an OpenAI-compatible server."""

from reelrl.rewards.judges.base import Judge, JudgeWarning
from reelrl.rewards.judges.local import VLMJudge
from reelrl.rewards.judges.remote import OpenAIJudge
from reelrl.rewards.judges.rubric import RUBRICS, Rubric

__all__ = ["RUBRICS", "Judge", "JudgeWarning", "OpenAIJudge", "Rubric", "VLMJudge"]
