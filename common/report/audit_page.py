"""The page of an audit: the verdict, its evidence, and what was promised in an officer's terms.

`audit_page.html` only lays it out. The terms are those of NIST SP 800-226 (Near et al. 2025): what
epsilon is of, against whom, and on what it rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report.figures_audit import accounts, bounds, canaries, noise, reach, samples
from common.report.layout import fill, numbered
from common.report.values import DASH, Metrics, finite, show

KINDS = {
    "A": "A, replay: one patient more or less under the same randomness",
    "B": "B, noise: what was added to the clipped sums",
    "S": "S, sampler: who took part, and in how many steps",
    "C": "C, canaries: lower bounds of epsilon from one run",
    "P": "P, parametric: epsilon from what was measured",
    "L": "L, books: recomputed from events alone",
}

TRUST = (
    "Each hospital trusts the program that it installed, and the machine that it runs on. The "
    "promise holds against everybody else: the coordinator, who sees every delta, the relay, other "
    "hospitals, and whoever has the model, whatever they know of the other patients. It does not "
    "hold against who reads the hospital's own files, and says nothing of the time that an answer "
    "takes."
)
_COVERED = (
    "Every release is in the table. What leaves besides depends on no patient: the site's name, "
    "the size that it declares, a refusal's reason, and receipts of what was spent."
)


def audit_html(values: Metrics) -> str:
    """Write the page of an audit as one HTML file with its styles and pictures inside.

    Args:
        values: As `grandrounds audit engine`, `study` and `ledger` write them to audit.json.

    Returns:
        The whole file as text; equal values give equal text.
    """
    return fill(
        "audit_page.html",
        values,
        title=f"Privacy audit: {values['title']}",
        verdict=audit_verdict(values),
        second=_second(values),
        groups=_groups(values),
        studies=_studies(values),
        trust=TRUST,
        sampling=_sampling(values),
        covered=_COVERED,
        notes=_notes(values),
        pictures=_pictures(values),
        rebuild=_command(values),
        footer=_footer(values),
    )


def audit_verdict(values: Metrics) -> str:
    """Say in one sentence what the audit found; it never says 'private'.

    >>> audit_verdict({"kind": "engine", "verdict": "could not have been refuted", "tests": [],
    ...     "claimed_epsilon": 9.0, "delta": 1e-5, "ceiling_epsilon": 5.8})[:62]
    'Could not have been refuted by this test: the claim, epsilon 9'
    """
    tests = values["tests"]
    failed = [test for test in tests if not test["passed"]]
    claim = finite(values["claimed_epsilon"])
    if values["verdict"] == "fail":
        rest = "" if len(failed) < 2 else f", and {len(failed) - 1} more"
        what = f"{failed[0]['name']} ({failed[0]['detail']}){rest}" if failed else "a lower bound"
        return f"FAIL: the claim does not hold. {len(failed)} of {len(tests)} tests failed: {what}."
    if claim is None:
        return "Could not have been refuted by this test: no finite epsilon is claimed."
    promise = f"epsilon {claim:.3g} at delta {values['delta']:.2g}"
    if values["verdict"] == "could not have been refuted":
        return (
            f"Could not have been refuted by this test: the claim, {promise}, is above the largest "
            f"epsilon that its canaries could have shown, {show(values['ceiling_epsilon'], 2)}."
        )
    if values["kind"] == "ledger":
        spent = values["parametric_epsilon"]
        return (
            f"Not refuted: none of {len(tests)} tests found the claim, at most {promise}, wrong; "
            f"events alone come to {show(spent['low'], 2)} to {show(spent['high'], 2)} by two "
            "accountants."
        )
    return (
        f"Not refuted: none of {len(tests)} tests found the claim, {promise}, wrong; the largest "
        f"epsilon that its canaries could have shown is {show(values['ceiling_epsilon'], 2)}."
    )


def _second(values: Metrics) -> str:
    if values["kind"] == "ledger":
        return "Every price was worked out again from the recorded events."
    text = "A passed audit proves nothing: it says what was tried and did not succeed. "
    return text + f"A sound engine fails it with probability {values['false_alarm']:g} at most."


def _groups(values: Metrics) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return the tests by letter, those that failed first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for test in sorted(values["tests"], key=lambda t: bool(t["passed"])):
        found.setdefault(test["name"][:1], []).append(
            {
                "name": test["name"][2:],
                "passed": test["passed"],
                "statistic": _figure(test["statistic"]),
                "threshold": _figure(test["threshold"]),
                "detail": test.get("detail", ""),
            }
        )
    return [(KINDS.get(letter, letter), found[letter]) for letter in sorted(found)]


def _figure(value: object) -> str:
    number = finite(value)
    return "infinite" if number is None else f"{number:.4g}"


def _studies(values: Metrics) -> list[list[str]]:
    rows = []
    for study in values.get("studies") or []:
        figures = [show(study.get(key), 3) for key in ("claimed", "said", "pld", "prv")]
        sums = f"{study['sums']} of {show(study.get('planned'), 0)}"
        rows.append([str(study["name"]), f"{study['delta']:.2g}", *figures, sums])
    return rows


def _sampling(values: Metrics) -> str:
    rate = finite((values.get("privacy") or {}).get("sampling_rate"))
    if rate is None or rate >= 1:
        return "Every patient takes part in every step, so that nothing rests on a secret sample."
    return (
        f"In each step every patient is drawn by a coin of its own (Poisson, {rate:.3g} at the "
        "least), and epsilon rests on nobody's learning who was drawn."
    )


def _notes(values: Metrics) -> list[str]:
    notes = list(values.get("remarks") or [])
    if values["kind"] == "ledger":
        return notes
    if values["verdict"] == "could not have been refuted":
        notes.append(
            "That the claim is above what canaries can show does not speak for it. More of them, "
            "or more seeds, raise the ceiling."
        )
    if finite(values["ceiling_epsilon"]):
        notes.append(
            "A lower bound is what these canaries prove of this run; it is far below the claim "
            "also where the claim is exact."
        )
    return notes


def _command(values: Metrics) -> str:
    if values["kind"] == "ledger":
        return f"grandrounds audit ledger {values['folder']}"
    if values["kind"] == "study":
        return f"grandrounds audit study {values['study']} --seeds {values['seeds']}"
    about = values["mechanism"]
    return (
        f"grandrounds audit engine --model {about['model']} --learner {about['learner']} "
        f"--seed {values['seed']}"
    )


def _footer(values: Metrics) -> list[tuple[str, str]]:
    about = values.get("mechanism") or {}
    rows = [("Audit", str(values["kind"]))]
    if about:
        rows += [
            ("Model, learner", f"{about['model']}, {about['learner']}"),
            ("Device", str(about["device"])),
            ("Canaries", str(values.get("canaries") or DASH)),
            ("Seed", str(values["seed"])),
        ]
    if values.get("study_digest"):
        rows.append(("Study digest", str(values["study_digest"])[:16]))
    return rows


def _pictures(values: Metrics) -> dict[str, dict[str, Any]]:
    simulated = "measured on this installation, no hospital\u2019s patients"
    if values["kind"] == "study":
        simulated = "simulation: exact"
    books = "from the events alone"
    captions = {
        "bounds": (
            bounds,
            simulated,
            "An arrow is an epsilon that the true one exceeds; one beyond the line 'claimed' "
            "refutes the claim. Beyond the dashed line no bound can show anything.",
        ),
        "accounts": (
            accounts,
            books,
            "The bar is what the plan claims, the diamond what ledger or receipts said. The "
            "accountants must agree with it, and none may be right of the bar.",
        ),
        "noise": (noise, simulated, "The bars should follow the line, the normal law."),
        "reach": (
            reach,
            simulated,
            "A circle is one patient more. Nobody may reach further than C, whatever is in the "
            "records.",
        ),
        "samples": (samples, simulated, "The bars should follow the line, the binomial law."),
        "canaries": (
            canaries,
            simulated,
            "Were the curves apart, a coordinator could tell who was there.",
        ),
    }
    return numbered(
        (name, draw(values), label, caption, "")
        for name, (draw, label, caption) in captions.items()
    )
