"""Named fusion modules and optimisations: what each changes from the defaults of the config."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "bmvc2022": {},
    "small": {
        "width": 192,
        "depth": 2,
        "heads": 6,
        "dropout": 0.1,
        "logit_bias": -3.0,
        "decoder_width": 96,
        "decoder_scales": (2,),
        "upsample": "logits",
    },
    "modern": {
        "kind": "maps",
        "likeness": "classes",
        "evidence": 1.0,
        "width": 48,
        "depth": 2,
        "dropout": 0.1,
        "logit_bias": -2.0,
        "decoder_scales": (2,),
    },
}
"""Named fusion modules: what each changes from the paper's table (the defaults of ``FusionConfig``)."""

RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "bmvc2022": {
        "batch": 32,
        "positives": 1,
        "negatives": 0,
        "loss_stride": 1,
        "weight_decay": 0.01,
        "final_weight_decay": 0.4,
        "decoder_constant": True,
    },
    "modern": {
        "batch": 12,
        "positives": 3,
        "negatives": 3,
        "hard_negatives": 0.0,
        "balanced": True,
        "loss": "bce+dice",
        "lr": 2e-3,
        "mixed_precision": "bf16",
        "warmup": 30,
        "weight_decay": 0.05,
        "final_weight_decay": 0.05,
    },
}
"""Named optimisations: what each changes from the defaults of ``TrainingConfig``."""
