import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from coloured import coloured_set
from safetensors.torch import load_file, save_file

from misgiving.data.preprocessing import AugmentationSettings
from misgiving.errors import DataError, StoppedError
from misgiving.models.joint import JointClassifier
from misgiving.training.config import TrainingConfig
from misgiving.training.loop import seeded, train
from misgiving.training.resume import NO_FILE, ResumeFile, stop_on_sigterm

CONFIG = TrainingConfig(
    epochs=3, batch_size=8, learning_rate=1e-2, decay_every=1, keep="best", device="cpu", seed=5
)


def trained(images, *, resume=NO_FILE, stop_after=None, config=CONFIG):
    """A model, trained from the same first weights; asked to stop after so many steps in all."""
    with seeded(5):
        model = JointClassifier("vgg16_mini", num_classes=3, pretrained=False)
    steps = []
    history = train(
        model,
        images,
        coloured_set(size=12, seed=1),
        config,
        augmentation=AugmentationSettings(),
        on_step=steps.append,
        resume=resume,
        stop=lambda: len(steps) == stop_after,
    )
    return model, history, steps


def stopped(images, resume_file, after=1):
    with pytest.raises(StoppedError):
        trained(images, resume=resume_file, stop_after=after)
    return resume_file.path.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted():
    return trained(coloured_set())


@pytest.fixture
def resume_file(tmp_path):
    return ResumeFile(path=tmp_path / "run.unfinished.safetensors", identity={"seed": 5})


@pytest.mark.parametrize("stops", [[3], [4, 2], [1, 1, 1, 1, 1, 1, 1, 1]])
def test_a_training_that_was_stopped_ends_in_the_same_weights_and_history(
    images, uninterrupted, resume_file, stops
):
    """It reports the epoch and the step where it resumes."""
    places = []
    for after in stops:
        stopped(images, resume_file, after)
    resuming = replace(resume_file, on_resume=lambda *place: places.append(place))
    model, history, steps = trained(images, resume=resuming)
    expected, expected_history, all_steps = uninterrupted
    assert steps == all_steps[sum(stops) :]
    assert places == [(1 + (sum(stops) - 1) // 3, 1 + (sum(stops) - 1) % 3)]
    assert history == expected_history
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_the_state_of_another_training_is_refused_or_overwritten_on_request(
    images, uninterrupted, resume_file
):
    """Without a file for it, a training is stopped all the same."""
    with pytest.raises(StoppedError):
        trained(images, stop_after=1)
    content = stopped(images, resume_file, after=4)
    other = replace(resume_file, identity={"seed": 6})
    with pytest.raises(DataError):
        trained(images, resume=other)
    assert resume_file.path.read_bytes() == content
    _, history, steps = trained(images, resume=replace(other, overwrite=True))
    assert (history, steps) == uninterrupted[1:]


DAMAGE = (
    lambda path: path.write_bytes(path.read_bytes()[:-100]),
    lambda path: path.write_bytes(b"\x80\x04pickle"),
    lambda path: save_file(load_file(path), path),  # without its facts
)


def test_a_damaged_state_is_refused_by_name(images, resume_file):
    content = stopped(images, resume_file)
    for damage in DAMAGE:
        resume_file.path.write_bytes(content)
        damage(resume_file.path)
        with pytest.raises(DataError, match=resume_file.path.name):
            trained(images, resume=resume_file)


def asked_to_stop():
    with stop_on_sigterm() as stop:
        return stop()


def test_the_first_sigterm_asks_and_the_second_acts_in_the_main_thread_alone():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("acted"))
    try:
        with stop_on_sigterm() as stop:
            assert not stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stop(), heard) == (True, [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == ["acted"]
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["acted", "acted"]
    finally:
        signal.signal(signal.SIGTERM, before)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asked_to_stop).result() is False
