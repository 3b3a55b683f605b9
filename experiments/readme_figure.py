"""Draws the figure of the README from the committed records: ``python experiments/readme_figure.py``.

The picture carries a digest of what it plots, by which a test sees that it is out of date.
"""

import hashlib

import pandas as pd

from paperlib import analysis, figures, paths

TARGET = paths.BOOK / "_static" / "answer.png"


def digest(frame: pd.DataFrame) -> str:
    """SHA-256 of the plotted values, to a hundredth of a percentage point."""
    return hashlib.sha256(frame.round(2).to_csv(index=False).encode()).hexdigest()


def main() -> None:
    """Write the picture."""
    figure, frame = figures.difference_curves(*analysis.answer_bands())
    figure.savefig(TARGET, dpi=120, metadata={"Software": None, "Description": digest(frame)})
    print(TARGET.relative_to(paths.ROOT))


if __name__ == "__main__":
    main()
