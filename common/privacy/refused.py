"""What studies elsewhere ask for and this one cannot: each has no private form here, and why.

A study that asks is refused when it is read, with the reason, and not trained in some other way.
"""

from __future__ import annotations

_INNER = (
    "an inner loop without noise has no private form: one support patient moves every query "
    "gradient, however those are clipped; every step here is noised"
)
_BATCH = (
    "statistics of a batch mix its patients, so that no patient's part can be bounded; "
    "normalisation here is by group"
)
_STOPPING = (
    "stopping, or choosing, when the patients say so is a release of its own that nothing here "
    "accounts for; rounds and steps are fixed before any patient is read"
)
_METRICS = (
    "figures of patients without noise do not leave a hospital; one noisy histogram does, at the "
    "end, and every figure comes from it"
)
_HEAD = (
    "a head trained without noise would carry its patients into the shared body's changes; its "
    "steps are noised and paid for, and it may be refined freely after the last round "
    "([adaptation])"
)

NO_PRIVATE_COX = (
    "Cox's partial likelihood compares each patient with all who are still at risk, so one patient "
    "moves every other's gradient and none can be bounded; the discrete-time likelihood of the "
    "same study looks at one patient at a time"
)

NO_PRIVATE_FORM: dict[str, str] = {
    **dict.fromkeys(("inner_private", "private_inner", "inner_noise", "noisy_inner"), _INNER),
    **dict.fromkeys(("batch_norm", "batchnorm", "norm", "normalisation", "normalization"), _BATCH),
    **dict.fromkeys(
        ("early_stopping", "patience", "stop_when", "tolerance", "until", "best_of", "scheduler"),
        _STOPPING,
    ),
    **dict.fromkeys(
        ("metrics", "report_loss", "report_accuracy", "train_metrics", "log_loss", "validation"),
        _METRICS,
    ),
    **dict.fromkeys(("head_private", "private_head", "local_head"), _HEAD),
}
