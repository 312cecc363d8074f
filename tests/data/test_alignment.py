import pytest

from misgiving.errors import DataError


def test_images_are_aligned_with_a_models_classes_by_name(images):
    aligned, left_out = images.align(("c", "x", "a"))
    assert left_out == 8
    assert aligned.classes == ("c", "x", "a")
    for name, label in zip(aligned.ids, aligned.labels, strict=True):
        original = images.classes[images.labels[images.ids.index(name)]]
        assert aligned.classes[label] == original


def test_data_of_other_classes_is_refused(images):
    with pytest.raises(DataError, match=r"\(a, b, c\).*\(x, y\)"):
        images.align(("x", "y"))
