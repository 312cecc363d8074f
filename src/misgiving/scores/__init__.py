"""Acceptance and OOD scores: `logits` and `features` in numpy, `odin` in torch.

Every score is a confidence: higher means more in-distribution and more likely correct.
"""
