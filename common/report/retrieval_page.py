"""The page of similar cases: each new case and the hospital's own cases nearest to it, as pictures.

Patients' images are in it, so it is for the hospital alone. `retrieval_page.html` only lays it out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from common.report.layout import fill
from common.report.values import show

Thumbnails = Sequence[Sequence[NDArray[np.uint8]]]

MOST_QUERIES = 20  # new cases on a page; the table has all


def retrieval_html(values: Mapping[str, Any], thumbnails: Thumbnails, *, command: str) -> str:
    """Write the page as one HTML file with its styles and pictures inside.

    Args:
        values: As `grandrounds site retrieve --json` prints them.
        thumbnails: Of each of the first new cases its own picture and those of its neighbours,
            (height, width, 1 or 3) each.
        command: The arguments of `site retrieve`, to make the page again.

    Returns:
        The whole file as text; equal values give equal text.
    """
    queries = zip(values["queries"], thumbnails, strict=False)
    left = len(values["queries"]) - len(thumbnails)
    return fill(
        "retrieval_page.html",
        {"title": "Similar cases", "study": values["study"]},
        about=values["about"],
        notes=values["notes"],
        queries=[_query(query, pictures, values["shares"]) for query, pictures in queries],
        left=left,
        mark=values["use"],
        footer=[("Study", values["study"]), ("Run", values["run"])],
        rebuild=f"grandrounds site retrieve {command} --pictures FILE",
    )


def _query(
    query: Mapping[str, Any], pictures: Sequence[NDArray[np.uint8]], shares: Mapping[str, float]
) -> dict[str, Any]:
    votes = [
        f"{name} {show(100 * share, 0)}% (of all cases here {show(100 * shares[name], 0)}%)"
        for name, share in query["votes"].items()
    ]
    shown = zip(query["neighbours"], pictures[1:], strict=True)
    return {
        "name": f"Case {query['record']}" + (f", {query['patient']}" if "patient" in query else ""),
        "votes": "; ".join(votes) or "no neighbours: it misses a feature",
        "picture": _source(pictures[0]),
        "neighbours": [{**row, "distance": show(row["distance"]), "picture": _source(picture)}
                       for row, picture in shown],
    }  # fmt: skip


def _source(pixels: NDArray[np.uint8]) -> Markup:
    """Return a picture as the address of itself: nothing is fetched."""
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return Markup("data:image/png;base64,") + base64.b64encode(file.getvalue()).decode()
