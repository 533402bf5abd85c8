"""What an inference request is answered with, over both protocols."""

import math

import ml_dtypes
import models
import numpy as np
import pytest
import tritonclient.http as triton
from live_gateway import NUMBERS, Gateway
from protocol_clients import Array, Client, HttpClient
from tritonclient.utils import np_to_triton_dtype

ROWS = 3
NUMPY: dict[str, type] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def features(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, 30)).astype(np.float32)


def extremes(datatype: str) -> Array:
    """Three rows of two elements, among them the least and the greatest."""
    if datatype == "BF16":
        return np.array([[0, -1], [1.5, 3.0e38], [-0.0, 1e-38]], ml_dtypes.bfloat16)
    dtype = NUMPY[datatype]
    if datatype == "BOOL":
        return np.array([[True, False], [False, True], [True, True]])
    info = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
    values = [[info.min, info.max], [0, 1], [7, 13]]
    if np.issubdtype(dtype, np.floating):
        values = [[info.min, info.max], [float(info.tiny), -0.0], [1 / 3, 0.1]]
    return np.array(values, dtype)


def every_datatype() -> dict[str, Array]:
    return {f"in_{datatype}": extremes(datatype) for datatype in NUMBERS}


def test_a_model_is_computed(client: Client) -> None:
    x = features(5)
    answer = client.infer("tabular", {"features": x})
    np.testing.assert_allclose(
        answer.outputs["scores"], models.expected(models.tabular(2), features=x)["scores"], rtol=1e-5, atol=1e-6
    )
    assert (answer.model, answer.version, answer.datatypes) == ("tabular", "2", {"scores": "FP32"})


@pytest.mark.parametrize("datatype", NUMBERS)
def test_every_datatype_goes_through_unchanged(client: Client, datatype: str) -> None:
    inputs = every_datatype()
    answer = client.infer("datatypes", inputs, outputs=[f"out_{datatype}"])
    (name,) = answer.outputs
    assert answer.datatypes[name] == datatype
    received, sent = answer.outputs[name], inputs[f"in_{datatype}"]
    assert received.shape == sent.shape
    np.testing.assert_array_equal(received, sent)
    if datatype in ("FP16", "FP32", "FP64", "BF16"):
        np.testing.assert_array_equal(np.signbit(received), np.signbit(sent))


@pytest.mark.parametrize("datatype", [each for each in NUMBERS if each not in ("FP16", "BF16")])
def test_every_datatype_that_json_carries_goes_through_unchanged(gateway: Gateway, datatype: str) -> None:
    # The client refuses to write FP16 and BF16 as JSON; test_http.py does.
    client = HttpClient(gateway.http_url)
    answer = _mixed(client, every_datatype(), f"in_{datatype}", f"out_{datatype}")
    np.testing.assert_array_equal(answer, extremes(datatype))
    client.close()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_strings_go_through_unchanged(client: Client, binary: bool) -> None:
    texts = [["", "a"], ["é€😀", 'quote " and \\'], ["\t\n\x01\0", "x" * 300]]
    x = np.array(texts, np.object_)
    answer = client.infer("text", {"x": x}, outputs=["y"], binary=binary)
    assert answer.datatypes == {"y": "BYTES"}
    assert [[_text(each) for each in row] for row in answer.outputs["y"]] == texts


def _mixed(client: HttpClient, inputs: dict[str, Array], json_input: str, json_output: str) -> Array:
    """Infers with one input and one output as JSON and the rest binary."""
    tensors = []
    for name, value in inputs.items():
        tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value, binary_data=name != json_input)
        tensors.append(tensor)
    outputs = [
        triton.InferRequestedOutput(json_output, binary_data=False),
        triton.InferRequestedOutput("out_FP16", binary_data=True),
    ]
    result = client._client.infer("datatypes", tensors, outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("out_FP16"), inputs["in_FP16"])
    array: Array = result.as_numpy(json_output)
    return array


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_goes_through_binary(client: Client, value: float) -> None:
    x = np.array([[value, 1.0]], np.float32)
    np.testing.assert_array_equal(client.infer("free", {"x": x}).outputs["y"], x)


def test_all_outputs_come_when_none_is_named(client: Client) -> None:
    a, b, c = np.float32([[1, 2, 3]]), np.float32([[4, 5, 6]]), np.array([[2**40]], np.int64)
    answer = client.infer("arithmetic", {"a": a, "b": b, "c": c})
    assert list(answer.outputs) == ["sum", "product", "next"]
    np.testing.assert_array_equal(answer.outputs["sum"], a + b)
    np.testing.assert_array_equal(answer.outputs["product"], a * b)
    assert answer.outputs["next"].tolist() == [[2**40 + 1]]


def test_only_the_named_outputs_come_and_in_the_order_named(client: Client) -> None:
    inputs = {"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float32), "c": np.ones((1, 1), np.int64)}
    assert list(client.infer("arithmetic", inputs, outputs=["next"]).outputs) == ["next"]
    assert sorted(client.infer("arithmetic", inputs, outputs=["next", "sum"]).outputs) == ["next", "sum"]


def test_the_order_of_inputs_does_not_matter(client: Client) -> None:
    inputs = {"c": np.ones((1, 1), np.int64), "b": np.ones((1, 3), np.float32), "a": np.zeros((1, 3), np.float32)}
    assert client.infer("arithmetic", inputs).outputs["sum"].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("id", ["42", "é–😀", "x" * 200, 'with "quotes"'])
def test_an_id_comes_back(client: Client, id: str) -> None:
    assert client.infer("free", {"x": np.ones((1, 1), np.float32)}, id=id).id == id


def test_no_id_is_invented(client: Client) -> None:
    assert client.infer("free", {"x": np.ones((1, 1), np.float32)}).id is None


@pytest.mark.parametrize(("version", "number"), [("1", 1), ("2", 2), ("10", 10), ("", 10)])
def test_a_version_can_be_pinned_and_the_highest_is_the_default(client: Client, version: str, number: int) -> None:
    answer = client.infer("which", {"x": np.ones((1, 1), np.float32)}, version=version)
    assert (answer.version, answer.outputs["version"].tolist()) == (str(number), [[number]])


def test_a_model_without_a_batch_dimension_is_served(client: Client) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(client.infer("unbatched", {"x": x}).outputs["y"], x.T)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_classification_gives_the_best_with_their_labels(client: Client, binary: bool) -> None:
    x = np.float32([[0.1, 0.4, 0.2, 0.3], [4, 3, 2, 1]])
    answer = client.infer("labelled", {"x": x}, outputs=["y"], classification=3, binary=binary)
    assert answer.datatypes == {"y": "BYTES"}
    rows = [[_text(each) for each in row] for row in answer.outputs["y"]]
    assert rows == [
        ["0.400000:1:one", "0.300000:3", "0.200000:2:two"],
        ["4.000000:0:zero", "3.000000:1:one", "2.000000:2:two"],
    ]


def test_classification_of_more_than_there_is_gives_what_there_is(client: Client) -> None:
    answer = client.infer("labelled", {"x": np.float32([[1, 2, 3, 4]])}, outputs=["y"], classification=9)
    assert answer.outputs["y"].shape == (1, 4)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize("shape", [(1, 0), (3, 0)])
def test_a_tensor_may_be_empty(client: Client, shape: tuple[int, int]) -> None:
    answer = client.infer("free", {"x": np.zeros(shape, np.float32)})
    assert answer.outputs["y"].shape == shape


def test_empty_strings_are_elements(client: Client) -> None:
    x = np.array([[b"", b""]], np.object_)
    assert client.infer("text", {"x": x}).outputs["y"].tolist() == [[b"", b""]]


@pytest.mark.parametrize("columns", [150_000, 2_000_000], ids=["600kB", "8MB"])
def test_a_large_tensor_goes_through(client: Client, columns: int) -> None:
    x = np.random.default_rng(1).normal(size=(1, columns)).astype(np.float32)
    np.testing.assert_array_equal(client.infer("free", {"x": x}).outputs["y"], x)


def test_a_small_request_may_have_a_large_answer(client: Client) -> None:
    answer = client.infer("wide", {"x": np.float32([[1], [2], [3]])})
    assert answer.outputs["y"].shape == (3, 65536)
    assert (answer.outputs["y"] == [[1], [2], [3]]).all()


def test_many_strings_go_through(client: Client) -> None:
    x = np.array([[f"element {i}".encode() * (i % 7) for i in range(5000)]], np.object_)
    np.testing.assert_array_equal(client.infer("text", {"x": x}).outputs["y"], x)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compression_changes_nothing(client: Client, compression: str) -> None:
    x = np.zeros((4, 5000), np.float32)
    x[1, 2] = 3
    answer = client.infer("free", {"x": x}, compression=compression)
    np.testing.assert_array_equal(answer.outputs["y"], x)


def test_a_model_with_accents_and_spaces_answers(client: Client) -> None:
    answer = client.infer("café au lait", {"x": np.ones((1, 1), np.float32)})
    assert answer.model == "café au lait"


def test_custom_parameters_are_tolerated(client: Client) -> None:
    answer = client.infer("free", {"x": np.ones((1, 1), np.float32)}, parameters={"note": "hello", "n": 3, "b": True})
    assert answer.outputs["y"].tolist() == [[1]]


def test_a_priority_and_a_timeout_are_taken(client: Client) -> None:
    answer = client.infer("free", {"x": np.ones((1, 1), np.float32)}, priority=1, timeout_us=10_000_000)
    assert answer.outputs["y"].tolist() == [[1]]


def test_one_connection_serves_request_after_request(client: Client) -> None:
    for i in range(200):
        x = np.float32([[i, -i]])
        assert client.infer("free", {"x": x}).outputs["y"].tolist() == x.tolist()
