import numpy as np
import pandas
import pytest
import torch
from scipy.special import softmax

from misgiving.errors import DataError
from misgiving.results.prediction_tables import PredictionTable
from misgiving.results.predictions import Predictions

HEADER = "id,label,probability_cat,probability_dog,probability_owl"
ROWS = ["a,cat,0.7,0.2,0.1", "b,dog,0.1,0.8,0.1", "c,owl,0.3,0.3,0.4", "d,,0.2,0.2,0.6"]


def csv_file(folder, *lines, header=HEADER):
    path = folder / "predictions.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def columns(**changes):
    made = {
        "logits": np.array([[2.0, 0.5], [0.1, 1.0], [0.3, 0.2]]),
        "label": ["0", "1", "1"],
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def test_a_table_by_hand(tmp_path):
    table = PredictionTable.read(csv_file(tmp_path, *ROWS))
    predictions = table.predictions
    assert predictions.classes == ("cat", "dog", "owl")
    assert predictions.ids == predictions.groups == ("a", "b", "c", "d")
    assert predictions.labels.tolist() == [0, 1, 2, -1]
    np.testing.assert_allclose(predictions.probabilities[0], [0.7, 0.2, 0.1], atol=1e-12)
    assert predictions.predicted_losses is None
    assert predictions.features.shape == (4, 0)
    assert table.sets is None
    assert table.group_columns == ()


def test_features_are_in_the_order_of_their_numbers():
    values = {f"feature_{at}": [at, at + 0.5, at + 0.25] for at in (0, 1, 10, 11, *range(2, 10))}
    features = PredictionTable.from_columns(columns(**values)).predictions.features
    assert features[0].tolist() == list(range(12))
    for names in ("13", "01", "x"):
        with pytest.raises(DataError, match=f"feature_{names} is not one of feature_0 to feature_"):
            PredictionTable.from_columns(columns(**values, **{f"feature_{names}": [1, 2, 3]}))


def test_everything_that_a_table_can_say(tmp_path):
    header = "site,set,patient,lesion,predicted_loss,image,model,feature_0,feature_1,label"
    header += ",logit_a,logit_b,probability_a"
    lines = [
        "north,tune,p1,l1,0.5,x/1.png,net,1,2,a,1.5,-2,9",
        "south,tune,p1,l2,-0.5,x/2.png,net,3,4,b,0.5,0.25,9",
        "north,calibrate,,l3,1,x/3.png,net,5,6,b,0,1,9",
    ]
    table = PredictionTable.read(csv_file(tmp_path, *lines, header=header))
    predictions = table.predictions
    assert predictions.logits.tolist() == [[1.5, -2], [0.5, 0.25], [0, 1]]
    assert predictions.features.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert predictions.predicted_losses.tolist() == [0.5, -0.5, 1]
    assert predictions.groups == ("p1", "p1", "lesion l3")
    assert predictions.ids == ("1", "2", "3")
    assert predictions.model == "net"
    assert table.group_columns == ("patient", "lesion")
    assert table.sets == ("tune", "tune", "calibrate")
    assert table.rows_of("calibrate").tolist() == [2]
    assert table.images == tuple(str(tmp_path / f"x/{number}.png") for number in (1, 2, 3))
    assert table.metadata == {"site": ("north", "south", "north")}
    chosen = table.select(np.array([2, 0]))
    assert chosen.sets == ("calibrate", "tune")
    assert chosen.metadata == {"site": ("north", "north")}
    assert chosen.predictions.ids == ("3", "1")


def test_an_image_without_a_patient_is_in_no_group_of_a_patient_that_has_its_id():
    named = columns(patient=["2", "", "2"], set=["train", "tune", "train"])
    groups = PredictionTable.from_columns(named).predictions.groups
    assert groups[0] == groups[2] == "2"
    assert groups[1] not in ("1", "2", "3")


def equal(one, other):
    np.testing.assert_allclose(one.predictions.logits, other.predictions.logits, atol=1e-12)
    assert one.predictions.labels.tolist() == other.predictions.labels.tolist()
    assert one.predictions.ids == other.predictions.ids
    assert one.predictions.groups == other.predictions.groups
    assert one.predictions.classes == other.predictions.classes
    assert one.metadata == other.metadata


def test_every_format_and_every_kind_of_array_gives_the_same_table(tmp_path):
    frame = pandas.DataFrame(
        {
            "id": ["a", "b", "c"],
            "label": ["x", "y", None],
            "patient": ["p", "p", "q"],
            "age": [30, 41, 52],
            "logit_x": [0.5, -1, 2],
            "logit_y": [1, 2, 3.25],
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    narrow = {name: frame[name].to_numpy() for name in ("logit_x", "logit_y")}
    texts = {
        name: frame[name].fillna("").to_numpy(dtype=str) for name in ("id", "label", "patient")
    }
    np.savez(tmp_path / "t.npz", age=frame["age"].to_numpy(), **texts, **narrow)
    wide = torch.tensor(frame[["logit_x", "logit_y"]].to_numpy(), requires_grad=True)
    tensors = {**texts, "age": torch.tensor([30, 41, 52]), "logits": wide, "classes": ["x", "y"]}
    table = PredictionTable.from_columns(frame)
    assert table.predictions.labels.tolist() == [0, 1, -1]
    assert table.metadata == {"age": ("30", "41", "52")}
    for suffix in ("csv", "parquet", "npz"):
        equal(PredictionTable.read(tmp_path / f"t.{suffix}"), table)
    equal(PredictionTable.from_columns(tensors), table)
    equal(PredictionTable.from_columns(frame.convert_dtypes()), table)


def test_a_parquet_file_with_lists(tmp_path):
    frame = pandas.DataFrame({"probabilities": [[0.9, 0.1], [0.25, 0.75]], "label": [0, 1]})
    frame.to_parquet(tmp_path / "t.parquet")
    predictions = PredictionTable.read(tmp_path / "t.parquet").predictions
    np.testing.assert_allclose(predictions.probabilities, [[0.9, 0.1], [0.25, 0.75]], atol=1e-12)
    assert predictions.labels.tolist() == [0, 1]


def test_probabilities_of_zero_and_rounded_ones(tmp_path):
    lines = ["a,cat,1,0,0", "b,dog,0.33,0.33,0.33"]
    predictions = PredictionTable.read(csv_file(tmp_path, *lines)).predictions
    assert np.isfinite(predictions.logits).all()
    np.testing.assert_allclose(predictions.probabilities[0], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(predictions.probabilities[1], [1 / 3] * 3, atol=1e-12)


def test_what_evaluate_writes_is_read(tmp_path):
    made = PredictionTable.from_columns(columns()).predictions
    made.save(tmp_path / "predictions.safetensors")
    table = PredictionTable.read(tmp_path / "predictions.safetensors")
    assert isinstance(table.predictions, Predictions)
    assert table.predictions.logits.tolist() == made.logits.tolist()


@pytest.mark.parametrize(
    ("label", "positions"),
    [
        (["0", "1", "1"], [0, 1, 1]),
        (np.array([0, 1, 1]), [0, 1, 1]),
        ([0.0, float("nan"), 1.0], [0, -1, 1]),
        (np.array([b"0", b"1", b"1"]), [0, 1, 1]),
        (None, [-1, -1, -1]),
    ],
)
def test_labels(label, positions):
    made = PredictionTable.from_columns(columns(label=label))
    assert made.predictions.labels.tolist() == positions


def test_labels_that_are_names_are_not_taken_as_positions():
    given = columns(classes=["1", "2"], label=["1", "2", "2"])
    assert PredictionTable.from_columns(given).predictions.labels.tolist() == [0, 1, 1]


def test_unlabelled_rows_are_refused_where_labels_are_needed(tmp_path):
    table = PredictionTable.read(csv_file(tmp_path, *ROWS))
    with pytest.raises(DataError, match="1 of 4 rows have no label, the first is 'd'"):
        table.refuse_unlabelled()


BAD_COLUMNS = {
    "mixed lengths": ({"label": ["0", "1"]}, "column label has 2 rows, and logits has 3"),
    "logits by class": ({"logits": np.zeros(3)}, "logits has the shape (3,); give a row for each"),
    "three axes": ({"logits": np.zeros((3, 2, 2))}, "logits has the shape (3, 2, 2)"),
    "no classes": ({"logits": np.zeros((3, 0))}, "no column logit_CLASS or probability_CLASS"),
    "logits of text": ({"logits": [["a", "b"]] * 3}, "row 1, column logit_0: np.str_('a') is not"),
    "NaN": ({"logits": np.array([[0, 1], [np.nan, 0], [0, 0]])}, "row 2, column logit_0: nan"),
    "names": ({"classes": ["a", "b", "c"]}, "classes has 3 names, and logits 2 columns"),
    "equal names": ({"classes": ["a", "a"]}, "two classes or more with different names"),
    "features": ({"features": np.zeros((2, 4))}, "column features has 2 rows"),
    "features of text": ({"feature_0": ["x", "1", "2"]}, "row 1, column feature_0: 'x' is not a n"),
    "wide ids": ({"id": np.zeros((3, 2))}, "id has the shape (3, 2)"),
    "wide metadata": ({"age": np.zeros((3, 2))}, "age has the shape (3, 2)"),
    "predicted losses": ({"predicted_loss": [0, np.inf, 1]}, "row 2, column predicted_loss: inf"),
    "a set": ({"set": ["train", "val", "test"]}, "row 2, column set: 'val' is none of train, tune"),
    "an empty set": ({"set": ["train", "", "test"]}, "row 2, column set: '' is none of"),
    "a group in two sets": (
        {"set": ["tune", "calibrate", "test"], "group": ["g", "g", "h"]},
        "row 2, column set: group 'g' is in the sets tune and calibrate",
    ),
    "a lesion in two sets": (
        {"set": ["tune", "tune", "test"], "patient": ["p", "q", "q"]},
        "row 3, column set: group 'q' is in the sets tune and test",
    ),
    "two models": ({"model": ["a", "b", "a"]}, "column model: names 'a' and 'b'; give one model"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_a_bad_column_is_named(case):
    changes, message = BAD_COLUMNS[case]
    with pytest.raises(DataError) as error:
        PredictionTable.from_columns(columns(**changes))
    assert message in str(error.value)


def test_a_folder_is_named(tmp_path):
    (tmp_path / "p.csv").mkdir()
    with pytest.raises(DataError, match=r"p.csv: no such file, or not an ordinary file"):
        PredictionTable.read(tmp_path / "p.csv")


def test_a_long_cell_is_shortened_between_its_place_and_the_remedy(tmp_path):
    with pytest.raises(DataError) as error:
        PredictionTable.read(csv_file(tmp_path, "a," + "x" * 9000 + ",0.7,0.2,0.1"))
    text = str(error.value)
    assert "row 1, column label: unknown class 'xxx" in text
    assert text.endswith("xxx'; choose from cat, dog, owl")
    assert len(text) < 600 + len(str(tmp_path))


def test_files_of_other_programs_are_read(tmp_path):
    path = tmp_path / "p.csv"
    lines = [HEADER, *ROWS, ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())  # as Excel writes it
    equal(PredictionTable.read(path), PredictionTable.read(csv_file(tmp_path, *ROWS)))
    path.write_text(f"{HEADER},note\n" + 'a,cat,0.7,0.2,0.1,"two\nlines"\n')
    assert PredictionTable.read(path).metadata == {"note": ("two\nlines",)}


def test_arrays_that_are_packed_very_tightly_are_not_unpacked(tmp_path, monkeypatch):
    values = np.zeros((10_000, 2))
    np.savez_compressed(tmp_path / "p.npz", logits=values)
    np.savez(tmp_path / "q.npz", logits=values)
    monkeypatch.setattr("misgiving.results.prediction_files.USUAL_BYTES", 2**10)
    with pytest.raises(DataError, match="over 100 times the size of the file"):
        PredictionTable.read(tmp_path / "p.npz")
    assert len(PredictionTable.read(tmp_path / "q.npz")) == 10_000


def test_the_softmax_of_logits_is_kept():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    wide = PredictionTable.from_columns({"logits": logits})
    narrow = PredictionTable.from_columns({"probabilities": softmax(logits, axis=1)})
    np.testing.assert_allclose(
        wide.predictions.probabilities, narrow.predictions.probabilities, atol=1e-12
    )
