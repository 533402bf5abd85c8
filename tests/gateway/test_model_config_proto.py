"""The generated messages: the same names, numbers and types as the protocol's, fresh, and able to live beside another
copy of them."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor

from gateway import pb
from gateway.pb import generate, model_config_pb2

theirs = pytest.importorskip("tritonclient.grpc.model_config_pb2")


def messages(descriptors: list[Descriptor]) -> dict[str, Descriptor]:
    found = {}
    for descriptor in descriptors:
        found |= {descriptor.full_name: descriptor} | messages(list(descriptor.nested_types))
    return found


def fields(descriptor: Descriptor) -> dict[str, tuple[object, ...]]:
    return {
        field.name: (
            field.number,
            field.type,
            isinstance(getattr(type_of(field), "full_name", None), str) and type_of(field).full_name,
            field.has_presence,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in descriptor.fields
    }


def type_of(field):
    return field.message_type or field.enum_type


def enums(file: FileDescriptor) -> dict[str, list[tuple[str, int]]]:
    def values(enum: EnumDescriptor) -> list[tuple[str, int]]:
        return [(value.name, value.number) for value in enum.values]

    found = {enum.full_name: values(enum) for enum in file.enum_types_by_name.values()}
    for message in messages(list(file.message_types_by_name.values())).values():
        found |= {enum.full_name: values(enum) for enum in message.enum_types}
    return found


def test_every_message_has_the_fields_that_clients_know():
    ours = messages(list(model_config_pb2.DESCRIPTOR.message_types_by_name.values()))
    known = messages(list(theirs.DESCRIPTOR.message_types_by_name.values()))
    assert ours.keys() == known.keys()
    for name, descriptor in known.items():
        assert fields(ours[name]) == fields(descriptor), name


def test_every_enum_has_the_values_that_clients_know():
    assert enums(model_config_pb2.DESCRIPTOR) == enums(theirs.DESCRIPTOR)


def test_the_two_copies_read_each_others_bytes_in_one_process():
    config = model_config_pb2.ModelConfig(name="tabular", max_batch_size=8)
    config.dynamic_batching.priority_queue_policy[1].max_queue_size = 3
    known = theirs.ModelConfig.FromString(config.SerializeToString())
    assert known.dynamic_batching.priority_queue_policy[1].max_queue_size == 3
    assert model_config_pb2.ModelConfig.FromString(known.SerializeToString()) == config
    assert known.DESCRIPTOR.file.pool is not config.DESCRIPTOR.file.pool


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_the_two_copies_can_be_imported_in_either_order(first: str):
    imports = ["import gateway.pb.model_config_pb2", "import tritonclient.grpc.service_pb2"]
    imports += [f"import gateway.pb.{path.stem}" for path in Path(pb.__file__).parent.glob("*_pb2.py")]
    program = "; ".join(imports if first == "ours" else reversed(imports))
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_messages_pickle():
    config = model_config_pb2.ModelConfig(name="tabular")
    assert pickle.loads(pickle.dumps(config)) == config


def test_generated_code_is_fresh():
    pytest.importorskip("grpc_tools")
    folder = Path(pb.__file__).parent
    assert {path.name: path.read_text() for path in folder.glob("*_pb2.py*")} == dict(generate.generate())


def test_a_file_that_does_not_compile_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    pytest.importorskip("grpc_tools")
    (tmp_path / "broken.proto").write_text("message {")
    with pytest.raises(generate.GenerationFailed):
        generate.generate(tmp_path)
    assert "broken.proto" in capfd.readouterr().err


def test_files_of_protobuf_itself_can_be_imported(tmp_path: Path):
    pytest.importorskip("grpc_tools")
    (tmp_path / "uses_any.proto").write_text(
        'syntax = "proto3"; import "google/protobuf/any.proto"; message Holder { google.protobuf.Any held = 1; }'
    )
    text = generate.generate(tmp_path)["uses_any_pb2.py"]
    assert text.index("POOL.AddSerializedFile(google_dot_protobuf_dot_any__pb2") < text.index("\nDESCRIPTOR = ")


def test_writing_removes_what_is_no_longer_generated(tmp_path: Path):
    (tmp_path / "old_pb2.py").write_text("")
    generate.write({"new_pb2.py": "text"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new_pb2.py"]
