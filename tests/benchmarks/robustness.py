"""How a model's errors grow with noise, rooms, speed and bandwidth that its training had not. Run by hand.

python tests/benchmarks/robustness.py MODEL --data DIR [--split dev] [--utterances N] [--plot FILE.png] [--json FILE]

As `platform evaluate --robustness`, with a plot; see `asr_platform.inference.conditions` for the conditions.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from asr_platform.analysis.kept_scores import Score
from asr_platform.inference.conditions import SAMPLED, evaluate_conditions


def plot(rows: list[Score], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.32 * len(rows) + 1.2), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        low, high = row.wer_interval
        axes.plot([100 * low, 100 * high], [place, place], color="#4477aa", linewidth=2)
        axes.plot(100 * row.wer, place, "o", color="#4477aa")
        axes.text(-0.01, place, row.condition, ha="right", va="center", transform=axes.get_yaxis_transform())
    axes.set(yticks=[], xlabel="WER in percent, with 95% intervals", xlim=(0, None))
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--utterances", type=int, default=SAMPLED, help="so many, drawn at random")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print(f"{'':>14}  {'CER':>7}  {'interval':>13}  {'WER':>7}  {'interval':>13}")
    for row in evaluate_conditions(arguments.model, arguments.data, arguments.split, utterances=arguments.utterances):
        rates = ((row.cer, row.cer_interval), (row.wer, row.wer_interval))
        cells = (f"{rate:7.2%}  {100 * low:5.1f}–{high:6.1%}" for rate, (low, high) in rates)
        print(f"{row.condition:>14}  {'  '.join(cells)}", flush=True)
        rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
