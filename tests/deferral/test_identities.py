"""The images that a policy was fitted on, and those of other predictions among them."""

import numpy as np
import pytest

from misgiving.deferral.policy_file import Cases, Identities
from misgiving.predictions.record import Predictions


def identities(count, *, contents=None, groups=None, first=0, has_ids=True, seed=0):
    logits = np.random.default_rng(seed).normal(size=(count, 3))
    return Identities.of(
        Predictions(
            logits=logits,
            labels=np.zeros(count, dtype=int),
            classes=("a", "b", "c"),
            ids=tuple(f"{first + number}.png" for number in range(count)),
            groups=groups or ("",) * count,
            hashes=contents,
            has_ids=has_ids,
        )
    )


def hashes(*numbers):
    return tuple(f"{number:064x}" for number in numbers)


def test_no_name_of_an_image_or_of_a_group_is_kept():
    kept = identities(2, groups=("Ann Smith", ""))
    assert "Ann" not in repr(kept)
    assert "png" not in repr(kept)
    assert kept.groups[1] == ""
    assert kept.group_count == 2


def test_images_of_the_same_content_are_the_same_whatever_their_names():
    policy = identities(3, contents=hashes(1, 2, 3))
    new = identities(3, contents=hashes(9, 3, 8), first=7)
    used, related = new.among(policy)
    assert used.tolist() == [False, True, False]
    assert not related.any()


def test_a_name_does_not_make_images_of_other_content_the_same():
    used, _ = identities(2, contents=hashes(8, 9)).among(identities(2, contents=hashes(1, 2)))
    assert not used.any()


@pytest.mark.parametrize("with_contents", [0, 1])
def test_where_a_content_is_not_known_the_name_decides(with_contents):
    sides = [identities(3), identities(3)]
    sides[with_contents] = identities(3, contents=hashes(1, 2, 3))
    assert sides[0].among(sides[1])[0].all()


def test_images_without_names_are_known_by_their_outputs():
    policy = identities(20, has_ids=False)
    assert identities(20, has_ids=False).among(policy)[0].all()
    assert not identities(20, has_ids=False, seed=1).among(policy)[0].any()


def test_others_of_a_named_group_are_related_and_images_without_a_group_are_not():
    policy = identities(3, groups=("ann", "", "bo"))
    new = identities(4, first=10, groups=("bo", "", "cy", "ann"))
    used, related = new.among(policy)
    assert not used.any()
    assert related.tolist() == [True, False, False, True]


def test_others_of_the_group_of_a_used_image_are_related():
    policy = identities(1, contents=hashes(1))
    new = identities(3, contents=hashes(1, 2, 3), first=5, groups=("x", "x", ""))
    used, related = new.among(policy)
    assert (used.tolist(), related.tolist()) == ([True, False, False], [False, True, False])


def test_repeated_cases_are_counted_by_image_and_by_group():
    earlier = Cases(
        tuning=identities(2, groups=("ann", "")),
        calibration=identities(2, first=2, groups=("bo", "")),
    )
    again = Cases(
        tuning=identities(2, groups=("ann", "")),
        calibration=identities(3, first=9, groups=("bo", "bo", "")),
    ).after(earlier)
    assert (again.calibrations, again.repeated_images, again.repeated_groups) == (1, 2, 3)
    assert again.earlier == earlier.tuning + earlier.calibration
    assert again.complete
    third = Cases(tuning=identities(1, first=3), calibration=identities(1, first=50)).after(again)
    assert (third.calibrations, third.repeated_images) == (2, 1)
    assert not Cases(tuning=identities(1), calibration=identities(1)).after(None).complete
