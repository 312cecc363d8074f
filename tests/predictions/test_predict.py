"""A run is a source of predictions as a file is; nothing after it knows which it was."""

from dataclasses import replace

import numpy as np
import pytest
from bundled import checkpoint, noisy_set, write_run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from refusals import naming

from misgiving.data.datasets.dataset import ArrayImage, Dataset, FileImage
from misgiving.data.splits import split_of
from misgiving.deferral.deferral import Deferral
from misgiving.errors import DataError
from misgiving.evaluation.evaluate import evaluate
from misgiving.files import sha256_of
from misgiving.predictions import predict as predict_module
from misgiving.predictions.predict import TrainedRun
from misgiving.predictions.record import Predictions

SIZE = 350
SETS = ("train",) * 100 + ("tune",) * 75 + ("calibrate",) * 125 + ("test",) * 50


@pytest.fixture(scope="module")
def data():
    noisy = noisy_set(SIZE, seed=7)
    facts = {name: getattr(noisy, name) for name in ("classes", "labels", "ids", "groups")}
    return Dataset(name="noisy", images=tuple(map(ArrayImage, noisy.images)), **facts)


@pytest.fixture(scope="module")
def hashes(data):
    return tuple(image.key() for image in data.images)


@pytest.fixture(scope="module")
def run(hashes, tmp_path_factory):
    places = tmp_path_factory.mktemp("runs")
    split = split_of(replace(noisy_set(SIZE, seed=7), hashes=hashes), np.array(SETS))
    made = checkpoint()
    as_they_are = replace(made.preprocessing, crop=1.0, color_constancy="none")
    write_run(places / "run", replace(made, preprocessing=as_they_are, split=split))
    return TrainedRun(places / "run", cache=places / "cache")


@pytest.fixture(scope="module")
def predicted(run, data):
    return run.predict(data).predictions


def drawn(predicted, random, *, with_sets, share, columns):
    """Some rows of the predictions, with groups and metadata that are drawn at random."""
    sets = SETS if with_sets else tuple("" if name != "train" else name for name in SETS)
    numbers, in_groups = random.integers(0, SIZE // 3, SIZE), random.random(SIZE) < share
    groups = tuple(
        f"{name or 'new'} {number}" if grouped else ""  # no group is in two sets
        for name, number, grouped in zip(sets, numbers, in_groups, strict=True)
    )
    ages = tuple(str(20 + 10 * age) for age in random.integers(0, 4, SIZE))
    metadata = {"age": ages, "set": ages[::-1]}
    changes = {"sets": sets, "groups": groups, "group_columns": columns, "metadata": metadata}
    rows = random.permutation(SIZE)[: random.integers(320, SIZE)]
    return replace(predicted, **changes).select(rows)


@settings(
    max_examples=3,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    suffix=st.sampled_from(["csv", "parquet", "npz"]),
    seed=st.integers(0, 2**32 - 1),
    with_sets=st.booleans(),
    share=st.sampled_from([0.0, 0.7]),
    columns=st.sampled_from([(), ("patient",), ("patient", "lesion")]),
)
def test_a_run_and_its_exported_table_give_the_same_policy_and_evaluation(
    predicted, tmp_path, suffix, seed, **drawing
):
    made = drawn(predicted, np.random.default_rng(seed), **drawing)
    made.write(tmp_path / f"p.{suffix}")
    table = Predictions.read(tmp_path / f"p.{suffix}")
    if suffix == "csv":  # which has no last layer
        made = replace(made, head=None)
    policies, evaluations = [], []
    for predictions in (made, table):
        policies.append(Deferral(max_error=0.4, max_ood_false_alarms=0.2).fit(predictions))
        evaluations.append(evaluate(predictions, policies[-1]))
    for name in ("certificate_", "cases_"):
        first, second = (getattr(policy, name) for policy in policies)
        assert first == second
    for name in ("decisions", "measurements", "harms"):
        first, second = (getattr(evaluation, name) for evaluation in evaluations)
        assert first == second


def test_a_run_names_the_set_and_the_content_of_each_image(predicted, data, hashes):
    assert predicted.sets == SETS
    assert predicted.hashes == hashes
    assert predicted.ids == data.ids
    assert predicted.groups == ("",) * SIZE
    assert predicted.class_weights == (1.0, 1.0, 1.0)


def test_only_the_chosen_sets_are_predicted_and_each_once(run, data, predicted, monkeypatch):
    counted, original = [], predict_module.predictions_of

    def count(made, chosen, **options):
        counted.append(len(chosen))
        return original(made, chosen, **options)

    monkeypatch.setattr(predict_module, "predictions_of", count)
    ids = tuple(f"new {name}" for name in data.ids)
    fresh = replace(data, name="fresh", ids=ids, labels=data.labels[::-1])
    for _ in range(2):
        again = run.predict(fresh, sets=lambda _: {"test"})
        assert counted == [50]
        assert again.counts["calibrate"] == 125
    np.testing.assert_allclose(again.predictions.logits, predicted.in_set("test").logits, atol=1e-5)
    assert again.predictions.ids == ids[-50:]
    run.predict(data)
    assert counted == [50]
    renamed = run.predict(replace(fresh, ids=data.ids, labels=data.labels), sets=lambda _: {"test"})
    assert counted == [50]  # the same content: what is kept is used with the new names and labels
    assert renamed.predictions.ids == data.ids[-50:]
    np.testing.assert_array_equal(renamed.predictions.labels, data.labels[-50:])


def test_damaged_predictions_in_a_run_are_made_again(run, data):
    first = run.predict(data, sets=lambda _: {"tune"}).predictions
    path = run.folder / "predictions" / sha256_of(b"noisy")[:16] / "tune.npz"
    path.write_bytes(path.read_bytes()[:100])
    again = run.predict(data, sets=lambda _: {"tune"}).predictions
    np.testing.assert_array_equal(first.logits, again.logits)
    assert len(Predictions.read(path)) == 75


def test_a_policy_needs_training_images(run, data):
    with pytest.raises(DataError, check=naming("training_data")):
        run.predict(data.select(np.arange(125, 200)), sets=lambda _: {"train", "tune"})


def test_new_images_keep_paths_readers_and_metadata_beside_training_images(
    run, data, tmp_path, monkeypatch
):
    named = {"noisy": data}
    monkeypatch.setattr(predict_module, "load_dataset", lambda given: named.get(given, given))
    pixels = noisy_set(3, seed=99).images
    paths = tuple(tmp_path / f"{row}.png" for row in range(3))
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    new = replace(
        data.select(np.arange(3)),
        name="new",
        images=tuple(map(FileImage, paths)),
        metadata={"age": ("30", "40", "50"), "reader_ann": (data.classes[1], "", data.classes[0])},
    )
    predicted = run.predict(new, training_data="noisy").predictions
    assert predicted.sets == ("",) * 3 + ("train",) * 100
    assert predicted.ids[:4] == (*data.ids[:3], f"{data.ids[0]} (training)")
    assert predicted.paths == (*map(str, paths), *[""] * 100)
    assert predicted.metadata == {"age": ("30", "40", "50", *[""] * 100)}
    assert predicted.readers["ann"].tolist() == [1, -1, 0, *[-1] * 100]
