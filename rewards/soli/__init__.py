"""SoliReward: a reward model trained on single Pass/Fail labels (arXiv 2512.22170).

Labels of single clips become pairs across prompts (:mod:`~reelrl.rewards.soli.pairs`), pairs become
a loss with ties (:mod:`~reelrl.rewards.soli.loss`), and a head on a frozen model's hidden states
(:mod:`~reelrl.rewards.soli.heads`) learns from it. A trained one is a folder
(:mod:`~reelrl.rewards.soli.folder`) that ``make_reward("soli_reward", model=folder)`` opens.
"""
