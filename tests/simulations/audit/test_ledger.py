"""The audit of books: what is sound passes, each way of cooking them fails under its own name."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from client.ledger import Key, Ledger
from client.ledger import store as ledger_store
from common.auditing.outcome import Audit
from common.errors import GrandroundsError
from common.plan import Plan, write_plan
from common.privacy.accounting import epsilon
from common.privacy.events import PoissonGaussian, Unprotected, gaussian
from common.report.audit_page import audit_html
from server.results import privacy_of
from server.store import Store
from server.tables import TOOK_PART, Introduction, Reply
from simulations.audit.ledger import audit_ledger
from tests.command_line import run_command
from tests.small_world import hospital, roomy, small_plan

PLAN = small_plan()


def site(folder: Path, **changes) -> Path:
    """Write a hospital's folder with an empty ledger."""
    hospital(folder, PLAN, policy=roomy(PLAN, **changes))
    return folder


def charge(folder: Path, *events, phase="train", number=1, plan=PLAN, answered=True) -> None:
    """Enter a release as the gate does."""
    key = Key(plan.digest, "run", phase, number)
    with closing(Ledger(folder / "ledger.sqlite", durable=False)) as ledger:
        entry = ledger.reserve(key, delta=plan.delta, events=events)
        if answered:
            ledger.commit(entry, key, b"reply")


def whole_run(folder: Path) -> Path:
    """Enter every release of the plan."""
    charge(folder, phase="join", number=0)
    for number in range(1, PLAN.study.rounds.count + 1):
        charge(folder, *PLAN.training_prices(), number=number)
    charge(folder, PLAN.evaluation_price(), phase="evaluate", number=PLAN.study.rounds.count)
    charge(folder, phase="deliver", number=PLAN.study.rounds.count)
    return folder


def failed(audit: Audit) -> set[str]:
    return {test.name.split(": ")[-1] for test in audit.failed}


def test_a_sound_ledger_comes_to_what_its_plan_says(tmp_path):
    audit, values = audit_ledger(whole_run(site(tmp_path / "north")))
    assert audit.verdict == "not refuted"
    (study,) = values["studies"]
    assert study["pld"] == pytest.approx(PLAN.epsilon, abs=1e-9)
    assert study["prv"] == pytest.approx(PLAN.epsilon, abs=0.03)
    assert study["sums"] == study["planned"] == PLAN.steps
    assert values["privacy"]["private"]
    assert values["privacy"]["sampling_rate"] == 1
    assert not values["remarks"]


def test_what_was_paid_and_not_answered_is_spent_and_no_fault(tmp_path):
    folder = whole_run(site(tmp_path / "north"))
    charge(folder, *PLAN.training_prices(), number=2, answered=False)
    audit, values = audit_ledger(folder)
    assert audit.verdict == "not refuted"
    assert values["studies"][0]["pld"] > PLAN.epsilon
    assert "1 releases were paid for and not answered" in values["remarks"][0]


def test_a_round_answered_twice_is_more_than_the_plan_claims(tmp_path):
    folder = whole_run(site(tmp_path / "north"))
    charge(folder, *PLAN.training_prices(), number=2)
    assert failed(audit_ledger(folder)[0]) == {"answers", "plan"}


@pytest.mark.parametrize(
    ("events", "number"),
    [
        ((gaussian(sigma=4.0, count=1, part="train"),), 1),  # half of the steps
        ((gaussian(sigma=8.0, count=2, part="train"),), 1),  # twice the noise
        ((gaussian(sigma=4.0, count=2, part="holdout"),), 1),  # another patient pays
        (PLAN.training_prices(), 9),  # a round that the plan has not
    ],
)
def test_a_price_that_is_not_the_plans_is_found(tmp_path, events, number):
    folder = site(tmp_path / "north")
    charge(folder, *events, number=number)
    assert failed(audit_ledger(folder)[0]) == {"prices"}


def test_more_than_the_policy_allows_is_found(tmp_path):
    changes = {"epsilon": 0.5, "study_epsilon": 0.4, "delta": PLAN.delta / 2}
    audit, _ = audit_ledger(whole_run(site(tmp_path / "north", **changes)))
    assert failed(audit) == {"epsilon", "study_epsilon", "delta"}


def test_an_accountant_that_counts_otherwise_is_found(tmp_path, monkeypatch):
    """Fault it is for: a site's accountant that forgets what a study spent before."""
    monkeypatch.setattr(
        "simulations.audit.books.site.epsilon",
        lambda events, delta: epsilon([replace(e, count=1) for e in events], delta=delta),
    )
    audit, _ = audit_ledger(whole_run(site(tmp_path / "north")))
    assert failed(audit) == {"recomputed"}


def test_seeded_noise_at_a_real_site_is_a_failure(tmp_path):
    folder = whole_run(site(tmp_path / "north"))
    (folder / "keys").mkdir()  # a simulated site has none
    with closing(Ledger(folder / "ledger.sqlite")) as ledger:
        assert ledger.behind is not None
        ledger.reconcile([], "made for a test")
    audit, values = audit_ledger(folder)
    assert failed(audit) == {"generator"}
    assert values["privacy"]["statement"].startswith("NOT PRIVATE")


def test_what_promises_nothing_gets_no_good_word(tmp_path):
    plan = small_plan(privacy=None)
    folder = tmp_path / "north"
    hospital(folder, plan, policy=roomy(plan, allow_unprotected=True))
    charge(folder, *plan.training_prices(), plan=plan)
    audit, values = audit_ledger(folder)
    assert audit.verdict == "could not have been refuted"
    assert values["claimed_epsilon"] is None
    assert not values["privacy"]["private"]


def _edited(folder: Path) -> None:
    whole_run(folder)
    db = sqlite3.connect(folder / "ledger.sqlite")
    db.execute("DROP TRIGGER entries_are_never_edited")
    db.execute("UPDATE entries SET body = replace(body, '4.0', '9.0') WHERE seq = 3")
    db.commit()
    db.close()


def _unknown(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_store, "to_json", lambda event: {"kind": "laplace", "b": 1.0})
        charge(folder, *PLAN.training_prices())


def _mixed(folder: Path) -> None:
    charge(folder, *PLAN.training_prices())
    other = small_plan(name="other")
    charge(folder, PoissonGaussian(9.0, 1.0, 1, "train", "replace"), plan=other)


def _without_events(folder: Path) -> None:
    charge(folder, phase="join", number=0)


BAD = [
    (_edited, "the ledger's chain is broken: entry 3 was edited"),
    (_unknown, "unknown privacy event kind 'laplace'"),
    (_mixed, "different adjacency (add_remove, replace) do not add up"),
    (_without_events, "holds no event"),
    (lambda folder: None, "holds no event"),
    (lambda folder: (folder / "cohort.toml").unlink(), "holds neither"),
    (lambda folder: (folder / "policy.toml").unlink(), "there is no policy file"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_books_that_cannot_be_judged_get_a_message_and_no_verdict(
    tmp_path, monkeypatch, capsys, spoil, message
):
    folder, out = site(tmp_path / "north"), tmp_path / "audit"
    spoil(folder)
    ended = run_command(monkeypatch, capsys, "audit", "ledger", folder, "--out", out)
    assert ended.code == 2
    assert message in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert not ended.out
    assert not out.exists()
    if spoil is BAD[4][0]:
        assert not (folder / "ledger.sqlite").exists()


def run_folder(folder: Path, plan: Plan = PLAN) -> Path:
    """Write a run folder as a coordinator has it after the last round."""
    (folder / "plans").mkdir(parents=True)
    write_plan(plan, folder / "plans")
    last, names = plan.study.rounds.count, ("north", "south")
    with closing(Store(folder)) as store:
        store.start("main", digest=plan.digest, code="")
        store.introduce("main", [Introduction(n, 40, TOOK_PART) for n in names])
        for number in range(1, last + 1):
            said = plan.epsilon_after(number)
            answers = [Reply(n, "ok", epsilon=said, reserves=number) for n in names]
            store.round("main", number=number, phase="train", answers=answers, seconds=0.0)
        answers = [Reply(n, "ok", epsilon=plan.epsilon, reserves=last + 1) for n in names]
        store.round("main", number=last, phase="evaluate", answers=answers, seconds=0.0)
        counts = [[[0.0] * plan.study.evaluation.bins] * 2]
        for name in names:
            store.histogram("main", site=name, sigma=plan.evaluation_sigma, counts=counts)
        store.end("main", status="finished")
    metrics = {
        "study_digest": plan.digest,
        "engine": "deployment",
        "privacy": privacy_of(plan, noise="each hospital's own"),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_a_sound_run_is_not_refuted(tmp_path):
    audit, values = audit_ledger(run_folder(tmp_path / "run"))
    assert audit.verdict == "not refuted"
    assert audit.claimed_epsilon == PLAN.epsilon
    assert {t.name.split(": ")[0] for t in audit.tests} == {"L main", "L report"}
    assert values["studies"][0]["pld"] == pytest.approx(PLAN.epsilon, abs=1e-9)


@pytest.mark.parametrize(
    ("sql", "test"),
    [
        ("UPDATE replies SET epsilon = 0.1 WHERE round = 3", "receipts"),  # restarted each round
        ("UPDATE replies SET reserves = 1", "payments"),
        ("UPDATE replies SET round = 9 WHERE round = 2 AND site = 'north'", "rounds"),
        ("UPDATE replies SET status = 'dropped' WHERE round = 2 AND site = 'north'", "rounds"),
        ("UPDATE histograms SET sigma = 0.1 WHERE site = 'north'", "histograms"),
        ("INSERT INTO histograms SELECT job, 'third', sigma, counts FROM histograms LIMIT 1",
         "histograms"),
        ("UPDATE members SET noise = 'seeded' WHERE site = 'south'", "terms"),
        ("INSERT INTO replies SELECT job, 4, phase, site, status, reason, epsilon, 9, norm, "
         "fingerprint, tag FROM replies WHERE round = 3 AND phase = 'train'", "plan"),
    ],
)  # fmt: skip
def test_a_run_that_released_otherwise_than_it_says_fails(tmp_path, sql, test):
    folder = run_folder(tmp_path / "run")
    db = sqlite3.connect(folder / "run.sqlite")
    db.execute(sql)
    db.commit()
    db.close()
    assert test in failed(audit_ledger(folder)[0])


@pytest.mark.parametrize(
    ("changes", "test"),
    [
        ({"epsilon": PLAN.epsilon / 2}, "epsilon"),
        ({"sigma": 9.0}, "terms"),
        ({"delta": 1e-6}, "terms"),
    ],
)
def test_a_report_that_promises_more_than_was_kept_fails(tmp_path, changes, test):
    folder = run_folder(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["privacy"] |= changes
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert failed(audit_ledger(folder)[0]) == {test}


def test_a_run_that_goes_on_is_held_to_its_plan(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "metrics.json").unlink()
    audit, values = audit_ledger(folder)
    assert audit.verdict == "not refuted"
    assert "has not ended" in values["remarks"][0]


def test_a_run_of_which_nothing_is_known_is_refused(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "metrics.json").write_text("[1")
    with pytest.raises(GrandroundsError, match="cannot be read"):
        audit_ledger(folder)
    for path in (folder / "plans").iterdir():
        path.unlink()
    with pytest.raises(GrandroundsError, match="has no plan"):
        audit_ledger(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    Store(empty).close()
    with pytest.raises(GrandroundsError, match="holds no event"):
        audit_ledger(empty)


def test_an_unprotected_event_under_a_private_plan_is_found(tmp_path):
    folder = site(tmp_path / "north")
    charge(folder, Unprotected("train"))
    assert {"prices", "epsilon"} <= failed(audit_ledger(folder)[0])


def test_the_command_leaves_a_page_and_the_contract(tmp_path, monkeypatch, capsys):
    folder, out = run_folder(tmp_path / "run"), tmp_path / "audit"
    arguments = ("audit", "ledger", folder, "--json", "--out", out)
    ended = run_command(monkeypatch, capsys, *arguments)
    assert ended.code == 0
    printed = json.loads(ended.out)
    assert printed["verdict"] == "not refuted"
    kept = json.loads((out / "audit.json").read_text())
    assert kept["tests"] == printed["tests"]
    assert "Trust model" in (out / "report.html").read_text()


def test_the_page_of_a_ledger_says_what_rests_on_a_secret_sample(tmp_path):
    """Fault it is for: 'nothing rests on a secret sample' over sampled steps."""
    folder = site(tmp_path / "north")
    charge(folder, gaussian(sigma=4.0, count=2, part="train", sampling_rate=0.25))
    page = audit_html(audit_ledger(folder)[1])
    assert "Poisson, 0.25" in page
    assert "nothing rests on a secret sample" not in page
