"""Scores: BLEU, METEOR, ROUGE-L, CIDEr, clinical findings, diversity, intervals, baselines."""
