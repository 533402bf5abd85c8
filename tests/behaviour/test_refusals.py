"""What is refused, with which status and in which words, over both protocols."""

import numpy as np
import pytest
from protocol_clients import Array, Client, refused

from gateway.frontends.status import Code


def arithmetic(rows: int = 1) -> dict[str, Array]:
    return {
        "a": np.ones((rows, 3), np.float32),
        "b": np.ones((rows, 3), np.float32),
        "c": np.ones((rows, 1), np.int64),
    }


def test_an_unknown_model_is_not_found(client: Client) -> None:
    with refused(client, Code.NOT_FOUND, "Request for unknown model: 'nothing' is not found"):
        client.infer("nothing", arithmetic())


def test_an_unknown_version_is_not_found(client: Client) -> None:
    with refused(client, Code.NOT_FOUND, "Request for unknown model: 'arithmetic' version 7 is not found"):
        client.infer("arithmetic", arithmetic(), version="7")


@pytest.mark.parametrize("version", ["one", "-1", "1.0", "01"])
def test_a_version_that_is_no_number_is_not_found(client: Client, version: str) -> None:
    with refused(client, Code.NOT_FOUND, f"Request for unknown model: 'arithmetic' version {version} is not found"):
        client.infer("arithmetic", arithmetic(), version=version)


def test_an_unserved_version_is_not_found(client: Client) -> None:
    with refused(client, Code.NOT_FOUND, "'tabular' version 1 is not"):
        client.infer("tabular", {"features": np.zeros((1, 30), np.float32)}, version="1")


def test_a_batch_may_be_too_large(client: Client) -> None:
    with refused(client, Code.INVALID_ARGUMENT, "inference request batch-size must be <= 8 for 'arithmetic'"):
        client.infer("arithmetic", arithmetic(9))


def test_inputs_must_agree_on_the_batch(client: Client) -> None:
    inputs = arithmetic() | {"c": np.ones((2, 1), np.int64)}
    with refused(client, Code.INVALID_ARGUMENT, "arithmetic"):
        client.infer("arithmetic", inputs)


@pytest.mark.parametrize("shape", [(1, 4), (3,), (1, 3, 1)], ids=str)
def test_a_wrong_shape_is_named(client: Client, shape: tuple[int, ...]) -> None:
    inputs = arithmetic() | {"a": np.ones(shape, np.float32)}
    with refused(client, Code.INVALID_ARGUMENT, "unexpected shape for input 'a' for model 'arithmetic'", "[-1,3]"):
        client.infer("arithmetic", inputs)


def test_a_wrong_datatype_is_named(client: Client) -> None:
    inputs = arithmetic() | {"a": np.ones((1, 3), np.int32)}
    text = "inference input 'a' data-type is 'INT32', but model 'arithmetic' expects 'FP32'"
    with refused(client, Code.INVALID_ARGUMENT, text):
        client.infer("arithmetic", inputs)


def test_an_unknown_input_is_named(client: Client) -> None:
    inputs = arithmetic() | {"d": np.ones((1, 3), np.float32)}
    with refused(client, Code.INVALID_ARGUMENT, "'arithmetic'"):
        client.infer("arithmetic", inputs)


def test_an_input_of_another_name_is_unexpected(client: Client) -> None:
    inputs = {"a": np.ones((1, 3), np.float32), "z": np.ones((1, 3), np.float32), "c": np.ones((1, 1), np.int64)}
    with refused(client, Code.INVALID_ARGUMENT, "unexpected inference input 'z' for model 'arithmetic'"):
        client.infer("arithmetic", inputs)


def test_an_unknown_output_is_named(client: Client) -> None:
    with refused(client, Code.INVALID_ARGUMENT, "unexpected inference output 'z' for model 'arithmetic'"):
        client.infer("arithmetic", arithmetic(), outputs=["z"])


def test_a_missing_input_is_named(client: Client) -> None:
    inputs = arithmetic()
    del inputs["b"]
    with refused(client, Code.INVALID_ARGUMENT, "expected 3 inputs but got 2 inputs for model 'arithmetic'", "b"):
        client.infer("arithmetic", inputs)


def test_a_duplicate_output_is_named(client: Client) -> None:
    with refused(client, Code.INVALID_ARGUMENT, "output 'sum' already exists in request"):
        client.infer("arithmetic", arithmetic(), outputs=["sum", "sum"])


def test_a_refusal_leaves_the_connection_usable(client: Client) -> None:
    for _ in range(3):
        with refused(client, Code.NOT_FOUND):
            client.infer("nothing", arithmetic())
        assert client.infer("arithmetic", arithmetic()).outputs["sum"].tolist() == [[2, 2, 2]]
