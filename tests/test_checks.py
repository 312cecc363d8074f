"""Arguments and results are checked while tests run; see `conftest.py`."""

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from misgiving.csv_tables import escape_formulas
from misgiving.losses import ranking_loss
from misgiving.scores.logits import LOGIT_SCORES

CALLS = {
    "a text": lambda: escape_formulas(3),
    "a number": lambda: ranking_loss(torch.zeros(3), torch.zeros(3), margin=1),
    "the axes of an array": lambda: LOGIT_SCORES["msp"](np.zeros(3)),
    "sizes that must agree": lambda: ranking_loss(torch.zeros(3), torch.zeros(4)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_an_annotation_does_not_allow_is_refused_in_tests(call):
    with pytest.raises(BeartypeCallHintViolation):
        call()
