#!/usr/bin/env python3
"""Draws the report of scripts/bench: one bar for each row, on a logarithmic axis, as PNG and SVG beside the JSON.

    plot_bench.py RESULTS/hit.json
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "larder"
matplotlib.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402  (the back end has to be chosen first)

OURS = "#1f6f54"
OTHERS = "#9aa5b1"


def bar_of(section, row):
    """The figure that a section shows of a row, or None where the row has none."""
    kind = section["kind"]
    if "figure" in row:
        return row["figure"]
    if "p50_ns" not in row:
        return None
    if kind == "scaling":
        return row["ops_per_s"] / 1e6
    return row["p50_ns"] / (1e3 if kind == "put" else 1)


AXES = {
    "hit": "median ns a get, less is better",
    "put": "median µs a put, less is better",
    "scaling": "million gets a second of all readers, more is better",
    "bytes": "GB/s, more is better",
}


def panels(report):
    """The sections worth a picture, each with its bars."""
    for section in report["sections"]:
        if section["kind"] == "figures" and section["id"] != "bytes":
            continue
        bars = [(row, bar_of(section, row)) for row in section["rows"]]
        bars = [(row, figure) for row, figure in bars if figure]
        if bars:
            yield section, bars


def draw(panel, section, bars):
    """Fills one panel: the first row of the table at the top."""
    figures = [figure for _, figure in bars]
    colors = [OURS if row["contender"].startswith("Larder") else OTHERS for row, _ in bars]
    places = range(len(bars))
    panel.barh(places, figures, color=colors)
    panel.set_yticks(places, [f"{row['contender']}\n{row['way']}" for row, _ in bars], fontsize=7)
    panel.invert_yaxis()
    logarithmic = max(figures) > 10 * min(figures)
    if logarithmic:
        panel.set_xscale("log")
        panel.set_xlim(min(figures) / 2, max(figures) * 4)
    else:
        panel.set_xlim(0, max(figures) * 1.2)
    for place, figure in zip(places, figures):
        panel.text(figure, place, f" {figure:,.3g}" if figure < 1000 else f" {figure:,.0f}", va="center", fontsize=7)
    panel.set_title(section["title"], fontsize=10, loc="left")
    axis = AXES["bytes"] if section["id"] == "bytes" else AXES[section["kind"]]
    panel.set_xlabel(axis + (", logarithmic" if logarithmic else ""), fontsize=8)
    panel.tick_params(axis="x", labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)


def main():
    """Draws the report that the one argument names."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    report = json.loads(source.read_text(encoding="utf-8"))
    chosen = list(panels(report))
    if not chosen:
        sys.exit(f"{source} has no figures to draw")
    heights = [1.2 + 0.34 * len(bars) for _, bars in chosen]
    figure, axes = plt.subplots(
        len(chosen), 1, figsize=(9, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for panel, (section, bars) in zip(axes[:, 0], chosen):
        draw(panel, section, bars)
    machine = report["machine"]
    quick = ", quick run" if report["quick"] else ""
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores, {report['date']}{quick}", fontsize=10)
    # The date of drawing would make every picture a change.
    figure.savefig(source.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(source.with_suffix(".png"), dpi=130)
    print(f"drew {source.with_suffix('.svg')} and {source.with_suffix('.png')}")


if __name__ == "__main__":
    main()
