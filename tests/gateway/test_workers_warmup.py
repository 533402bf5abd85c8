"""What is run before a model is called ready, seen by a backend that notes it down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gateway.backends import BackendError, Batch, Output, strings
from gateway.workers.spec import InstanceSpec, TensorSpec, WarmupBatch, WarmupInput
from gateway.workers.warmup import warm_up


class Noting:
    """Keeps the batches, as (position, array, shape) lists, and takes `seconds` for each row on the test's clock."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("words", "BYTES", (-1, -1)))
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, seconds: float = 0.0, failure: Exception | None = None) -> None:
        self.now = 0.0
        self.batches: list[list[tuple[int, np.ndarray, tuple[int, ...]]]] = []
        self._seconds = seconds
        self._failure = failure

    def execute(self, batch: Batch) -> Sequence[Output]:
        self.batches.append([(index, array, batch.shape_of(at)) for at, (index, array) in enumerate(batch.inputs)])
        self.now += self._seconds * batch.shape_of(0)[0]
        if self._failure is not None:
            raise self._failure
        return []

    def sizes(self) -> list[int]:
        return [batch[0][2][0] for batch in self.batches]


def spec(max_batch_size: int = 16, path: Path = Path("m/1/model.onnx"), *batches: WarmupBatch) -> InstanceSpec:
    return InstanceSpec("m", "1", path, max_batch_size=max_batch_size, warmup=batches)


def warmed(backend: Noting, of: InstanceSpec) -> tuple[tuple[int, float], ...]:
    return warm_up(backend, of, lambda: backend.now)  # type: ignore[arg-type]


def test_by_default_one_row_and_the_largest_batch_run_twice_each() -> None:
    backend = Noting(seconds=0.01)
    timings = warmed(backend, spec())
    assert backend.sizes() == [1, 1, 16, 16]
    assert [(rows, round(seconds, 6)) for rows, seconds in timings] == [(1, 0.01), (16, 0.16)]


def test_default_rows_are_zeros_and_empty_strings_of_the_declared_shapes() -> None:
    backend = Noting()
    warmed(backend, spec())
    (first, x, x_shape), (second, words, words_shape) = backend.batches[0]
    assert (first, x_shape, x.dtype, x.any()) == (0, (1, 3), np.float32, False)
    assert (second, words_shape) == (1, (1, 1))
    assert strings.from_raw(words, words_shape).tolist() == [[b""]]


def test_a_slow_model_is_warmed_up_with_a_batch_that_takes_about_a_second() -> None:
    backend = Noting(seconds=0.25)
    warmed(backend, spec())
    assert backend.sizes() == [1, 1, 4, 4]


def test_a_batch_larger_than_a_slot_is_not_tried() -> None:
    backend = Noting()
    warmed(backend, InstanceSpec("m", "1", Path("m"), max_batch_size=64, slot_bytes=160))
    assert max(backend.sizes()) == 10


def test_a_model_without_a_batch_dimension_is_run_as_it_is() -> None:
    backend = Noting()
    backend.inputs = (TensorSpec("x", "FP32", (7, 3)),)
    warmed(backend, spec(0))
    assert [batch[0][2] for batch in backend.batches] == [(7, 3), (7, 3)]


@pytest.mark.parametrize("failure", [BackendError("zeros will not do"), RuntimeError("nor this")])
def test_the_default_failing_says_nothing(failure: Exception) -> None:
    assert warmed(Noting(failure=failure), spec()) == ()


def test_configured_batches_replace_the_default_and_run_as_often_as_asked() -> None:
    inputs = (WarmupInput("words", "BYTES", (2,), "random"), WarmupInput("x", "FP32", (3,), "random"))
    backend = Noting()
    warmed(backend, spec(16, Path("m"), WarmupBatch("usual", 4, inputs, count=3)))
    assert len(backend.batches) == 3
    (first, words, words_shape), (second, x, x_shape) = backend.batches[0]
    assert (first, words_shape) == (1, (4, 2))
    assert strings.from_raw(words, words_shape).size == 8
    assert (second, x_shape) == (0, (4, 3))
    assert 0 < x.mean() < 1


def test_random_values_are_the_same_at_every_start() -> None:
    batch = WarmupBatch("usual", 4, (WarmupInput("x", "FP32", (3,), "random"),))
    first, second = Noting(), Noting()
    for backend in (first, second):
        warmed(backend, spec(16, Path("m"), batch))
    np.testing.assert_array_equal(first.batches[0][0][1], second.batches[0][0][1])


@pytest.mark.parametrize(
    "datatype",
    ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16"],
)
@pytest.mark.parametrize("data", ["zero", "random"])
def test_values_of_every_datatype_can_be_made(datatype: str, data: str) -> None:
    backend = Noting()
    backend.inputs = (TensorSpec("x", datatype, (-1, 3)),)
    batch = WarmupBatch("any", 2, (WarmupInput("x", datatype, (3,), data),))  # type: ignore[arg-type]
    warmed(backend, spec(16, Path("m"), batch))
    assert backend.batches[0][0][1].shape == (2, 3)
    if datatype in ("FP16", "FP32", "FP64"):
        assert np.isfinite(backend.batches[0][0][1]).all()


@pytest.mark.parametrize("rows", [1, 4], ids=["one row", "the whole batch"])
def test_a_file_holds_one_row_or_the_whole_batch(tmp_path: Path, rows: int) -> None:
    data = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.raw").write_bytes(data.tobytes())
    batch = WarmupBatch("file", 4, (WarmupInput("x", "FP32", (3,), "file", "x.raw"),))
    backend = Noting()
    warmed(backend, spec(16, tmp_path / "1" / "model.onnx", batch))
    np.testing.assert_array_equal(backend.batches[0][0][1], np.broadcast_to(data, (4, 3)))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (WarmupInput("y", "FP32", (3,)), "which the model lacks"),
        (WarmupInput("x", "FP64", (3,)), "which the model lacks"),
        (WarmupInput("x", "FP32", (-1,)), "leaves a dimension"),
        (WarmupInput("x", "FP32", (3,), "file", "absent"), "cannot read 'absent'"),
        (WarmupInput("x", "FP32", (3,), "file", "../../secret"), "outside the model's warmup folder"),
        (WarmupInput("x", "FP32", (3,), "file", "short"), "has 5 bytes, 48 are needed"),
    ],
)
def test_a_configured_batch_that_cannot_be_made_keeps_the_model_from_being_ready(
    tmp_path: Path, given: WarmupInput, reason: str
) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "short").write_bytes(b"12345")
    with pytest.raises(BackendError) as refused:
        warmed(Noting(), spec(16, tmp_path / "1" / "model.onnx", WarmupBatch("mine", 4, (given,))))
    assert reason in refused.value.message
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize(
    ("failure", "told"), [(BackendError("out of bounds"), "out of bounds"), (RuntimeError("secret"), "RuntimeError")]
)
def test_a_configured_batch_that_fails_keeps_the_model_from_being_ready(failure: Exception, told: str) -> None:
    batch = WarmupBatch("mine", 4, (WarmupInput("x", "FP32", (3,)),))
    with pytest.raises(BackendError) as refused:
        warmed(Noting(failure=failure), spec(16, Path("m"), batch))
    assert refused.value.message == f"warm-up 'mine' failed: {told}"
