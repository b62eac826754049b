"""The model of a study, built, loaded and asked. It treats every record on its own.

So a patient can be bounded. A model knows the shape of one input (`input_shape`), which the privacy
check uses to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from common.alignment import start
from common.architectures import MODELS, OF_PICTURES, Shape, StandardisedConv2d
from common.context import FullContext
from common.errors import StudyError
from common.fast_weights import start_of_map
from common.metric_spec import MetricSpec
from common.objectives import CROSS_ENTROPY, Objective, of_metric
from common.params import Params, head_of
from common.references import References
from common.seeds import derive
from common.study import ModelSpec, Study
from common.survival import COX, Hazards, discrete_time
from common.weights_file import read_weights


class Classifier(nn.Module):
    """A body that maps inputs to logits, (records, classes), and the shape of one input.

    Args:
        body: The layers.
        input_shape: Shape of one record: (features,) or (channels, height, width).
        objective: What the outputs are held to.
    """

    def __init__(
        self, body: nn.Module, *, input_shape: Shape, objective: Objective = CROSS_ENTROPY
    ) -> None:
        super().__init__()
        self.body = body
        self.input_shape = input_shape
        self.objective = objective

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x: (records, *input_shape)."""
        return cast(Tensor, self.body(x))

    def features(self, x: Tensor) -> Tensor:
        """Return what the last layer sees of x, (records, features): its place in the space."""
        with self.watched() as seen:
            self.body(x)
        return seen[0].flatten(1)

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Keep what the last layer sees, (records, ...), of each call of the model meanwhile."""
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            yield seen
        finally:
            hook.remove()

    @property
    def by_record(self) -> bool:
        """Whether a layer does more with a record than to map it; see the privacy engine."""
        return any(getattr(module, "by_record", False) for module in self.body.modules())

    @property
    def has_references(self) -> bool:
        """Whether the last layer is references of classes (`common.references`)."""
        return any(isinstance(module, References) for module in self.body.modules())

    @property
    def is_one_layer(self) -> bool:
        """Whether the head is all there is."""
        names = dict(self.named_parameters())
        return names.keys() == head_of(names)

    @property
    def head(self) -> nn.Module:
        """The last layer: the owner of the last weights, or what reads them in context."""
        name = [name for name, _ in self.named_parameters()][-1].rpartition(".")[0]
        last, around = self.get_submodule(name), self.get_submodule(name.rpartition(".")[0])
        return around if getattr(around, "references", None) is last else last


def build(study: Study, *, seed: int = 0, folder: Path | None = None) -> Classifier:
    """Build the model a study names, with its initial weights.

    Args:
        study: Says the model, the shape of an input and the classes.
        seed: Of the random initial weights. Everything else's random state stays as it was.
        folder: Where a weights file that the study names lies. Only who starts a run needs it: a
            site receives the weights with its first round and leaves this out.

    Raises:
        StudyError: the model does not fit the input, or the weights file does not fit the model.
    """
    spec, shape = study.model, study.cohort.input_shape
    if study.cohort.image is not None and study.cohort.image.maps and spec.name in OF_PICTURES:
        raise StudyError(
            f"model.name is {spec.name!r}, which needs pictures, and cohort.image.maps makes a "
            f"table of {shape[0]} numbers of each image",
            remedy="drop cohort.image.maps, or use model.name = 'logistic' or 'mlp'",
        )
    label, metric = study.cohort.label, study.learner.metric
    outputs = len(label.classes) if label.event is None else 1
    model = made(spec, shape, outputs, seed=seed, metric=metric)
    if label.horizon is not None:
        _to_survival(model, spec, label.edges, label.horizon)
    if spec.weights is not None and folder is not None:
        load_params(model, read_weights(folder / spec.weights, params_of(model), spec))
    return model


def made(
    spec: ModelSpec, shape: Shape, classes: int, *, seed: int, metric: MetricSpec | None = None
) -> Classifier:
    """Return a model of random weights for inputs of that shape, whatever study they are of.

    With a metric its last layer is the references of the classes (`common.references`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(MODELS[spec.name](spec, shape, classes), input_shape=shape)
        if metric is not None:
            model = in_space(model, metric, classes)
    if spec.standardise_weights:
        for module in model.modules():
            if type(module) is nn.Conv2d:
                module.__class__ = StandardisedConv2d  # the same layer, called in another way
    if spec.frozen is not None:
        weights = dict(model.named_parameters())
        for name in weights.keys() - head_of(weights):
            weights[name].requires_grad_(False)
    return model


def _to_survival(
    model: Classifier, spec: ModelSpec, edges: Sequence[float], horizon: float
) -> None:
    """Hold a model of one output to times to an event."""
    if spec.likelihood == "cox":
        model.objective = COX
        return
    model.objective = discrete_time(edges, horizon)
    head = model.head
    assert isinstance(head, nn.Linear)  # every model here ends in one
    head.__class__ = Hazards  # the same layer, with a bias for each interval
    head.bias = nn.Parameter(torch.zeros(len(edges)))


def in_space(model: Classifier, metric: MetricSpec, classes: int) -> Classifier:
    """Return the model with references of the classes in place of its linear head.

    Raises:
        StudyError: there is no body under the head.
    """
    head = model.head
    if not isinstance(head, nn.Linear) or model.is_one_layer:
        raise StudyError(
            "learner.metric is given, and the model is one layer, which is no space to learn",
            remedy="use model.name = 'mlp' with hidden layers, conv4 or resnet18",
        )
    dim = head.in_features if metric.embedding is None else metric.embedding
    references = References(dim, classes, metric)
    last: nn.Module = references
    if metric.context:
        last = FullContext(dim, metric.context, references)
    if metric.embedding is not None:
        last = nn.Sequential(nn.Linear(head.in_features, dim), last)
    name = next(name for name, module in model.named_modules() if module is head)
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, last)
    return Classifier(model.body, input_shape=model.input_shape, objective=of_metric(metric))


def initial_params(study: Study, *, seed: int, folder: Path | None = None) -> Params:
    """Return the weights a run with this seed starts from; see `build`."""
    own = derive(seed, "initial weights")
    model = build(study, seed=own, folder=folder)
    return {**beside(study, model, seed=own), **params_of(model)}


def beside(study: Study, model: nn.Module, *, seed: int = 0) -> Params:
    """Return what the study's learner has beside the model, and shares as it does.

    That is a map to fast weights, or pooled moments of features.

    Raises:
        StudyError: the model is too large for it.
    """
    if study.learner.alignment is not None:
        head = cast(Classifier, model).head
        assert isinstance(head, nn.Linear)  # the plan refuses other models
        return start(study.learner.alignment, head.in_features)
    if study.learner.metanet is None:
        return {}
    moved: Params = {k: p for k, p in model.named_parameters() if p.requires_grad}
    return start_of_map(study.learner.metanet, moved, seed=seed)


def params_of(model: nn.Module) -> Params:
    """Return a copy of all of the model's parameters, on the processor, by name."""
    return {k: p.detach().cpu().clone() for k, p in model.named_parameters()}


def shapes_of(study: Study) -> Params:
    """Return names, shapes and types of a study's weights, without values."""
    with torch.device("meta"):
        model = build(study)
        own = {k: v.to("meta") for k, v in beside(study, model).items()}
        return {**own, **{k: p.detach() for k, p in model.named_parameters()}}


def trained(study: Study, params: Params) -> Params:
    """Return those weights of a study's model that are trained: what a delta is made of."""
    if study.model.frozen is None:
        return params
    with torch.device("meta"):
        model = build(study)
    moved = [*beside(study, model), *(k for k, p in model.named_parameters() if p.requires_grad)]
    return {k: params[k] for k in moved}


def load_params(model: nn.Module, params: Params) -> None:
    """Write `params` into the model, wherever it lives."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(params[name])


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, *, chunk: int = 1024) -> Tensor:
    """Return class probabilities, (records, classes), float64 on the processor, in chunks."""
    probabilities = objective_of(model).probabilities
    return torch.cat(
        [probabilities(outputs.double()).cpu() for outputs in _in_chunks(model, model, x, chunk)]
    )


@torch.no_grad()
def features(model: Classifier, x: Tensor, *, chunk: int = 1024) -> Tensor:
    """Return what the last layer sees, (records, features), on the processor, in chunks."""
    return torch.cat([piece.cpu() for piece in _in_chunks(model, model.features, x, chunk)])


def _in_chunks(
    model: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor, chunk: int
) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    model.eval()
    for piece in torch.split(x, chunk):
        yield call(piece.to(device))
    model.train()


def objective_of(model: nn.Module) -> Objective:
    """Return what a model's outputs are held to; the cross-entropy where it does not say."""
    return getattr(model, "objective", CROSS_ENTROPY)


def pick_device(name: str) -> torch.device:
    """Return the device a site names: 'auto', 'cpu', 'cuda' or 'cuda:0'.

    Raises:
        StudyError: the device does not exist on this machine.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    count = torch.cuda.device_count()
    if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < count):
        return device
    raise StudyError(
        f"device is {name!r}, which this machine does not have ({count} CUDA devices)",
        remedy="use 'auto', 'cpu', or 'cuda:N' with N below the number of devices",
    )
