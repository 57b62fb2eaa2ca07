"""A fitted classifier in a few lines, for notebooks."""

from __future__ import annotations

from html import escape

from .fitted import Fitted

__all__ = ["summary_html"]


def summary_html(fitted: Fitted, parameters: str) -> str:
    """Describe what a fit has found.

    Parameters
    ----------
    fitted : Fitted
    parameters : str
        Those of the classifier, which are folded away.

    Returns
    -------
    str
        HTML without scripts, styles or anything that is fetched; names are escaped.
    """
    start = "random weights" if fitted.source == "scratch" else f"source {fitted.source}"
    seconds = sum(row.get("seconds") or 0.0 for row in fitted.history)
    rows = {
        "started from": f"{start}, family {fitted.family}",
        "architecture": str(fitted.architecture),
        "search": fitted.outcome,
        "classes": f"{len(fitted.classes)}",
        "input": fitted.preprocessing.input,
        "cost": f"{fitted.n_parameters:,} parameters, {fitted.n_macs:,} MACs per image",
        "trained in": f"{seconds:.1f} s on {fitted.device}",
    }
    if fitted.holdout is not None:
        rows["held out"] = str(fitted.holdout)
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return (
        f"<div><table>{cells}</table><details><summary>Parameters</summary>"
        f"<pre>{escape(parameters)}</pre></details></div>"
    )
