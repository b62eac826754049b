"""Models under which patients would mix are refused; those of the package are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.architectures import MODELS
from common.errors import StudyError
from common.models import Classifier, build
from common.privacy.engine import PrivateModel, check_compatible
from common.study import parse_study


class FunctionalBatchNorm(nn.Module):
    def forward(self, x):
        return F.batch_norm(x, None, None, training=True)


class BatchAttention(nn.Module):
    def forward(self, x):
        return torch.softmax(x @ x.T, dim=1) @ x


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.BatchNorm1d(4), "BatchNorm"),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), "not compatible"),
        (FunctionalBatchNorm(), "mixes the records"),
        (BatchAttention(), "mixes the records"),
    ],
)
def test_model_that_mixes_patients_is_refused(layer, said):
    """A functional batch norm passes Opacus's validator, with a sensitivity of 5.5 C."""
    model = Classifier(nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3)), input_shape=(4,))
    with pytest.raises(StudyError, match=said):
        PrivateModel(model)


# A backbone comes with a file: tests/common/transfer/test_backbone.py.
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"backbone"}))
def test_every_model_of_the_package_is_compatible(name):
    study = parse_study(
        {
            "name": "test",
            "cohort": {"label": {"classes": ["a", "b", "c"]}, "image": {"size": 32}},
            "model": {"name": name, "width": 4},
            "learner": {"learning_rate": 0.1},
            "rounds": {"count": 1},
        },
        origin="test",
    )
    module = build(study)
    state = torch.get_rng_state()
    check_compatible(module)
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
