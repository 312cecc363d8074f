"""The record of earlier calibrations with the same predictions."""

import numpy as np
import pytest
from policies import CLASSES, outputs

from misgiving import Deferral, Predictions
from misgiving.deferral.calibrations import Calibrations, record_of
from misgiving.errors import DataError


def rows(count, seed, **columns):
    logits, labels = outputs(count, seed)
    names = {"id": [f"{seed}-{row}" for row in range(count)]}
    given = {"logits": logits, "label": labels, "classes": CLASSES, **names, **columns}
    return Predictions.of({name: values for name, values in given.items() if values is not None})


def fit(*sets, seed=0):
    return Deferral(max_error=0.2, seed=seed).fit(*sets)


def test_images_are_counted_that_any_earlier_calibration_has_used(tmp_path):
    path = record_of(tmp_path / "held-out.csv")
    record, first = Calibrations.read(path), fit(rows(400, 0))
    assert record.repeated(first) == (0, 0)
    record.added(first).write(path)
    record = Calibrations.read(path)
    assert record.added(first) == record
    other = fit(rows(400, 5))
    assert record.repeated(other) == (0, 0)
    record.added(other).write(path)
    fitted = [each.policy_.fingerprint for each in (first, other)]
    assert [*Calibrations.read(path).made] == fitted
    assert Calibrations.read(path).repeated(fit(rows(400, 0), seed=1)) == (400, 400)


def test_a_group_counts_once_and_also_by_its_name_alone():
    of_patients = [f"patient {row // 2}" for row in range(400)]
    record = Calibrations().added(fit(rows(400, 0, patient=of_patients)))
    new = [f"patient {row // 4}" if row < 40 else "" for row in range(400)]
    repeated = record.repeated(fit(rows(400, 1, patient=new)))
    assert repeated == (0, 10)


@pytest.mark.parametrize("with_patients", [False, True])
@pytest.mark.parametrize("counts", [(600,), (200, 400)], ids=["drawn", "as sets"])
def test_images_without_ids_are_no_earlier_cases_by_the_number_of_their_row(with_patients, counts):
    record, found = Calibrations(), []
    for seed in (0, 1, 0):
        sets = []
        for count in counts:
            few = [f"patient {seed + count}", *[""] * (count - 1)]
            columns = {"patient": few if with_patients else None}
            sets.append(rows(count, seed + count, id=None, **columns))
        deferral = fit(*sets, seed=len(found))
        found.append(record.repeated(deferral)[0])
        record = record.added(deferral)
    assert found == [0, 0, 600]


def test_a_damaged_record_is_refused_and_its_place_is_beside_the_predictions(tmp_path):
    (tmp_path / "run").mkdir()
    assert record_of(tmp_path / "run").parent == tmp_path / "run"
    path = record_of(tmp_path / "a.npz")
    assert path.parent == tmp_path
    path.write_text("{")
    with pytest.raises(DataError, match=r"a\.npz\.calibrations\.json"):
        Calibrations.read(path)
    assert np.array_equal(path.read_bytes(), b"{")
