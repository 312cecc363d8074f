"""Batches of work in threads."""

import threading

import pytest
from standin import Standin, picture
from waiting import until

from misgiving.serve import service as service_module
from misgiving.serve.service import Batcher


@pytest.mark.parametrize("retried", [True, False])
def test_a_batch_that_fails_is_tried_item_by_item_unless_none_can_have_caused_it(retried):
    def double(items):
        batches.append(list(items))
        if 0 in items:
            raise ValueError("zero")
        return [2 * item for item in items]

    batches, not_retried = [], KeyError if retried else ValueError
    batcher = Batcher("test", double, size=3, linger=600.0, not_retried=not_retried)
    first, bad, last = (batcher.submit(number) for number in (1, 0, 2))
    assert isinstance(bad.exception(60), ValueError)
    assert (first.exception(60) is None) == (last.exception(60) is None) == retried
    assert batches == [[1, 0, 2], *[[1], [0], [2]] * retried]
    fourth = batcher.submit(4)
    batcher.close()  # which finishes what is queued
    assert fourth.result(0) == 8


class Hanging(Standin):
    """Decodes nothing until it is released."""

    def __init__(self):
        self.go_on = threading.Event()

    def model_input(self, data, name):
        self.go_on.wait(60)
        return super().model_input(data, name)


def test_health_fails_while_all_decoding_threads_hang(serving, monkeypatch):
    monkeypatch.setattr(service_module, "MAX_DECODING_SECONDS", 0.0)
    model = Hanging()
    client = serving(model, timeout=0.1)
    assert client.get("/health").status_code == 200
    client.post("/decisions", content=picture(), headers={"Content-Type": "image/png"})
    until(lambda: client.get("/health").status_code == 503)
    assert "restart" in client.get("/health").json()["detail"]
    assert "misgiving_hung_threads 1.0" in client.get("/metrics").text
    model.go_on.set()
    until(lambda: client.get("/health").status_code == 200)
