"""A complete result row to vary in tests."""

from r2genkit.metrics import ALL_METRICS, CLINICAL_METRICS


def row_content(**changes):
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "reason": ""}
    content = {
        "run": "03_show_tell",
        "title": "Show and Tell",
        "about": "test",
        "order": 30,
        "kind": "model",
        "corpus": "phantom",
        "synthetic": True,
        "protocol": "grouped",
        "section": "findings",
        "references": "full",
        "profile": "lab",
        "seed": 0,
        "recipe_hash": "0" * 16,
        "code_hash": "1" * 16,
        "split_fingerprint": "2" * 64,
        "studies": {"train": 10, "validation": 2, "test": 3},
        "selected_on": "validation finding-F1",
        "best_epoch": 3,
        "metrics": {name: dict(score) for name in ALL_METRICS},
        "clinical": {name: dict(score) for name in CLINICAL_METRICS},
        "subsets": {
            "normal": {"studies": 1, "metrics": {name: dict(score) for name in ALL_METRICS}},
            "abnormal": {"studies": 2, "metrics": {name: dict(score) for name in ALL_METRICS}},
        },
        "findings": {"effusion": {"support": 2, "predicted": 1, "hit": 1}},
        "distinct_percent": 40.0,
        "verbatim_in_train_percent": 10.0,
        "extra": {},
        "swap": None,
        "swap_difference": None,
        "constant_difference": None,
        "parameters": 100,
        "trainable_parameters": 50,
        "signature": "s",
        "notes": [],
        "command": "r2genkit train 03_show_tell",
        "measured": {
            "train_seconds": 1.0,
            "total_seconds": 2.0,
            "peak_memory_mb": 3.0,
            "device": "cpu",
            "versions": {},
            "git_revision": "abc",
            "date": "2026-01-01",
        },
    }
    content.update(changes)
    return content
