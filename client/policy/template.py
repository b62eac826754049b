"""The first policy.toml of a site: strict, and each line says what it does."""

from __future__ import annotations

import json

from client.policy.limits import Policy
from common.schema import dump_toml

_HEAD = """\
# What this hospital allows. Its word is final: no study can raise a limit. Without this file
# nothing runs. The agent reads it anew whenever it changes; a key with '#' before it is not set.
"""

# (key, its comment, what stands there while the key is left out)
_LINES = (
    ("epsilon", "what one patient may spend in all studies together, over the patient's life", ""),
    ("delta", "the deltas of all studies together", ""),
    ("study_epsilon", "the most that one patient may spend in one study", "study_epsilon = 2.0"),
    ("runs", "how many runs of a study one approval covers", ""),
    ("min_sigma", "smallest noise multiplier of a step and of an evaluation cell", ""),
    ("max_steps", "most private steps of one run (local steps x rounds)", "max_steps = 2000"),
    ("min_cohort", "take part in nothing with fewer patients than this", ""),
    ("learners", "learners allowed; [] allows all", ""),
    ("models", "models allowed; [] allows all", ""),
    (
        "releases",
        "what may leave: weight changes (train), score histograms (evaluate), tables of an "
        "effect (effect)",
        "",
    ),
    (
        "hours",
        "local time at which requests are answered; without it always",
        'hours = "20:00-06:00"',
    ),
    ("device", "overrules cohort.toml: auto, cpu, cuda or cuda:N", 'device = "cpu"'),
    ("max_message_mb", "largest request, in 10^6 bytes", ""),
    ("memory_gb", "most memory that a model may need, in 10^9 bytes", "memory_gb = 8.0"),
    ("allow_unprotected", "let studies without privacy run: their epsilon is infinite", ""),
    (
        "noise_seed",
        "DEVELOPMENT ONLY: noise that anyone can take off who knows the seed",
        "noise_seed = 0",
    ),
)


def policy_text(policy: Policy) -> str:
    """Return a policy as a file that a person edits: a comment above each key.

    >>> "# epsilon" in policy_text(Policy(epsilon=3.0, delta=1e-3))
    False
    """
    values = policy.model_dump(mode="json")
    blocks = [_HEAD]
    for key, comment, example in _LINES:
        is_set = values[key] is not None
        line = _line(key, values[key]) if is_set else f"# {example}"
        blocks.append(f"# {comment}\n{line}\n")
    return "\n".join(blocks)


def _line(key: str, value: object) -> str:
    """Return `key = value` in one line; a list of plain words is alike in JSON and TOML."""
    if isinstance(value, list):
        return f"{key} = {json.dumps(value)}"
    return dump_toml({key: value}).strip()
