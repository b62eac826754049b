"""The private step: Poisson-sampled patients, one clip a patient, noise, no private counts.

Guarantees
    Let B be a Poisson sample of patients (each in with probability q, independently) and, for a
    patient j in B, let r_j be at most k of the patient's records. A record's gradient comes from
    Opacus; one that holds a NaN or an infinity counts as zero. Per patient:

        g_j = mean of the gradients over r_j,      c_j = g_j * min(1, C / |g_j|)

    or the other rule of `common.privacy.clipping`, so |c_j| <= C whatever the patient's rows are
    and however many: neighbouring data sets (one patient more or less) have clipped sums that
    differ by at most C in the Euclidean norm. Adding N(0, (sigma C)^2 I) makes the sum one
    Poisson-subsampled Gaussian mechanism with noise multiplier sigma (Abadi et al. 2016; patients
    as units by sampling users, arXiv 2407.07737). An empty sample still adds noise and still
    counts. The divisor is a public constant, never the size of B.

    ======================================  ==================================
    a patient's rows                        change of the clipped sum
    ======================================  ==================================
    normal, repeated 100 times              at most C
    NaN, infinity                           0 from those records
    1e6 times too large                     at most C
    no patient sampled                      0; noise is added all the same
    ======================================  ==================================
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import cast

import opacus.accountants
import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from common.cohort.parts import Part
from common.errors import StudyError
from common.models import Classifier, features, objective_of
from common.objectives import CROSS_ENTROPY
from common.params import Params, flatten, only, unflatten
from common.privacy import one_by_one, perceptron
from common.privacy.augmentation import copies_of, expanded
from common.privacy.class_sums import class_sums, count_weight
from common.privacy.clipping import clip_rows
from common.privacy.events import Event, PoissonGaussian
from common.privacy.moments import moment_sums
from common.privacy.perceptron import linear_layers
from common.references import within
from common.study import Clipping

# Opacus hooks every layer; that the first one's input is data and needs no gradient is right.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are")

_CHUNK_VALUES = 2**25  # per-sample gradients held at once: 128 MB of float32
_CHUNK_INPUTS = 2**20  # inputs held at once: of a picture, a network holds many times its size
_LARGE = _CHUNK_VALUES // 8  # parameters from which records go one by one: hooks would hold copies

RecordLoss = Callable[[Params, Tensor, Tensor], Tensor]


class PrivateModel:
    """A model that yields clipped sums of per-patient gradients, through Opacus's hooks.

    Args:
        model: A module that knows its objective (`common.objectives`); one that does not has class
            logits, (records, classes), for outputs. Where its `by_record` is true its layers are
            not called once a record in the order of records, and hooks cannot follow.
        closed_form: Whether a stack of linear layers takes the fast way of
            `common.privacy.perceptron`, which tests hold to the hooks.

    Raises:
        StudyError: a layer mixes the patients of a batch, or Opacus has no gradient rule for it.
    """

    def __init__(self, model: nn.Module, *, closed_form: bool = True) -> None:
        check_compatible(model)
        self._objective = objective_of(model)
        is_closed = closed_form and self._objective is CROSS_ENTROPY
        self._by_record = getattr(model, "by_record", False)
        self._layers = linear_layers(model) if is_closed else None
        self._model = model
        self._all = dict(model.named_parameters())
        self.trained = tuple(name for name, p in self._all.items() if p.requires_grad)
        self._parameters = [self._all[name] for name in self.trained]
        self._size = sum(p.numel() for p in self._parameters)
        # Frozen ones too: of what goes through them there is as much to hold.
        self._all_weights = sum(p.numel() for p in self._all.values())

    @cached_property
    def _module(self) -> GradSampleModule:
        """The model with hooks, made when first needed: a stack of layers may never need them."""
        return GradSampleModule(self._model, loss_reduction="sum")

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self._parameters[0].device

    def clipped_sum(
        self, params: Params, batch: Part, *, clip: float, rule: Clipping = "norm"
    ) -> Params:
        """Return the sum over patients of their clipped mean gradients of the objective.

        Args:
            params: Where to take the gradient: all weights, the frozen ones too.
            batch: The sampled patients with at most k records each; may be empty.
            clip: C, the bound of a patient's gradient in Euclidean norm; infinity for none.
            rule: How it is bounded, as `common.privacy.clipping`.

        Returns:
            The sum, in the model's precision, on the processor, shaped as what is trained.
        """
        rows = batch.most_records * copies_of(batch)
        if self._layers and self.device.type == "cpu" and rows <= 1:
            return perceptron.clipped_sum(params, self._layers, batch, clip=clip, rule=rule)
        if math.isinf(clip):
            plain = self._plain_sum(params, batch)
            if plain is not None:
                return plain
        if self._objective.whole_batch:
            name = self._objective.name
            raise _diverged(name) if math.isinf(clip) else _couples(name)
        if self._by_record:
            all_weights = {k: v.detach().to(self.device) for k, v in params.items()}
            trained = only(params, self.trained)
            return self.clipped_sum_of(
                lambda at, x, y: self.loss({**all_weights, **at}, x, y),
                trained,
                batch,
                clip=clip,
                rule=rule,
            )
        self._load(params)
        if self._size >= _LARGE or self._size * rows > _CHUNK_VALUES:
            sums = one_by_one.clipped_sum(
                self._model, self._parameters, batch, clip=clip, rule=rule
            )
            return {name: v.cpu() for name, v in zip(self.trained, sums, strict=True)}
        dtype = self._parameters[0].dtype
        total = torch.zeros(self._size, dtype=dtype, device=self.device)
        for chunk in _chunks(batch, _CHUNK_VALUES // self._all_weights):
            gradients = self._patient_gradients(expanded(chunk))
            total += clip_rows(gradients, clip=clip, rule=rule).sum(dim=0)
        return unflatten(total.cpu(), only(params, self.trained))

    def clipped_products(
        self,
        params: Params,
        batch: Part,
        *,
        direction: Params,
        clip: float,
        rule: Clipping = "norm",
    ) -> Params:
        """Return the sum over patients of their clipped Hessian-vector products.

        A patient's product is the mean over his records of H v, with H the Hessian of the record's
        loss and v the direction. It is bounded as a gradient is: non-finite records are 0,
        and no patient's product is longer than `clip`, which must not depend on patients but
        through what was released.

        Args:
            params: Where to take the Hessian.
            batch: The sampled patients with at most k records each; may be empty.
            direction: v, shaped as what is trained.
            clip: The bound of a patient's product in Euclidean norm; infinity for none.
            rule: How it is bounded, as `common.privacy.clipping`.

        Returns:
            The sum, as `clipped_sum` returns it.
        """
        if self._objective.whole_batch:
            raise _couples(self._objective.name)
        self._load(params)
        at, v = (
            {k: p[k].detach().to(self._parameters[0]) for k in self.trained}
            for p in (params, direction)
        )

        def product(x: Tensor, y: Tensor) -> Tensor:
            def slope(point: Params) -> Tensor:
                gradient = grad(self.loss)(point, x[None], y[None])
                return torch.stack([(gradient[k] * v[k]).sum() for k in v]).sum()

            return flatten(grad(slope)(at))

        # Twice backward holds about four times what one gradient does.
        records = _CHUNK_VALUES // 4 // self._all_weights
        total = self._clipped(product, flatten(at), batch, clip=clip, rule=rule, records=records)
        return unflatten(total, only(params, self.trained))

    def clipped_sum_of(
        self, loss: RecordLoss, at: Params, batch: Part, *, clip: float, rule: Clipping = "norm"
    ) -> Params:
        """Return the sum over patients of their clipped mean gradients of a loss of one's own.

        Patients are bounded as in `clipped_sum`; what the loss knows beside the record must not
        depend on patients but through what was released.

        Args:
            loss: (point, x, y) -> the loss of one record, x (1, ...) and y (1,), a scalar;
                differentiable in the point. `loss` of this model is one.
            at: Where to take the gradient; what it names is what is clipped as one.
            batch: The sampled patients with at most k records each; may be empty.
            clip: The bound of a patient's gradient in Euclidean norm; infinity for none.
            rule: How it is bounded, as `common.privacy.clipping`.

        Returns:
            The sum, on the processor, shaped as `at`.
        """
        point = {k: v.detach().to(self._parameters[0]) for k, v in at.items()}

        def gradient(x: Tensor, y: Tensor) -> Tensor:
            return flatten(grad(loss)(point, x[None], y[None]))

        size = max(self._all_weights, sum(v.numel() for v in at.values()))
        records = _CHUNK_VALUES // 2 // size  # what a loss makes of its point is held beside it
        total = self._clipped(
            gradient, flatten(point), batch, clip=clip, rule=rule, records=records
        )
        return unflatten(total, at)

    def _clipped(
        self,
        row: Callable[[Tensor, Tensor], Tensor],
        like: Tensor,
        batch: Part,
        *,
        clip: float,
        rule: Clipping,
        records: int,
    ) -> Tensor:
        """Return the sum over patients of their clipped mean rows, on the processor.

        Args:
            row: (x, y) of one record -> a vector shaped as `like`.
            like: Of the sum's size and type.
            batch: The sampled patients.
            clip: The bound of a patient's mean row.
            rule: How it is bounded.
            records: How many to hold at once.
        """
        total = torch.zeros_like(like)
        with self._without_hooks():
            for piece in _chunks(batch, records):
                chunk = expanded(piece)
                rows = vmap(row)(chunk.x.to(self.device), chunk.y.to(self.device))
                means = _patient_means(rows.detach(), chunk)
                total += clip_rows(means, clip=clip, rule=rule).sum(dim=0)
        return total.cpu()

    def mean_loss(self, params: Params, part: Part) -> Tensor:
        """Return the mean over patients of their records' mean loss, differentiable.

        It is a value computed from patients, without any bound of its own.
        """
        with self._without_hooks():
            outputs = functional_call(self._model, params, (part.x.to(self.device),))
            losses = self._objective.losses(outputs, part.y.to(self.device))
            return (losses * part.weights.to(losses)).sum() / part.patients

    def loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the records' losses at these weights, differentiable."""
        return self._objective.losses(functional_call(self._model, params, (x,)), y).sum()

    def loss_and_features(self, params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same and where the records lie, (records, dim), in the last layer's space."""
        with cast(Classifier, self._model).watched() as seen:
            loss = self.loss(params, x, y)
        return loss, seen[0].flatten(1)

    @contextmanager
    def _without_hooks(self) -> Iterator[None]:
        """Let the plain model be called: torch.func cannot pass Opacus's hooks, even at rest."""
        hooked = "_module" in self.__dict__
        if hooked:
            self._module.remove_hooks()
        try:
            yield
        finally:
            if hooked:
                self._module.add_hooks(loss_reduction="sum")

    def _plain_sum(self, params: Params, batch: Part) -> Params | None:
        """Return the sum of all patients' mean gradients, where nothing is clipped, at one go.

        None where it is not finite: record by record it can be told which ones are.
        """
        at = {k: params[k].detach().to(self._parameters[0]) for k in self._all}
        wanted = [at[name].requires_grad_() for name in self.trained]
        total = [torch.zeros_like(v) for v in wanted]
        with self._without_hooks():
            for piece in self._whole_or_chunks(batch):
                chunk = expanded(piece)
                outputs = functional_call(self._model, at, (chunk.x.to(self.device),))
                losses = self._objective.losses(outputs, chunk.y.to(self.device))
                loss = (losses * chunk.weights.to(losses)).sum()
                for value, found in zip(total, torch.autograd.grad(loss, wanted), strict=True):
                    value += found
        if not all(bool(torch.isfinite(v).all()) for v in total):
            return None
        return {k: v.cpu() for k, v in zip(self.trained, total, strict=True)}

    def _whole_or_chunks(self, batch: Part) -> Iterator[Part]:
        if self._objective.whole_batch:
            return iter([batch] if batch.patients else [])
        return _chunks(batch, _CHUNK_VALUES // 8 // max(1, batch.x[:1].numel()))

    def class_sums(
        self, params: Params, batch: Part, *, classes: int, slots: int, radius: float | None
    ) -> Params:
        """Return where the sampled patients' classes lie, as `common.privacy.class_sums`.

        Args:
            params: Of the model whose features are places.
            batch: The sampled patients with at most k records each; may be empty.
            classes: How many.
            slots: References a class.
            radius: Within which places are drawn; None where nothing is promised.
        """
        self._load(params)
        with self._without_hooks(), torch.no_grad():
            found = features(cast(Classifier, self._model), batch.x)
        weight = 1.0 if radius is None else count_weight(radius)
        places = within(found, radius)
        return class_sums(places, batch, classes=classes, slots=slots, weight=weight)

    def moment_sums(
        self,
        params: Params,
        part: Part,
        *,
        place: Callable[[Tensor], Tensor],
        radius: float,
        second: bool,
    ) -> Params:
        """Return where patients' features lie, as `common.privacy.moments`.

        Args:
            params: Of the model whose features they are.
            part: The patients; may be empty.
            place: Features (records, dim) -> what stands for them, of norm at most `radius`.
            radius: R.
            second: Whether second moments are asked for too.
        """
        self._load(params)
        with self._without_hooks(), torch.no_grad():
            found = features(cast(Classifier, self._model), part.x)
        return moment_sums(place(found), part, radius=radius, second=second)

    def gradient_of(self, params: Params, value: Callable[[nn.Module], Tensor]) -> Params:
        """Return the gradient of any value of the model, of the weights that are trained.

        It has no bound: what leaves of it must be clipped and noised, or is not private.

        Args:
            params: Where to take it.
            value: The model with those weights -> a scalar.
        """
        self._load(params)
        with self._without_hooks():
            found = torch.autograd.grad(value(self._model), self._parameters)
        return {k: v.detach().cpu() for k, v in zip(self.trained, found, strict=True)}

    def _patient_gradients(self, batch: Part) -> Tensor:
        """Return each patient's mean gradient, (patients, parameters); non-finite records are 0."""
        self._forget()
        outputs = self._module(batch.x.to(self.device))
        self._objective.losses(outputs, batch.y.to(self.device)).sum().backward()  # type: ignore[no-untyped-call]
        rows = torch.cat([_grad_sample(p).flatten(1) for p in self._parameters], dim=1)
        self._forget()
        return _patient_means(rows, batch)

    def _forget(self) -> None:
        """Drop all gradients; zero_grad would walk every layer, which a small model feels."""
        for parameter in self._parameters:
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]

    def _load(self, params: Params) -> None:
        """Let the model share the weights' memory where it can: it never writes to them."""
        for name, parameter in self._all.items():
            parameter.data = params[name].detach().to(parameter)


def _couples(objective: str) -> StudyError:
    return StudyError(
        f"objective {objective!r} compares the records of a batch, so that no patient's part in "
        "its gradient can be bounded",
        remedy="leave [privacy] out, or use an objective that looks at one record at a time",
    )


def _diverged(objective: str) -> StudyError:
    return StudyError(
        f"the gradient of objective {objective!r} is not finite",
        remedy="lower learner.learning_rate",
    )


def _patient_means(rows: Tensor, batch: Part) -> Tensor:
    """Return each patient's mean row, (patients, parameters); records that are not finite are 0."""
    finite = torch.isfinite(rows).all(dim=1, keepdim=True)
    rows = torch.where(finite, rows, torch.zeros_like(rows))
    weights = batch.weights.to(rows)
    means = torch.zeros(batch.patients, rows.shape[1], dtype=rows.dtype, device=rows.device)
    means.index_add_(0, batch.patient.to(rows.device), rows * weights[:, None])
    return means


def _grad_sample(parameter: nn.Parameter) -> Tensor:
    value: Tensor = parameter.grad_sample  # type: ignore[attr-defined]  # Opacus keeps it here
    return value.detach()


def _chunks(batch: Part, records: int) -> Iterator[Part]:
    """Cut a batch into pieces of about `records` records, or of fewer where each has copies.

    No patient is parted.
    """
    if batch.patients == 0:
        return
    records = min(records, _CHUNK_INPUTS // max(1, batch.x[0].numel()))
    records = max(1, records // copies_of(batch))
    if batch.x.shape[0] <= records:
        yield batch
        return
    sizes = torch.bincount(batch.patient, minlength=batch.patients)
    piece = (torch.cumsum(sizes, 0) - sizes) // records
    for number in torch.unique(piece[batch.patient]):
        yield batch.select(torch.nonzero(piece[batch.patient] == number).reshape(-1))


def check_compatible(model: nn.Module) -> None:
    """Refuse a model under which one patient's output depends on another patient of the batch.

    Opacus's validator knows the layers; a functional batch norm slips past it (sensitivity 5.5 C in
    place of C), so the model is also run: a record's output must not change with its neighbours.

    Raises:
        StudyError: the model is not compatible, with the layer or the reason.
    """
    errors = ModuleValidator.validate(model, strict=False)
    if errors:
        raise StudyError(
            f"model is not compatible with privacy per patient: {errors[0]}",
            remedy="use group or layer normalisation in place of batch normalisation",
        )
    shape = getattr(model, "input_shape", None)
    if shape is not None and _mixes_records(model, shape):
        raise StudyError(
            "model mixes the records of a batch: one patient's output changes with another's input",
            remedy="remove batch statistics (functional batch norm, attention over the batch)",
        )


def _mixes_records(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Run one record in two different companies, in training mode, under the same random state."""
    generator = torch.Generator().manual_seed(0)
    record, *others = (torch.randn(2, *shape, generator=generator) for _ in range(3))
    like = next(model.parameters())
    was_training, outputs = model.training, []
    model.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for other in others:
            torch.manual_seed(0)
            outputs.append(model(torch.cat([record, 9 * other]).to(like))[:2])
    model.train(was_training)
    return not torch.allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)


def prv_epsilon(events: list[Event], *, delta: float, error: float = 0.01) -> float:
    """Return Opacus's epsilon for the same events, by its PRV accountant, as a cross-check.

    Args:
        events: Events on one part.
        delta: As in `accounting.epsilon`.
        error: The accountant's stated error of epsilon (Gopi et al. 2021).
    """
    accountant = opacus.accountants.PRVAccountant()
    for event in events:
        if not isinstance(event, PoissonGaussian):
            return math.inf
        sigma = event.sigma / (2 if event.adjacency == "replace" else 1)
        accountant.history.append((sigma, event.sampling_rate, event.count))
    if not accountant.history:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own grid; the error is stated above
        return float(accountant.get_epsilon(delta, eps_error=error))
