"""What a hospital allows: policy.toml, which always wins over the study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from client.policy.hours import parse_hours
from common.learner_spec import LearnerName
from common.schema import Count, Positive, Table
from common.study import ModelName

SEEDED = (
    "SEEDED NOISE: policy.toml sets noise_seed. Whoever knows the seed can take the noise off: "
    "nothing released here is private. For development with invented patients only."
)


class Policy(Table):
    """policy.toml: the hospital's own limits, which no study can raise.

    Attributes:
        epsilon: What one patient may spend in all studies together, over the patient's life.
        delta: The deltas of all studies together.
        study_epsilon: What one patient may spend in one study; `epsilon` where it is left out.
        runs: How many runs of one study.
        min_sigma: Smallest noise multiplier of a step, and of a cell of the evaluation.
        max_steps: Most private steps of one run.
        min_cohort: Smallest declared size with which the site takes part in anything.
        learners: Learners allowed; all where it is empty.
        models: Models allowed; all where it is empty.
        releases: What may leave: weight deltas (train), evaluation histograms (evaluate), tables of
            an effect (effect).
        hours: Local time of day at which requests are answered, as '20:00-06:00'; always where it
            is left out.
        device: Overrules cohort.toml's device.
        max_message_mb: Largest request, in 10^6 bytes.
        memory_gb: Most memory, in 10^9 bytes, that a model may need: four copies of its weights in
            float32 (model, gradients, optimiser, delta).
        allow_unprotected: Whether a study without privacy may run at all; its epsilon is infinite.
        noise_seed: Seeded noise, for development only; a real site leaves it out and draws from a
            cryptographic source.
    """

    epsilon: Positive
    delta: Annotated[float, Field(ge=0, lt=1)]
    study_epsilon: Positive | None = None
    runs: Count = 1
    min_sigma: Annotated[float, Field(ge=0)] = 0.0
    max_steps: Count | None = None
    min_cohort: Count = 1
    learners: tuple[LearnerName, ...] = ()
    models: tuple[ModelName, ...] = ()
    releases: tuple[Literal["train", "evaluate", "effect"], ...] = ("train", "evaluate", "effect")
    hours: str | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] | None = None
    max_message_mb: Positive = 1000.0
    memory_gb: Positive | None = None
    allow_unprotected: StrictBool = False
    noise_seed: StrictInt | None = None

    @field_validator("hours")
    @classmethod
    def _readable_hours(cls, value: str | None) -> str | None:
        if value is not None:
            parse_hours(value)
        return value

    def for_runs(self, runs: int | None) -> Policy:
        """Return the policy for a study whose approval covers so many runs; None adds no limit."""
        if runs is None or runs >= self.runs:
            return self
        return self.model_copy(update={"runs": runs})


NOTHING = Policy(epsilon=1e-9, delta=0.0, releases=())
"""What stands in for a policy that cannot be read."""
