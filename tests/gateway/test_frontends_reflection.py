import pytest
from frontend_fakes import FakeCall
from google.protobuf import descriptor_pb2

from gateway.frontends.reflection import Reflection
from gateway.frontends.status import Code
from gateway.pb import inference_pb2, reflection_pb2, reflection_v1alpha_pb2
from gateway.pb import reflection_pb2 as pb

REFLECTION = Reflection(inference_pb2.DESCRIPTOR.pool, ["b.Second", "a.First"])


def ask(**question: object) -> pb.ServerReflectionResponse:
    return REFLECTION.answer(pb.ServerReflectionRequest(host="here", **question))  # type: ignore[arg-type]


def files(response: pb.ServerReflectionResponse) -> list[str]:
    found = response.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(each).name for each in found]


def test_services_are_listed_in_order() -> None:
    assert [each.name for each in ask(list_services="").list_services_response.service] == ["a.First", "b.Second"]


def test_an_answer_repeats_its_question() -> None:
    response = ask(list_services="*")
    assert (response.valid_host, response.original_request.list_services) == ("here", "*")


def test_a_file_comes_with_what_it_imports() -> None:
    assert files(ask(file_by_filename="inference.proto")) == ["inference.proto", "model_config.proto"]


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest.InferInputTensor",
        "inference.ModelInferRequest",
    ],
)
def test_a_symbol_is_found_in_its_file(symbol: str) -> None:
    assert files(ask(file_containing_symbol=symbol))[0] == "inference.proto"


@pytest.mark.parametrize("module", [reflection_pb2, reflection_v1alpha_pb2])
def test_reflection_reflects_itself(module: object) -> None:
    (service,) = module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
    assert files(ask(file_containing_symbol=service.full_name)) == [service.file.name]


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "nothing.proto"},
        {"file_containing_symbol": "inference.Nothing"},
        {"all_extension_numbers_of_type": "inference.Nothing"},
        {"file_containing_extension": pb.ExtensionRequest(containing_type="inference.ModelConfig", extension_number=9)},
        {},
    ],
    ids=lambda question: next(iter(question), "nothing"),
)
def test_what_is_unknown_is_an_error_in_the_answer(question: dict[str, object]) -> None:
    assert ask(**question).error_response.error_code == Code.NOT_FOUND


def test_a_message_has_no_extensions() -> None:
    response = ask(all_extension_numbers_of_type="inference.ModelConfig")
    assert response.all_extension_numbers_response.base_type_name == "inference.ModelConfig"
    assert not response.all_extension_numbers_response.extension_number


def test_a_call_answers_each_question_and_ends_with_its_caller() -> None:
    call = FakeCall("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    REFLECTION.open(call)
    question = pb.ServerReflectionRequest(list_services="").SerializeToString()
    call.receive(question, question)
    assert (len(call.sent), call.code) == (2, None)
    call.receive(end=True)
    assert call.code == 0


def test_an_unreadable_question_ends_the_call() -> None:
    call = FakeCall("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    REFLECTION.open(call)
    call.receive(b"\x1a\xff")
    assert call.code == Code.INVALID_ARGUMENT


def test_a_drain_ends_every_call_and_those_that_still_come() -> None:
    reflection = Reflection(inference_pb2.DESCRIPTOR.pool, ["a.First"])
    early, gone, over, late = (FakeCall("/reflection") for _ in range(4))
    for call in (early, gone, over):
        reflection.open(call)
    gone.cancel()
    over.receive(end=True)
    reflection.drain()
    reflection.open(late)
    assert [call.code for call in (early, gone, over, late)] == [Code.UNAVAILABLE, None, Code.OK, Code.UNAVAILABLE]
