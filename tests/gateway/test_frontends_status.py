import pytest

from gateway import errors
from gateway.frontends.status import HTTP_STATUS, Code, status_of


def all_errors(root: type[errors.SluiceError] = errors.SluiceError) -> list[type[errors.SluiceError]]:
    return [root, *(each for child in root.__subclasses__() for each in all_errors(child))]


EXAMPLES: list[tuple[errors.SluiceError, Code, int, str]] = [
    (errors.InvalidRequest("no"), Code.INVALID_ARGUMENT, 400, "no"),
    (errors.UnknownModel("x"), Code.NOT_FOUND, 404, "Request for unknown model: 'x' is not found"),
    (errors.UnknownVersion("x", "9"), Code.NOT_FOUND, 404, "Request for unknown model: 'x' version 9 is not found"),
    (
        errors.NoVersionAvailable("x"),
        Code.NOT_FOUND,
        404,
        "Request for unknown model: 'x' has no available versions",
    ),
    (
        errors.VersionNotReady("x", "1"),
        Code.UNAVAILABLE,
        503,
        "Request for unknown model: 'x' version 1 is not at ready state",
    ),
    (errors.NoStatistics("x"), Code.INVALID_ARGUMENT, 400, "requested model 'x' is not available"),
    (errors.NoStatistics("x", "3"), Code.INVALID_ARGUMENT, 400, "requested model 'x', version 3, is not available"),
    (errors.Unsupported("trace"), Code.UNIMPLEMENTED, 501, "trace is not supported"),
    (
        errors.ControlNotAllowed(),
        Code.UNAVAILABLE,
        503,
        "explicit model load / unload is not allowed if polling is enabled",
    ),
    (
        errors.ModelNotInRepository("x"),
        Code.INTERNAL,
        500,
        "failed to load 'x', failed to poll from model repository",
    ),
    (errors.ModelLoadFailed("x", "bad"), Code.INVALID_ARGUMENT, 400, "load failed for model 'x': bad"),
    (errors.LoadFailed("x", "1", "bad"), Code.INVALID_ARGUMENT, 400, "load failed for model 'x' version 1: bad"),
]


@pytest.mark.parametrize(("error", "code", "http", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_an_error_has_the_status_and_text_that_clients_know(
    error: errors.SluiceError, code: Code, http: int, text: str
) -> None:
    status = status_of(error)
    assert status is not None
    assert (status.code, status.http, status.text) == (code, http, text)


def test_an_error_of_nobody_has_no_status() -> None:
    assert status_of(ValueError("oops")) is None


def test_every_code_has_an_http_status() -> None:
    assert len(HTTP_STATUS) == len(Code) == 17
    assert HTTP_STATUS[0] == 200
    assert all(400 <= status < 600 for status in HTTP_STATUS[1:])


def test_every_error_of_a_request_has_a_row_of_its_own_or_of_its_parent() -> None:
    roots = {errors.SluiceError, errors.RequestError, errors.ModelError, errors.SettingsError, errors.StartFailed}
    examples = {type(error) for error, *_ in EXAMPLES} | {errors.NotServing, errors.ConfigError}
    assert {cls for cls in all_errors() if cls not in roots and cls.__module__ == "gateway.errors"} <= examples


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    for cls in all_errors():
        if cls.__module__ == "gateway.errors":
            assert f"{cls.__name__} " in errors.__doc__ or f"{cls.__name__}\n" in errors.__doc__, cls


def test_an_error_prints_its_facts() -> None:
    assert str(errors.UnknownVersion("iris", "9")) == "UnknownVersion(model='iris', version='9')"
