"""MAPIE's side of coverage.py: thresholds for every data set of every cell in a folder.

    python benchmarks/coverage_mapie.py FOLDER

Runs in an environment of its own (`pip install mapie`), and imports nothing of this package. A
precision of at least 1 - max_error among the positives is the same as an error of at most
max_error among the accepted. The thresholds are MAPIE's own, 0 to 0.99 in steps of 0.01, from
strict to loose.
"""

import math
import sys
import warnings
from pathlib import Path

import numpy as np
from mapie.risk_control import BinaryClassificationController, FWERFixedSequenceTesting

STARTS = 5


def main() -> None:
    """Write `N-found.npy` beside each `N.npz`."""
    warnings.simplefilter("ignore")  # where nothing can be certified
    for path in Path(sys.argv[1]).glob("*.npz"):
        cell = np.load(path)
        found = [
            thresholds(scores, right, cell)
            for scores, right in zip(cell["scores"], cell["right"], strict=True)
        ]
        np.save(path.with_name(f"{path.stem}-found.npy"), np.transpose(found))


def thresholds(scores: np.ndarray, right: np.ndarray, cell: np.lib.npyio.NpzFile) -> list[float]:
    """The best threshold by Bonferroni-Holm, and by fixed sequences from strict to loose."""
    best = []
    for method in ("bonferroni_holm", FWERFixedSequenceTesting(n_starts=STARTS)):
        controller = BinaryClassificationController(
            lambda values: np.stack([1 - values, values], axis=1),
            risk="precision",
            target_level=1 - float(cell["max_error"]),
            confidence_level=float(cell["confidence"]),
            best_predict_param_choice="recall",
            list_predict_params=np.linspace(0.99, 0, 100),
            fwer_method=method,
        )
        found = controller.calibrate(scores, right.astype(int)).best_predict_param
        best.append(math.inf if found is None else float(found))
    return best


if __name__ == "__main__":
    main()
