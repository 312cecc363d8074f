import io
from dataclasses import fields, replace

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from misgiving import Predictions
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.measures import with_score
from misgiving.scores.outputs import Head, concatenated

HEADER = "id,label,probability_cat,probability_dog,probability_owl"
ROWS = ["a,cat,0.7,0.2,0.1", "b,dog,0.1,0.8,0.1", "c,owl,0.3,0.3,0.4", "d,,0.2,0.2,0.6"]
FORMATS = ("csv", "parquet", "npz")


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


def assert_equal(one, other, *, but=()):
    for name in (field.name for field in fields(Predictions) if field.name not in but):
        np.testing.assert_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_everything_that_a_table_can_say(tmp_path):
    header = "site,set,patient,lesion,predicted_loss,path,model,feature_1,feature_0,label"
    header += ",logit_a,logit_b,probability_a,score_odin,tap_1_0,tap_0_1,tap_0_0,content_hash"
    header += ",reader_ann,reader_bo"
    lines = [
        "north,tune,p1,l1,0.5,x/1.png,net,2,1,a,1.5,-2,9,0.1,30,20,10,ab,b,1",
        "south,tune,p1,l2,-0.5,x/2.png,net,4,3,b,0.5,0.25,9,0.2,31,21,11,cd,,",
        "north,,,l3,1,,net,6,5,b,0,1,9,0.3,32,22,12,ef,a,0",
    ]
    predictions = Predictions.read(csv_file(tmp_path, *lines, header=header))
    assert predictions.logits.tolist() == [[1.5, -2], [0.5, 0.25], [0, 1]]
    assert predictions.features.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert predictions.taps.tolist() == [[10, 20, 30], [11, 21, 31], [12, 22, 32]]
    assert predictions.tap_widths == (2, 1)
    assert predictions.predicted_losses.tolist() == [0.5, -0.5, 1]
    assert predictions.scores["odin"].tolist() == [0.1, 0.2, 0.3]
    assert predictions.groups == ("p1", "p1", "lesion l3")
    assert predictions.group_columns == ("patient", "lesion")
    assert (predictions.ids, predictions.has_ids) == (("1", "2", "3"), False)
    assert predictions.model == "net"
    assert predictions.sets == ("tune", "tune", "")
    assert predictions.paths == (str(tmp_path / "x/1.png"), str(tmp_path / "x/2.png"), "")
    assert predictions.hashes == ("ab", "cd", "ef")
    assert predictions.metadata == {"site": ("north", "south", "north")}
    answers = {name: column.tolist() for name, column in predictions.readers.items()}
    assert answers == {"ann": [1, -1, 0], "bo": [1, -1, 0]}
    chosen = predictions.select(np.array([2, 0]))
    assert chosen.readers["ann"].tolist() == [0, 1]
    assert chosen.sets == ("", "tune")
    assert chosen.metadata == {"site": ("north", "north")}
    assert chosen.ids == ("3", "1")
    assert chosen.scores["odin"].tolist() == [0.3, 0.1]
    assert predictions.in_set("tune").ids == ("1", "2")


def test_copies_are_in_one_group():
    hashes = ["c", "", "", "c", "d", "d"]
    patients = ["p", "", "", "", "", ""]
    made = Predictions.of({"logits": np.zeros((6, 2)), "content_hash": hashes, "patient": patients})
    assert made.groups == ("p", "", "", "p", "5", "5")
    assert made.group_columns == ("patient",)


def test_units_are_in_the_order_of_names_and_keep_groups_and_images_apart():
    predictions = Predictions.of(columns(id=["b", "2", "c"], patient=["2", "", "2"]))
    assert predictions.units.tolist() == [1, 0, 1]
    ungrouped = replace(predictions, groups=("", "", ""))
    assert ungrouped.units.tolist() == [1, 0, 2]
    assert replace(predictions, groups=("a", "z", "")).units.tolist() == [0, 2, 1]


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
    table = Predictions.of(frame)
    assert table.labels.tolist() == [0, 1, -1]
    assert table.metadata == {"age": ("30", "41", "52")}
    for suffix in FORMATS:
        assert_equal(Predictions.read(tmp_path / f"t.{suffix}"), table)
    assert_equal(Predictions.of(tensors), table)
    assert_equal(Predictions.of(frame.convert_dtypes()), table)
    assert Predictions.of(table) is table


def test_an_opinion_has_its_classes_by_name_and_follows_its_images():
    made = Predictions.of(
        {
            "probability_a": [0.9, 0.2, 0.4],
            "probability_b": [0.1, 0.8, 0.6],
            "probability_b@net": [0.3, 0.6, 0.5],
            "probability_a@net": [0.7, 0.4, 0.5],
            "probabilities@other": [[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]],
        }
    )
    assert (made.classes, made.metadata) == (("a", "b"), {})
    assert made.opinions["net"].tolist() == [[0.7, 0.3], [0.4, 0.6], [0.5, 0.5]]
    chosen = concatenated([made.select(np.array([2])), made.select(np.array([0, 1]))])
    assert chosen.opinions["other"].tolist() == [[0.3, 0.7], [0.1, 0.9], [0.2, 0.8]]


def test_another_models_predictions_are_found_by_content_and_else_by_id():
    first = Predictions.of(columns(id=["a", "b", "c"], content_hash=["x", "y", "z"]))
    logits = np.arange(8).reshape(4, 2) ** 2.0
    facts = {"logits": logits, "id": ["c", "a", "new", "b"], "model": ["0123456789abcdef"] * 4}
    by_id = first.with_opinion(Predictions.of(facts))
    expected = softmax(logits, axis=1)
    np.testing.assert_allclose(by_id.opinions["0123456789ab"], expected[[1, 3, 0]])
    hashed = Predictions.of({**facts, "content_hash": ["y", "x", "w", "z"]})
    by_content = first.with_opinion(hashed, "net")
    np.testing.assert_allclose(by_content.opinions["net"], expected[[1, 0, 3]])
    assert by_content.logits is first.logits
    rows = Predictions.of(columns(label=[0, 1, ""])).with_opinion(Predictions.of(columns()), "net")
    np.testing.assert_allclose(rows.opinions["net"], rows.probabilities)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": ["a", "b", "d"]}, "lacks 1 of 3 images, the first is 'c'"),
        ({"classes": ["1", "0"]}, "the same classes in this order"),
        ({"set": ["train", "train", ""]}, "was trained on 'b'"),
        ({"id": None, "label": [0, 0, ""]}, "has other rows"),
        ({"id": None, "logits": np.zeros((4, 2)), "label": None}, "has other rows"),
    ],
)
def test_an_opinion_on_other_images_or_classes_is_refused(changes, problem):
    first = Predictions.of(columns(id=["a", "b", "c"], set=["train", "test", "test"]))
    other = Predictions.of(columns(**{"id": ["a", "b", "c"], **changes}))
    with pytest.raises(DataError, match=problem):
        first.with_opinion(other)


texts = st.text(
    st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=5
) | st.sampled_from(["=1+1", "it's", "NA", "nan", "a;=b", "1.0", 'a"b', "x,y", "a\r\nb", "'=2"])


@st.composite
def all_fields(draw):
    count = draw(st.integers(1, 4))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)

    def numbers(*shape, rows=count):
        kind = draw(st.sampled_from([np.float32, np.float64]))
        return draw(arrays(kind, (rows, *shape), elements=finite))

    def some(values):
        return tuple(draw(st.lists(values, min_size=count, max_size=count)))

    def perhaps(make):
        return make() if draw(st.booleans()) else None

    classes = tuple(draw(st.lists(texts, min_size=2, max_size=3, unique=True)))
    positions = arrays(np.int64, count, elements=st.integers(-1, len(classes) - 1))
    taps = perhaps(lambda: numbers(3))
    groups = some(st.sampled_from(["", *draw(st.lists(texts, max_size=2))]))
    return dict(
        logits=numbers(len(classes)),
        labels=draw(positions),
        classes=classes,
        ids=tuple(draw(st.lists(texts, min_size=count, max_size=count, unique=True))),
        groups=groups,
        group_columns=draw(st.sampled_from([(), ("group",), ("patient", "lesion")]))
        if any(groups)
        else (),
        hashes=perhaps(lambda: some(texts)),
        paths=perhaps(lambda: some(st.sampled_from(["", "/photos/a.png", "/=b.png"]))),
        sets=perhaps(lambda: ("excluded", *[""] * (count - 1))),
        features=perhaps(lambda: numbers(11)),
        taps=taps,
        tap_widths=() if taps is None else (1, 2),
        predicted_losses=perhaps(numbers),
        head=perhaps(lambda: (numbers(3, rows=2), numbers(rows=2))),
        model=draw(st.just("") | texts),
        kind=draw(st.sampled_from(["logits", "probabilities"])),
        metadata={
            name: some(texts)
            for name in draw(
                st.sets(
                    texts
                    | st.sampled_from(["set", "model", "reader_a", "probability_a@b"])
                    | st.sampled_from(["probabilities@b"]),
                    max_size=2,
                )
            )
        },
        scores={"odin": numbers()} if draw(st.booleans()) else {},
        readers={name: draw(positions) for name in draw(st.sets(texts, max_size=2))},
        opinions={
            name: softmax(numbers(len(classes)).astype(np.float64), axis=1)
            for name in draw(st.sets(texts.filter(lambda name: "@" not in name), max_size=2))
        },
    )


@pytest.mark.parametrize("suffix", FORMATS)
@given(given_fields=all_fields())
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, given_fields, suffix):
    head = given_fields.pop("head")
    made = Predictions(**given_fields, head=None if head is None else Head(*head))
    path = tmp_path_factory.mktemp("p") / f"p.{suffix}"
    made.write(path)
    assert_equal(Predictions.read(path), made, but=("head",) if suffix == "csv" else ())


def test_paths_in_the_folder_of_a_file_move_with_it(tmp_path):
    made = Predictions.of(columns(path=[str(tmp_path / "a/x.png"), "/y.png", ""]))
    (tmp_path / "a").mkdir()
    made.write(tmp_path / "a" / "p.csv")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Predictions.read(tmp_path / "b" / "p.csv")
    assert moved.paths == (str(tmp_path / "b/x.png"), "/y.png", "")


def test_a_parquet_file_with_lists(tmp_path):
    frame = pandas.DataFrame({"probabilities": [[0.9, 0.1], [0.25, 0.75]], "label": [0, 1]})
    frame.to_parquet(tmp_path / "t.parquet")
    predictions = Predictions.read(tmp_path / "t.parquet")
    np.testing.assert_allclose(predictions.probabilities, [[0.9, 0.1], [0.25, 0.75]], atol=1e-12)
    assert predictions.labels.tolist() == [0, 1]


def test_probabilities_are_kept_and_rounded_ones_add_up_to_one():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    wide = Predictions.of({"logits": logits})
    narrow = Predictions.of({"probabilities": softmax(logits, axis=1)})
    np.testing.assert_allclose(wide.probabilities, narrow.probabilities, atol=1e-12)
    assert (wide.kind, narrow.kind) == ("logits", "probabilities")
    halves = np.array([[1, 1e-9, 0], [0.5, 0.25, 0.25]], dtype=np.float16)
    assert np.isfinite(Predictions.of({"probabilities": halves}).logits).all()
    rounded = Predictions.of({"probabilities": [[1 + 1e-7, -1e-7, 0], [0.33, 0.33, 0.33]]})
    assert np.isfinite(rounded.logits).all()
    np.testing.assert_allclose(rounded.probabilities, [[1, 0, 0], [1 / 3] * 3], atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({"label": ["0", "1", "1"]}, [0, 1, 1]),
        ({"label": np.array([0, 1, 1])}, [0, 1, 1]),
        ({"label": [0.0, float("nan"), 1.0]}, [0, -1, 1]),
        ({"label": None}, [-1, -1, -1]),
        ({"label": ["1", "2", "2"], "classes": ["1", "2"]}, [0, 1, 1]),  # names, not positions
    ],
)
def test_labels(changes, positions):
    assert Predictions.of(columns(**changes)).labels.tolist() == positions


def test_arrays_without_ids_are_named_by_their_set():
    logits, labels = 2 * np.eye(2), np.array([0, 1])
    made = Predictions.of((logits, labels), name="tuning")
    assert (made.ids, made.has_ids) == (("tuning 1", "tuning 2"), False)
    assert Predictions.of(logits).labels.tolist() == [-1, -1]
    for other in (None, "p.csv", (logits, labels, labels)):
        with pytest.raises(UsageError):
            Predictions.of(other)


BAD_COLUMNS = {
    "mixed lengths": ({"label": ["0", "1"]}, "column label has 2 rows"),
    "logits by class": ({"logits": np.zeros(3)}, "logits has the shape (3,)"),
    "NaN": ({"logits": np.array([[0, 1], [np.nan, 0], [0, 0]])}, "row 2, column logits: nan"),
    "lists of two lengths": ({"logits": [[1.0, 2.0], [1.0], [2.0, 1.0]]}, "column logits"),
    "names": ({"classes": ["a", "b", "c"]}, "('a', 'b', 'c')"),
    "equal names": ({"classes": ["a", "a"]}, "different names"),
    "an unknown position": ({"label": [0, 1, 2]}, "row 3, column label: unknown class '2'"),
    "an unknown answer": (
        {"classes": ["a", "b"], "label": ["a"] * 3, "reader_ann": ["a", "", "x"]},
        "row 3, column reader_ann: unknown class 'x'; choose from a, b",
    ),
    "a set": ({"set": ["train", "val", "test"]}, "row 2, column set: 'val'"),
    "a lesion in two sets": (
        {"set": ["tune", "tune", "test"], "patient": ["p", "q", "q"]},
        "row 3, column set: group 'q'",
    ),
    "another unit": (
        {"group": ["a", "b", "c"], "group_columns": ["lesion"] * 3, "patient": ["p", "q", "q"]},
        "put those of patient into it",
    ),
    "probabilities": (
        {"logits": [[1.0, 0.0], [0.33, 0.66], [0.5, 0.5]]},
        "each row of the logits is from 0 to 1 and adds up to 1",
    ),
    "an opinion on other classes": (
        {"probability_0@net": [0.5, 0, 1], "probability_2@net": [0.5, 1, 0]},
        "the opinion of net is not on the classes 0, 1",
    ),
    "an opinion on more classes": ({"probabilities@net": np.full((3, 3), 1 / 3)}, "of net is not"),
    "an opinion in percent": ({"probabilities@net": np.full((3, 2), 50)}, "row 1: the prob"),
    "two models": ({"model": ["a", "b", "a"]}, "column model: names 'a' and 'b'"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_a_bad_column_is_named(case):
    changes, place = BAD_COLUMNS[case]
    with pytest.raises(DataError) as error:
        Predictions.of(columns(**changes))
    assert place in str(error.value)


def lines(*rows, header=HEADER):
    return ("\n".join([header, *rows]) + "\n").encode()


def packed(write, **changes):
    file = io.BytesIO()
    write(file, **{"logits": np.zeros((500, 2)), **changes})
    return file.getvalue()


def parquet(**made):
    return pandas.DataFrame(made).to_parquet()


ARRAY = packed(np.savez, logits=np.random.default_rng(0).normal(size=(500, 2)))
BAD_FILES = {
    "p.csv": {
        "an empty file": (b"", ""),
        "a header alone": (lines(), "no rows"),
        "no outputs": (lines("1,2", header="id,label"), "id, label"),
        "one class": (lines("1,2", header="id,probability_a"), "two classes or more"),
        "a column twice": (lines("1,2,3,4", header="id,id,logit_a,logit_b"), "Duplicate"),
        "semicolons": (lines("a;cat;0,7;0,2;0,1", header=HEADER.replace(",", ";")), "commas"),
        "a later long row": (lines(ROWS[0], "a,cat,0.7,0.2,0.1,0.3"), "line 3"),
        "a huge number": (
            lines(ROWS[0], "b,cat,0.7,1e39,0"),
            "row 2, column probability_dog: 1e+39",
        ),
        "text": (lines(ROWS[0], "b,dog,0.1,much,0.1"), "row 2, column probability_dog: 'much'"),
        "negative": (lines("a,cat,0.9,-0.1,0.2"), "row 1: the probabilities are -0.1 to 0.9"),
        "a sum below one": (lines(ROWS[0], "b,cat,0.3,0.1,0.1"), "row 2: the probabilities"),
        "a very long label": (lines("a," + "x" * 9000 + ",0.7,0.2,0.1"), "choose from cat, dog"),
        "a repeated id": (lines(ROWS[0], ROWS[1], ROWS[0]), "row 3, column id: 'a'"),
        "an empty id": (lines(",cat,0.7,0.2,0.1"), "row 1, column id"),
    },
    "p.npz": {
        "no zip": (b"no zip", "missing or damaged"),
        "a damaged member": (ARRAY[:500] + bytes(1000) + ARRAY[1500:], "damaged"),
        "pickled objects": (packed(np.savez, label=np.array(["a", None] * 250)), "pickle"),
        "labels one-hot": (packed(np.savez, label=np.zeros((500, 2))), "label"),
    },
    "p.parquet": {
        "nested": (parquet(logit_a=[{"x": 1.0}], logit_b=[1.0]), "row 1, column logit_a"),
    },
}


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        pytest.param(name, *case, id=title)
        for name, cases in BAD_FILES.items()
        for title, case in cases.items()
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, name, content, place):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        Predictions.read(tmp_path / name)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / name}: ")
    assert place in text
    assert "\n" not in text
    assert len(text) < 600 + len(str(tmp_path))


@pytest.mark.parametrize(("name", "kind"), [("gone.csv", DataError), ("p.txt", UsageError)])
def test_what_is_no_file_of_predictions_is_not_read(tmp_path, name, kind):
    with pytest.raises(kind):
        Predictions.read(tmp_path / name)


def test_files_of_other_programs_are_read(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([HEADER, *ROWS, ""]).encode())  # as Excel does
    assert_equal(Predictions.read(path), Predictions.read(csv_file(tmp_path, *ROWS)))
    path.write_text(f"{HEADER},note\n" + 'a,cat,0.7,0.2,0.1,"two\nlines"\n')
    assert Predictions.read(path).metadata == {"note": ("two\nlines",)}


@pytest.mark.parametrize("values", [[0.5, np.nan, 0.1], [0.5, 0.1], [[0.5], [0.1], [0.2]]])
def test_a_score_of_ones_own_is_a_finite_number_for_each_image(values):
    predictions = Predictions.of({"logits": np.eye(3) * 4})
    with pytest.raises(UsageError, match=r"'mine'.* 3 images"):
        with_score(predictions, "mine", lambda _: values)
