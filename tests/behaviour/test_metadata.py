"""What the gateway says of itself and of its models, over both protocols."""

import numpy as np
import pytest
from live_gateway import NUMBERS, Gateway
from protocol_clients import Client, refused

from gateway.frontends.status import Code


def test_the_server_is_live_and_ready(client: Client) -> None:
    assert client.is_live()
    assert client.is_ready()


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [("which", "", True), ("which", "2", True), ("which", "7", False), ("nothing", "", False)],
)
def test_a_model_or_version_is_ready_or_not(client: Client, model: str, version: str, ready: bool) -> None:
    assert client.is_model_ready(model, version) is ready


def test_the_server_advertises_what_it_has(client: Client) -> None:
    metadata = client.server_metadata()
    assert metadata["name"] == "sluice"
    assert {"binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters"} <= set(
        metadata["extensions"]
    )
    assert "statistics" in metadata["extensions"]
    assert "system_shared_memory" not in metadata["extensions"]


def test_model_metadata_has_a_free_first_dimension_when_the_model_batches(client: Client) -> None:
    metadata = client.model_metadata("tabular")
    assert metadata["name"] == "tabular"
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 30]}]
    assert metadata["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 2]}]


def test_model_metadata_without_a_batch_dimension_is_as_the_model_says(client: Client) -> None:
    metadata = client.model_metadata("unbatched")
    assert metadata["inputs"][0]["shape"] == [2, 3]
    assert metadata["outputs"][0]["shape"] == [3, 2]


def test_versions_are_listed(client: Client) -> None:
    assert sorted(client.model_metadata("which")["versions"], key=int) == ["1", "2", "10"]


def test_the_newest_version_alone_is_served_by_default(client: Client) -> None:
    assert client.model_metadata("tabular")["versions"] == ["2"]


def test_every_datatype_has_its_name(client: Client) -> None:
    datatypes = {each["name"]: each["datatype"] for each in client.model_metadata("datatypes")["inputs"]}
    assert sorted(datatypes.values()) == sorted(NUMBERS)
    assert all(name == f"in_{datatype}" for name, datatype in datatypes.items())


def test_a_configuration_is_completed_from_the_model(client: Client) -> None:
    config = client.model_config("tabular")
    assert config["name"] == "tabular"
    assert config["max_batch_size"] >= 1
    (features,) = config["input"]
    assert (features["name"], features["data_type"], features["dims"]) == ("features", "TYPE_FP32", [30])
    assert "dynamic_batching" in config
    assert config["version_policy"]["latest"]["num_versions"] == 1


def test_a_configuration_leaves_out_what_is_not_set(client: Client) -> None:
    config = client.model_config("tabular")
    assert "model_transaction_policy" not in config
    assert "response_cache" not in config


def test_a_written_configuration_is_kept(client: Client) -> None:
    config = client.model_config("labelled")
    assert config["max_batch_size"] == 8
    assert config["output"][0]["label_filename"] == "labels.txt"


@pytest.mark.parametrize("ask", ["model_metadata", "model_config"])
def test_an_unknown_model_is_not_found(client: Client, ask: str) -> None:
    with refused(client, Code.NOT_FOUND, "Request for unknown model: 'nothing' is not found"):
        getattr(client, ask)("nothing")


@pytest.mark.parametrize("ask", ["model_metadata", "model_config"])
def test_an_unknown_version_is_not_found(client: Client, ask: str) -> None:
    with refused(client, Code.NOT_FOUND, "Request for unknown model: 'which' version 7 is not found"):
        getattr(client, ask)("which", "7")


def test_statistics_of_an_unknown_model_are_a_bad_request(client: Client) -> None:
    with refused(client, Code.INVALID_ARGUMENT, "requested model 'nothing' is not available"):
        client.statistics("nothing")


def test_a_name_with_spaces_and_accents_works(client: Client) -> None:
    assert client.is_model_ready("café au lait")
    assert client.model_metadata("café au lait")["name"] == "café au lait"


def test_statistics_count_requests_rows_and_batches(client: Client) -> None:
    (before,) = client.statistics("arithmetic")
    inputs = {
        "a": np.ones((3, 3), np.float32),
        "b": np.ones((3, 3), np.float32),
        "c": np.ones((3, 1), np.int64),
    }
    client.infer("arithmetic", inputs)
    client.infer("arithmetic", inputs)
    (after,) = client.statistics("arithmetic")
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 2
    assert after["last_inference"] >= before["last_inference"]
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        earlier, later = before["inference_stats"][name], after["inference_stats"][name]
        assert later["count"] - earlier["count"] == 2, name
        assert later["ns"] >= earlier["ns"]
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert any(batch["batch_size"] == 3 for batch in after["batch_stats"])


def test_statistics_have_what_load_generators_read_as_unsigned_numbers(client: Client) -> None:
    for each in client.statistics():
        assert type(each["inference_count"]) is type(each["execution_count"]) is int
        assert set(each["inference_stats"]) == {
            "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
        }  # fmt: skip
        for duration in each["inference_stats"].values():
            assert duration["count"] >= 0
            assert duration["ns"] >= 0
        counts = {each["inference_stats"][f"compute_{part}"]["count"] for part in ("input", "infer", "output")}
        assert len(counts) == 1


def test_a_failed_request_counts_as_failed(client: Client) -> None:
    (before,) = client.statistics("arithmetic")
    with refused(client, Code.INVALID_ARGUMENT):
        client.infer("arithmetic", {"a": np.ones((1, 3), np.float32)})
    (after,) = client.statistics("arithmetic")
    assert after["inference_stats"]["fail"]["count"] == before["inference_stats"]["fail"]["count"] + 1
    assert after["inference_stats"]["success"] == before["inference_stats"]["success"]


def test_statistics_of_all_models_name_each_served_version(client: Client) -> None:
    named = {(each["name"], each["version"]) for each in client.statistics()}
    assert {("which", "1"), ("which", "2"), ("which", "10"), ("tabular", "2")} <= named
    assert ("tabular", "1") not in named


def test_the_index_lists_every_version_with_its_state(client: Client) -> None:
    states = {(each["name"], each.get("version")): each.get("state") for each in client.index()}
    assert states[("which", "1")] == states[("which", "10")] == states[("tabular", "2")] == "READY"


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_control_is_refused_while_the_repository_is_polled(client: Client, verb: str) -> None:
    with refused(client, Code.UNAVAILABLE, "explicit model load / unload is not allowed if polling is enabled"):
        getattr(client, verb)("tabular")


def test_both_protocols_say_the_same(gateway: Gateway) -> None:
    from protocol_clients import connect

    http, grpc = (connect(protocol, gateway.http_url, gateway.grpc_url) for protocol in ("http", "grpc"))
    for model in ("which", "tabular", "labelled", "datatypes"):
        assert http.model_metadata(model) == grpc.model_metadata(model)
        assert http.model_config(model)["input"] == grpc.model_config(model)["input"]
    assert http.server_metadata() == grpc.server_metadata()
    assert sorted(map(str, http.index())) == sorted(map(str, grpc.index()))
    http.close()
    grpc.close()
