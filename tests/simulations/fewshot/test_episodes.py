"""Episodes: who is labelled, who judges, and what their figures are."""

import numpy as np
import pytest
import torch

from common.cohort.parts import Part
from common.errors import DataError, StudyError
from common.few_shot_spec import FewShot
from simulations.fewshot.episodes import (
    Episode,
    check_hospital,
    episodes_of,
    judge,
    mean_and_half_width,
)


def part_of(patients):
    """Return a part from the classes of each patient's records."""
    y = torch.tensor([c for classes in patients for c in classes])
    patient = torch.tensor([i for i, classes in enumerate(patients) for _ in classes])
    return Part(torch.arange(len(y), dtype=torch.float32)[:, None], y, patient, len(patients))


THREE = part_of([[c] * (1 + i % 3) for i in range(24) for c in (i % 3,)])


def drawn(rules, shots=2, part=THREE, classes=3, seed=7):
    return list(episodes_of(part, classes, FewShot.model_validate(rules), shots, seed=seed))


def test_nobody_is_on_both_sides_and_each_patient_shows_one_record():
    """Fault it is for: two images of one patient, one to learn from and one to be judged by."""
    for episode in drawn({"episodes": 30, "queries": 4}):
        labelled, queries = THREE.patient[episode.labelled], THREE.patient[episode.queries]
        everybody = [*labelled.tolist(), *queries.tolist()]
        assert len(set(everybody)) == len(everybody) == 3 * (2 + 4)
        assert episode.y.tolist() == [0, 0, 1, 1, 2, 2]
        assert (THREE.y[episode.labelled] == episode.y).all()
        assert (THREE.y[episode.queries].numpy() == episode.truth).all()


def test_episodes_differ_and_do_not_depend_on_how_many_are_drawn():
    first = drawn({"episodes": 12})
    assert len({tuple(e.labelled.tolist()) for e in first}) > 10
    again = drawn({"episodes": 3})
    assert [e.labelled.tolist() for e in first[:3]] == [e.labelled.tolist() for e in again]
    assert drawn({"episodes": 3}, seed=8)[0].labelled.tolist() != first[0].labelled.tolist()


def test_fewer_ways_draw_classes_and_number_them_anew():
    found = drawn({"episodes": 40, "ways": 2, "queries": "all"})
    pairs = set()
    for episode in found:
        classes = THREE.y[episode.labelled].tolist()
        assert episode.y.tolist() == [0, 0, 1, 1]
        assert classes[0] == classes[1] != classes[2] == classes[3]
        assert len(episode.queries) == 16 - 4
        pairs.add((classes[0], classes[2]))
    assert len(pairs) == 6  # every ordered pair: 40 draws miss one with probability 6 (5/6)^40


def test_a_pair_of_shots_is_of_the_positive_class_first():
    two = part_of([[i % 2] for i in range(40)])
    for episode in drawn({"episodes": 5, "queries": "all"}, "3/8", two, 2):
        assert torch.bincount(episode.y).tolist() == [8, 3]
        assert np.bincount(episode.truth).tolist() == [12, 17]


@pytest.mark.parametrize(
    ("patients", "classes", "rules", "error", "said"),
    [
        ([[0]] * 9, 2, {}, DataError, "hospital 'new' has patients of 1 class"),
        ([[0], [1]] * 9, 2, {"ways": 3}, StudyError, r"--ways .* is 3, and hospital 'new' has 2"),
        ([[0], [1]] * 5, 2, {"shots": [5]}, StudyError, "class 1 of hospital 'new' has 5 patients"),
        ([[0]] * 9 + [[1]] * 4, 2, {"shots": ["4/8"]}, StudyError, "class 2 of hospital 'new'"),
        ([[0], [1], [2]] * 9, 3, {"shots": ["4/4"]}, StudyError, "is asked about 3 of 3 classes"),
        ([[0, 1]] * 9 + [[0], [1]] * 3, 2, {"shots": [3]}, StudyError, "has 3 patients"),
        ([[0], [1]] * 9, 3, {"shots": [1]}, StudyError, "class 3 of hospital 'new' has 0"),
    ],
)
def test_what_no_episode_can_be_drawn_of_is_refused(patients, classes, rules, error, said):
    """Patients who could be drawn as either class are counted as neither."""
    with pytest.raises(error, match=said) as found:
        check_hospital("new", part_of(patients), classes, FewShot.model_validate(rules))
    assert found.value.remedy


def test_the_most_that_fits_is_drawn():
    two = part_of([[0, 1]] * 9 + [[0], [1]] * 3)
    check_hospital("new", two, 2, FewShot(shots=(2,)))
    for episode in drawn({"episodes": 50}, 2, two, 2):
        assert set(episode.truth) == {0, 1}


def test_figures_of_an_episode_by_hand():
    """Of 4 queries of class 0 three are right, of 2 of class 1 one: 4/6, and (3/4 + 1/2) / 2.

    Of the 8 pairs the positive is ahead in 4 (score .9) and in 2 (score .4): AUC 6/8. Both
    positives are found when all above .4 are read, which leaves 2 of 6: 2/6 - .05 of the work.
    """
    index = torch.arange(6)
    episode = Episode(0, 2, index, index, index, np.array([0, 0, 0, 0, 1, 1]))
    score = torch.tensor([0.1, 0.2, 0.45, 0.6, 0.9, 0.4], dtype=torch.float64)
    found = judge(torch.stack([1 - score, score], dim=1), episode)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.recall == pytest.approx(5 / 8)
    assert found.auc == pytest.approx(6 / 8)
    assert found.wss95 == pytest.approx(2 / 6 - 0.05)


def test_what_is_not_a_number_is_wrong():
    episode = Episode(0, 3, *[torch.arange(3)] * 3, np.array([0, 1, 2]))
    found = judge(torch.full((3, 3), torch.nan, dtype=torch.float64), episode)
    assert (found.accuracy, found.recall, found.auc) == (0.0, 0.0, None)


def test_half_an_interval_is_of_the_mean():
    """s of 0, 0, 1, 1 is (1/3)^(1/2), and 1.96 s / 2 = .5658."""
    mean, half = mean_and_half_width([0.0, 0.0, 1.0, 1.0])
    assert (mean, round(half, 4)) == (0.5, 0.5658)
    assert mean_and_half_width([0.25]) == (0.25, 0.0)
